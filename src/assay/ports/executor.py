"""Runs jobs: on this machine or elsewhere. Jobs and results are plain data; progress and stop travel beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from assay.evidence.suite import HarnessResult
from assay.ports.jobs import JobResult, Place, ProbeJob

__all__ = ["Executor", "JobListener", "Leases", "Stop"]

Stop = threading.Event
"""Set when a run has to end; what was measured until then is in its result."""


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class JobListener:
    """Hears how a run goes, from a thread of the executor's.

    One that raises is not called again; the run goes on, and the error comes out when it has ended.
    """

    line: Callable[[str], None] = _ignore
    """Is given each line that the harness writes."""
    measured: Callable[[HarnessResult], None] = _ignore
    """Is given the harness's result, as far as it came, each time that a probe has ended. It need not be given the last
    one, and may be called late: what `Executor.run` returns counts."""
    log: Callable[[bytes], None] = _ignore
    """Is given the log that the result refers to, once, when the run has ended."""


class Executor(Protocol):
    """Run jobs. Raises only if the result is unknown."""

    @property
    def name(self) -> str:
        """Its name in the table of executors, and in records."""
        ...

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs that can be given to a run.

        Raises:
            EngineMissing: there is no engine.
            GpuMissing: no GPU can be given; the message states what is missing and how to fix it.
        """
        ...

    def place(self, reference: str) -> Place:
        """Find what is to be probed.

        Raises:
            UsageError: there is no such image (the nearest names are offered).
            EngineMissing: there is no engine.
        """
        ...

    def labels(self, reference: str) -> Mapping[str, str]:
        """Return the labels of an image; none if it is not there, or this is not an image.

        Raises:
            EngineMissing: there is no engine.
        """
        ...

    def sweep(self) -> Sequence[str]:
        """Remove leftovers of dead runs, which would keep using the GPU. Return what was removed.

        Raises:
            EngineError: something cannot be removed, or there is no engine.
        """
        ...

    def run(self, job: ProbeJob, *, listener: JobListener | None = None, stop: Stop | None = None) -> JobResult:
        """Run a job to its end. What it started is gone afterwards, however it ended.

        Raises:
            EngineMissing: there is no engine.
            GpuMissing: the GPUs asked for cannot be given.
            UsageError: the suite or a feature of the job is not known here.
        """
        ...


class Leases(Protocol):
    """One user per GPU, across processes of this machine."""

    def take(
        self, gpus: tuple[str, ...], count: int, *, wait_seconds: float, stop: threading.Event | None = None
    ) -> AbstractContextManager[tuple[str, ...]]:
        """Hold `count` of the GPUs until the context ends; released also when this process dies.

        Raises:
            GpuMissing: fewer exist, or none became free in time.
            Interrupted: `stop` was set while waiting.
        """
        ...
