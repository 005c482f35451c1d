"""What the programs of the suite decide without a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


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


def program(root: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, root / "probes" / "features" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_back_end_whose_package_is_not_there_is_not_tried(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    context = library("probelib.context")
    (tmp_path / engine).mkdir()
    (tmp_path / engine / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    module = program(root, f"{engine}_on_flashinfer")

    with pytest.raises(context.NotRun, match=r"^flashinfer is not installed$"):
        module.run(context.Context(folder=str(tmp_path)))


def test_an_engine_that_refuses_to_empty_its_cache_is_asked_again(library: Any) -> None:
    class Answer:
        def __init__(self, success: bool) -> None:
            self.success = success

    flushed = library("probelib.calls").flushed
    for answers in ([False, False, True], [Answer(success=False), Answer(success=True)], [None], [True]):
        left = list(answers)
        flushed(lambda left=left: left.pop(0), pause=0)
        assert [] == left

    with pytest.raises(RuntimeError, match="did not empty its cache"):
        flushed(lambda: Answer(success=False), seconds=0.01, pause=0)
