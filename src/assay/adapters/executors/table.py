"""The executors by name. To add one: a module of this folder with a function `executor`, and its name here.

A module is imported when its executor is made, so that help, which lists the names, stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from assay.adapters.executors.probe_executor import ExecutorSettings
    from assay.ports.executor import Executor

__all__ = ["EXECUTORS"]

_NAMES: Final = (
    "docker",
    "local",
)


def _made(name: str, settings: ExecutorSettings) -> Executor:
    made: Executor = import_module(f"assay.adapters.executors.{name}").executor(settings)
    return made


EXECUTORS: Final[Mapping[str, Callable[[ExecutorSettings], Executor]]] = {name: partial(_made, name) for name in _NAMES}
