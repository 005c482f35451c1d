"""Where things run: one program in a container of an image, or in a process of this machine. Probes and servers use it.

What is to run is plain data; how it is watched and ended is a `Task`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from assay.foundation.strict import Value
from assay.ports.engine import Exit, Gpus
from assay.ports.jobs import Bind, Place

__all__ = ["LOCAL", "Network", "Task", "TaskEnd", "TaskHost", "TaskSpec", "run_task"]

LOCAL = "local"
"""The reference of the environment of this machine, where others name an image."""

Network = Literal["auto", "bridge", "host"]
"""How a server is reached: a published port, the machine's own network, or what the engine has."""


class TaskSpec(Value):
    """One program to run, and how far it may go.

    In `argv`, `{work}` becomes the folder for files in and out, `{host}` and `{port}` the address to listen on.
    """

    run: str
    """The run this belongs to."""
    reference: str
    """An image, or `local`."""
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Laid over the environment there."""
    gpus: Gpus = ()
    network: Network | None = None
    """None: nothing is reached; otherwise one port is."""
    port: int | None = None
    """The port on this machine; None: a free one."""
    ports_beside: tuple[int, ...] = ()
    """Distances from it to the ports that the server opens too."""
    mounts: tuple[Bind, ...] = ()
    cache: str | None = None
    """The digest or name of what compiles at run time, whose files are kept for its next run; None: nothing is kept."""
    read_only: bool = False
    """Nothing but the work folder, the cache and /tmp can be written; a local process is not held to it."""
    memory_bytes: int | None = None
    pids: int = 1 << 14
    shm_bytes: int = 64 << 20
    init: bool = False
    """Put a small init process in front, where there is one."""


class Task(Protocol):
    """A program that was prepared; it is gone, with its files, when its context ends. Methods are thread-safe.

    It is started and waited for by one thread: a local process ends with the thread that started it.
    """

    @property
    def work(self) -> str:
        """The folder for files in and out, as the program sees it."""
        ...

    @property
    def cache(self) -> str:
        """The folder for what is compiled at run time, as the program sees it."""
        ...

    @property
    def base(self) -> str:
        """Where a started server is reached: `http://127.0.0.1:40123`."""
        ...

    def put(self, files: Mapping[str, bytes | Path]) -> None:
        """Write files into the work folder; names may hold folders."""
        ...

    def start(self) -> None:
        """Start it. A program that is missing gives code 127, one that cannot be executed 126."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file of the work folder, running or not; None if it is not there."""
        ...

    def running(self) -> bool:
        """Say whether it runs."""
        ...

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal; nothing happens if it does not run."""
        ...

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait until it ends; after `timeout` seconds end it and say so."""
        ...

    def log(self, *, limit: int = 1 << 20) -> bytes:
        """Return what it wrote so far to both streams, at most about `limit` bytes of each; the middle is left out."""
        ...

    def follow(self) -> Iterator[bytes]:
        """Yield both streams as they come, from the start, until it ends."""
        ...


class TaskHost(Protocol):
    """A place where things run. Every method raises `EngineMissing` when there is no engine."""

    @property
    def name(self) -> str:
        """The executor's name in records: `docker`, `local`."""
        ...

    @property
    def pythons(self) -> Sequence[str]:
        """Where a Python may be, the likeliest first."""
        ...

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs that can be given.

        Raises:
            GpuMissing: no GPU can be given; the message states what is missing and how to fix it.
        """
        ...

    def place(self, reference: str) -> Place:
        """Find what is to be probed.

        Raises:
            UsageError: there is no such image (the nearest names are offered).
        """
        ...

    def labels(self, reference: str) -> Mapping[str, str]:
        """Return the labels of an image; none if it is not there, or this is not an image."""
        ...

    def manifest(self, reference: str) -> str | None:
        """Return the digest of an image's manifest; None if it is not known, or this is not an image."""
        ...

    def sweep(self) -> Sequence[str]:
        """Remove leftovers of dead runs, which would keep using the GPU. Return what was removed.

        Raises:
            EngineError: something cannot be removed.
        """
        ...

    def task(self, spec: TaskSpec) -> AbstractContextManager[Task]:
        """Prepare a program.

        Raises:
            EngineError: the image is not here, the engine refuses, or the port is taken.
            GpuMissing: GPUs were asked for and cannot be given.
            UsageError: something was asked for that this place cannot give at all.
        """
        ...

    def gpu_memory_bytes(self, uuids: Collection[str]) -> int | None:
        """Return the memory in use on these GPUs, on the first without `uuids`; None if it is unknown."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskEnd:
    """The whole life of a short task."""

    exit: Exit
    log: bytes
    file: bytes | None
    """The file that was asked for."""


def run_task(
    host: TaskHost, spec: TaskSpec, *, timeout: float, files: Mapping[str, bytes | Path] | None = None, file: str = ""
) -> TaskEnd:
    """Run a program from its start to its removal, and return what it wrote and one `file` of its work folder."""
    with host.task(spec) as task:
        if files:
            task.put(files)
        task.start()
        end = task.wait(timeout)
        return TaskEnd(exit=end, log=task.log(limit=4 << 20), file=task.read(file) if file else None)
