"""What a probe's use of a package tells: an API that moved, or a fault."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PACKAGE = """
import functools

class Engine:
    def __init__(self, **arguments):
        pass

    def generate(self, prompt):
        return [None]

    def broken(self):
        return self.absent

    def mixed(self, kernel):
        return int(kernel, base="ten", other=3)

def __getattr__(name):
    raise AttributeError(f"module has no attribute {name!r}")

def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)
    return call

@logged
def kernel(x):
    raise RuntimeError("CUDA error: no kernel image is available")

@logged
def inner(x):
    return kernel(x, scale=1)
"""
# Run as a file of probes/, so that its own frames count as a probe's.
USES = """
import importlib

def attribute(package): package.Engine().flush_cache()
def module_attribute(package): package.renamed()
def argument(package): package.Engine().generate("x", return_logprob=True)
def positional(package): package.Engine(3)
def through_a_wrapper(package): package.kernel(1, scale=2)
def what_came_back(package): package.Engine().generate("x")[0].token_ids
def name(package): from moved import gone
def submodule(package): importlib.import_module("moved.gone")
def field(package): {"logprobs": []}["output_token_logprobs"]

def deep_attribute(package): package.Engine().broken()
def deep_argument(package): package.Engine().mixed("x")
def kernel_fault(package): package.kernel(1)
def inner_signature(package): package.inner(1)
def library(package): raise ImportError("libcudart.so.12: cannot open shared object file")
def symbol(package): raise ImportError("sgl.so: undefined symbol: _ZN3c10")
def own(package): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def operation(package): raise AttributeError("'_OpNamespace' '_C' object has no attribute 'rms_norm'")
def token(package): {7: -1.0}[8]
def bad_dependency(package): importlib.import_module("moved_and_bad")
"""
MOVED = (
    "attribute", "module_attribute", "argument", "positional", "through_a_wrapper", "what_came_back", "name",
    "submodule", "field",
)  # fmt: skip
FAULTS = (
    "deep_attribute", "deep_argument", "kernel_fault", "inner_signature", "library", "symbol", "own", "operation",
    "token", "bad_dependency",
)  # fmt: skip


@pytest.fixture
def use(library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BaseException]:
    """Use a package as probes do; returns what that raises."""
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "moved_and_bad").mkdir()
    (tmp_path / "moved_and_bad" / "__init__.py").write_text("import moved.gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    library("probelib.calls")
    space: dict[str, Any] = {}
    exec(compile(USES, str(root / "probes" / "features" / "uses.py"), "exec"), space)

    def run(name: str) -> BaseException:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            space[name](library("moved"))
        return caught.value

    return run


@pytest.mark.parametrize("name", MOVED)
def test_missing_api_used_by_a_probe_is_not_run(library: Any, tmp_path: Path, use: Any, name: str) -> None:
    context, run = library("probelib.context"), library("probelib.run")
    error = use(name)

    outcome, reason = run.judge(error, context.Context(folder=str(tmp_path)))

    assert ("not_run", f"API not found: {type(error).__name__}: {error}") == (outcome, reason)


@pytest.mark.parametrize("name", FAULTS)
def test_error_raised_inside_a_library_is_broken(library: Any, tmp_path: Path, use: Any, name: str) -> None:
    context, run = library("probelib.context"), library("probelib.run")

    outcome, _ = run.judge(use(name), context.Context(folder=str(tmp_path)))

    assert "broken" == outcome


def test_an_operation_whose_call_does_not_fit_has_moved(library: Any, root: Path) -> None:
    """PyTorch says so by RuntimeError, raised in torch/_ops.py."""
    space: dict[str, Any] = {}
    body = "def __call__(text): raise RuntimeError(text)"
    exec(compile(body, str(Path("site-packages") / "torch" / "_ops.py"), "exec"), space)
    own = "def use(op, text): op(text)"
    exec(compile(own, str(root / "probes" / "features" / "uses.py"), "exec"), space)
    missing_api = library("probelib.calls").missing_api

    for text, moved in (
        ("_C::rms_norm() is missing value for argument 'epsilon'. Declaration: ...", True),
        ("_C::rms_norm() expected at most 4 argument(s) but received 5 argument(s)", True),
        ("CUDA error: invalid device function", False),
    ):
        with pytest.raises(RuntimeError) as caught:
            space["use"](space["__call__"], text)
        assert moved is bool(missing_api(caught.value))


class Told:
    """Something whose signature is made, as msgspec makes it."""

    __signature__ = inspect.Signature([inspect.Parameter("model_path", inspect.Parameter.KEYWORD_ONLY)])


@dataclasses.dataclass
class Data:
    model_path: str
    context_length: int = 0


class Options:
    """Something that takes anything and tells its arguments on the command line alone."""

    def __init__(self, **arguments: Any) -> None: ...

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model-path")


class Silent:
    def __init__(self, **arguments: Any) -> None: ...


def test_a_constructor_tells_its_arguments_in_one_of_several_ways(library: Any) -> None:
    names_of = library("probelib.calls").names_of

    assert {"model_path"} == names_of(Told) == names_of(Options)
    assert {"model_path", "context_length"} == names_of(Data)
    assert set() == names_of(Silent)
