"""The executors by name. To add one: a module with such a function, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from assay.adapters.executors import docker, local
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.ports.executor import Executor

__all__ = ["EXECUTORS"]

EXECUTORS: Final[Mapping[str, Callable[[ExecutorSettings], Executor]]] = {
    "docker": docker.executor,
    "local": local.executor,
}
