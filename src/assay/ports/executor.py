"""Where probes run: an image in a container, or this machine's own Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Executor", "JobLimits", "Leases", "Place", "ProbeRequest", "Ran"]


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """How far a run may go."""

    memory_bytes: int | None = None
    """None: as much as the machine has."""
    pids: int = 16384
    shm_bytes: int = 8 << 30
    seconds: float = 3600.0
    """For the whole run; each probe has its own limit besides."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Something that can be probed."""

    reference: str
    """An image reference, or `local`."""
    digest: str | None
    """`sha256:...` of the image's manifest or configuration; of the installed distributions for `local`."""


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """One run of the harness."""

    place: Place
    run: str
    job: Mapping[str, Any]
    """The harness's job without the folders, which the executor chooses."""
    suite: Mapping[str, bytes]
    """The programs: path under probes/ -> bytes."""
    gpus: tuple[str, ...]
    """Indexes or UUIDs of the GPUs leased for this run; none: no GPU is given."""
    limits: JobLimits = field(default_factory=JobLimits)
    keep_cache: bool = True
    """Keep what was compiled at run time for the next run of the same place on the same kind of GPU."""
    progress: Callable[[str], None] | None = None
    """Is given each line that the harness says."""
    keep: Callable[[bytes], None] | None = None
    """Is given the harness's result document, as far as it came, each time a probe has ended; from a thread of the
    executor's. It need not be given the last one, and may be called late: what `run` returns counts."""
    stop: threading.Event | None = None
    """Ends the run when it is set; what was measured until then is in the answer."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run left behind."""

    result: bytes | None
    """The harness's result document, as far as it came; None if there is none."""
    ended: Literal["finished", "killed", "out_of_memory", "timed_out", "engine_lost", "no_python", "failed", "stopped"]
    message: str = ""
    """What went wrong, for people; empty if it finished."""
    log: bytes = b""
    """What the harness and whatever surrounds it said."""
    seconds: float = 0.0
    """Wall time, the container's start and end included."""


class Executor(Protocol):
    """Runs the harness somewhere. Raises only what says that nothing could be found out."""

    @property
    def name(self) -> Literal["docker", "local"]: ...

    def gpus(self) -> tuple[str, ...]:
        """Return the indexes of the GPUs that can be given to a run.

        Raises:
            EngineMissing: there is no engine.
            GpuMissing: no GPU can be given; the message says what is missing and how to mend it.
        """
        ...

    def place(self, reference: str) -> Place:
        """Find what is to be probed.

        Raises:
            UsageError: there is no such image (the nearest names are offered).
            EngineMissing: there is no engine.
        """
        ...

    def sweep(self) -> Sequence[str]:
        """Remove what runs left here whose assay is dead: it would go on using the GPU. Return what was removed.

        Raises:
            EngineError: something cannot be removed, or there is no engine.
        """
        ...

    def run(self, request: ProbeRequest) -> Ran:
        """Run the harness to its end. What it started is gone afterwards, however it ended.

        Raises:
            EngineMissing: there is no engine.
            GpuMissing: the GPUs asked for cannot be given.
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
