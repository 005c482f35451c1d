"""Building one image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from assay.ports.engine import ImageInfo

__all__ = ["PATIENCE", "BuildEnd", "BuildFault", "BuildHost", "BuildOutcome", "BuildTask", "Builder", "FaultKind"]


PATIENCE: Final = 60.0
"""Seconds from the first fault of a builder or registry in which another try may begin."""


class BuildEnd(StrEnum):
    """How a build ended."""

    BUILT = "built"
    FAILED = "failed"
    """A step of the Dockerfile failed: it says something about the cell."""
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    """The caller asked for it."""
    ENGINE = "engine"
    """The builder, its disk or its network failed: the result of the cell is unknown."""
    REGISTRY = "registry"
    """A registry that the build pulls from or pushes to failed or refused: the result of the cell is unknown."""


class FaultKind(StrEnum):
    """What failed, when it was not the cell."""

    CLIENT = "client"
    """The program that hands the build to the builder failed or was killed."""
    NO_BUILDER = "no_builder"
    """buildx knows no builder of that name."""
    NO_CONTEXT = "no_context"
    """There is no such Docker context, or a context was named where a builder is expected."""
    UNREACHABLE = "unreachable"
    """Nobody answers at the builder's address."""
    LOST = "lost"
    """The builder answered before, and went away or was shut down while it built."""
    KILLED = "killed"
    """A step was killed from outside: out of memory, or the builder was evicted."""
    DISK_FULL = "disk_full"
    DISK_BROKEN = "disk_broken"
    NETWORK = "network"
    """The builder could not reach something that is not a registry."""
    REGISTRY_UNREACHABLE = "registry_unreachable"
    """A registry does not answer, breaks off, or answers with a server's error."""
    REGISTRY_LIMITED = "registry_limited"
    REGISTRY_DENIED = "registry_denied"
    REGISTRY_ABSENT = "registry_absent"
    REGISTRY_TLS = "registry_tls"
    REGISTRY_DNS = "registry_dns"

    @property
    def of_registry(self) -> bool:
        """Whether a registry failed, and not the builder."""
        return self.value.startswith("registry_")


@dataclass(frozen=True, kw_only=True)
class BuildFault:
    """A failure of the builder or of a registry, never of the cell."""

    kind: FaultKind
    said: str
    """What the builder printed, in one line."""
    tries: int = 0
    """How often it is worth trying again; 0 where only a person can help."""


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """One build: plain data, and where its words go."""

    dockerfile: str
    tags: tuple[str, ...]
    """Names that the image gets; without any, a builder of a pool makes the layers alone, for a cache."""
    labels: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Labels that differ between machines; a builder that gives the same digest everywhere leaves them out."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Secret id -> file."""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    """None takes the value from the environment, so that it stands in no process list and no script."""
    platform: str = ""
    """`linux/arm64`; empty for the builder's own."""
    cache_from: tuple[str, ...] = ()
    """References of caches in a registry that the builder may take layers from; one that is missing does no harm."""
    cache_to: str = ""
    """Where the builder writes which layers it made; no layer is sent twice for it."""
    log: Path
    """The full log is written here."""
    timeout: float | None = None
    """Seconds."""
    progress: Callable[[str], None] | None = None
    """Is given the step that runs now, in a few words."""
    stop: threading.Event | None = None

    def keep_log(self) -> None:
        """Keep the log of a try that is made again, as `build-1.log`, `build-2.log`."""
        tries = (self.log.with_name(f"{self.log.stem}-{number}{self.log.suffix}") for number in count(1))
        with suppress(OSError):
            self.log.rename(next(path for path in tries if not path.exists()))


@dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """What came of it."""

    end: BuildEnd
    digest: str | None = None
    """Of the manifest, as the builder gives it."""
    seconds: float = 0.0
    reason: str = ""
    """The last relevant lines of a failed build; of a fault, what failed and what to try."""
    fault: BuildFault | None = None
    """What failed beside the cell, where trying again may help."""
    image: ImageInfo | None = None
    """The image, where the builder knows it; without it whoever holds the image is asked."""
    builder: str | None = None
    """The builder that built it, where there are several."""


class Builder(Protocol):
    """Builds images."""

    def build(self, task: BuildTask) -> BuildOutcome:
        """Build one image.

        Raises:
            EngineMissing: there is no engine, or it has no BuildKit.
            StoreError: the log cannot be written (disk full); the build was ended.
        """
        ...

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line that does the same by hand, reading the Dockerfile from a file."""
        ...


class BuildHost(Protocol):
    """One of several builders."""

    @property
    def name(self) -> str:
        """Its address, as pools.yaml has it."""
        ...

    @property
    def builder(self) -> Builder:
        """Builds there, and pushes by digest."""
        ...

    def ask(self) -> str:
        """Return why it does not answer; empty where it does.

        Raises:
            EngineMissing: the program that speaks to builders is not installed.
        """
        ...
