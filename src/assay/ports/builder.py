"""Building one image with BuildKit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

__all__ = ["BuildEnd", "BuildOutcome", "BuildTask", "Builder"]


class BuildEnd(StrEnum):
    """How a build ended."""

    BUILT = "built"
    FAILED = "failed"
    """A step of the Dockerfile failed: it says something about the cell."""
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    """The caller asked for it."""
    ENGINE = "engine"
    """The engine, the disk or the network of the engine failed: nothing is said about the cell."""


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """One build: plain data, and where its words go."""

    dockerfile: str
    tags: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Secret id -> file."""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    """None takes the value from the environment, so that it stands in no process list and no script."""
    log: Path
    """The full log is written here."""
    timeout: float | None = None
    """Seconds."""
    progress: Callable[[str], None] | None = None
    """Is given the step that runs now, in a few words."""
    stop: threading.Event | None = None


@dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """What came of it."""

    end: BuildEnd
    digest: str | None = None
    """Of the manifest, as the builder gives it."""
    seconds: float = 0.0
    reason: str = ""
    """The last relevant lines of a failed build."""


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
