"""Servers that stay when assay has ended: started, listed, followed and stopped by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from assay.ports.server import RunningServer, ServerEnded, ServerJob

__all__ = ["LABEL", "PREFIX", "KeptServer", "Services"]

LABEL: Final = "assay.up"
"""Label of every container that `assay up` started; its value is the server's name."""
PREFIX: Final = "assay-up-"
"""What the names of their containers begin with."""


@dataclass(frozen=True, kw_only=True)
class KeptServer:
    """A server that was started earlier, as the engine has it."""

    name: str
    container: str
    """The name of its container."""
    image: str
    running: bool
    state: str
    """`Up 3 minutes`, `Exited (1) 2 hours ago`, in the engine's words."""
    labels: Mapping[str, str]

    @property
    def base(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.labels.get('assay.up.port', '')}"


class Services(Protocol):
    """Where servers stay. Every method raises `EngineMissing` when no engine answers."""

    def start(self, job: ServerJob) -> RunningServer:
        """Start a server that stays until `remove`, under the name and at the port of its job.

        Raises:
            EngineError: the image is not there, the port is in use, or the engine refuses.
            GpuMissing: GPUs were asked for and cannot be given.
            UsageError: the job names another image than the one that has this reference here, or no name or port.
        """
        ...

    def servers(self) -> Sequence[KeptServer]:
        """Return all servers that were started and not removed, the newest first."""
        ...

    def log(self, server: KeptServer) -> str:
        """Return what it wrote so far; of very long output the middle is left out."""
        ...

    def follow(self, server: KeptServer) -> Iterator[bytes]:
        """Yield its output as it comes, from the start, until it ends."""
        ...

    def remove(self, server: KeptServer, *, grace: float) -> ServerEnded:
        """Ask it to end (SIGTERM), kill it after `grace` seconds, and remove its container."""
        ...
