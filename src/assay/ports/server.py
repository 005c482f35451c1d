"""Where a server runs: in a container of an image, or in the Python environment of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from assay.evidence.record import Device
from assay.foundation.platforms import Platform

__all__ = ["Output", "RunningServer", "ServerEnded", "ServerFacts", "ServerHost", "ServerSpec"]


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What was read where the server runs."""

    devices: tuple[Device, ...]
    packages: Mapping[str, str]
    """Distribution -> version."""
    image_digest: str | None = None
    platform: Platform | None = None
    """Of the image, or of the Python environment; None if it is not known."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a short program wrote there."""

    code: int
    text: str


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """A server to start; `{host}` and `{port}` in `argv` become the address it is to listen on."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    shm_bytes: int = 64 << 20
    ports_beside: Sequence[int] = ()
    """Ports that it takes beside its own, as distances from it."""


@dataclass(frozen=True, kw_only=True)
class ServerEnded:
    """How a server ended."""

    code: int | None
    """Exit code; None if a signal ended it."""
    signal: int | None
    seconds: float
    """From being asked until it was gone; 0 if it ended by itself."""
    forced: bool = False
    """It had to be killed."""
    oom_killed: bool = False

    def __str__(self) -> str:
        how = f"signal {self.signal}" if self.signal is not None else f"code {self.code}"
        tail = " (the kernel's memory limit)" if self.oom_killed else ""
        return ("killed after it ignored SIGTERM, " if self.forced else "") + how + tail


class RunningServer(Protocol):
    """A server that was started; it is gone, with all its processes, when its context ends."""

    @property
    def base(self) -> str:
        """Where it is reached: `http://127.0.0.1:40123`."""
        ...

    def running(self) -> bool:
        """Say whether its process is there."""
        ...

    def log(self) -> str:
        """Return what it wrote so far; of very long output the middle is left out."""
        ...

    def stop(self, *, grace: float) -> ServerEnded:
        """Ask it to end (SIGTERM), kill it after `grace` seconds; if it has ended already, say how."""
        ...


class ServerHost(Protocol):
    """A place for servers."""

    @property
    def executor(self) -> str: ...

    @property
    def reference(self) -> str:
        """The image, or the name of the place."""
        ...

    def facts(self) -> ServerFacts:
        """Read devices and packages there.

        Raises:
            EngineError: the place cannot be used.
        """
        ...

    def output(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Output:
        """Run a short program there to its end."""
        ...

    def start(self, spec: ServerSpec) -> AbstractContextManager[RunningServer]:
        """Start a server.

        Raises:
            EngineError: the place cannot be used, or the port is taken.
            GpuMissing: a GPU was asked for and cannot be given.
        """
        ...

    def gpu_memory_bytes(self) -> int | None:
        """Return the memory in use on the first GPU; None if it is unknown."""
        ...
