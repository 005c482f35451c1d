"""What all tests share: unit tests have no network and no processes; other kinds say what they need."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does; tests are not timed.
settings.register_profile("assay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A gate gives the same answer twice; new examples are searched for at the desk and by `nox -s attack`.
settings.register_profile("ci", settings.get_profile("assay"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "assay")

ROOT = Path(__file__).parents[1]

# A shell without job control starts what it puts in the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests that need a GPU")
    parser.addoption("--farm", action="store_true", help="run the tests that start clusters on this machine, as root")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {"gpu": ("--gpu", "a GPU"), "farm": ("--farm", "clusters on this machine; `nox -s farm` runs it")}
    for name, (option, what) in wanted.items():
        if not config.getoption(option):
            skip = pytest.mark.skip(reason=f"needs {what}; run with {option}")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)


@pytest.fixture(autouse=True)
def _sealed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unit tests that forget a fake fail loudly instead of reaching out."""
    if "unit" not in Path(str(request.node.path)).parts:
        yield
        return

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a unit test reached for the network or for a process")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    yield


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def library(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a module of probes/ by name, and forget them all afterwards."""
    monkeypatch.syspath_prepend(str(root / "probes"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        del sys.modules[name]
