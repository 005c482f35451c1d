"""The append-only list of what became of tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal, Protocol

from assay.foundation.strict import Value

__all__ = ["Journal", "Transition"]


class Transition(Value):
    """One move of one tag; written before it (`intent`) and after it (`done`)."""

    when: datetime
    phase: Literal["intent", "done"]
    repository: str
    tag: str
    old: str | None
    new: str
    level: str
    target: str | None
    reason: str = ""


class Journal(Protocol):
    """Keeps transitions, and lets one process at a time publish into a repository."""

    def append(self, transition: Transition) -> None:
        """Add an entry; it is on disk when this returns.

        Raises:
            StoreError: it cannot be written.
        """

    def read(self, repository: str, tag: str) -> Iterator[Transition]:
        """Return what became of a tag, oldest first."""

    def exclusive(self, repository: str) -> AbstractContextManager[None]:
        """Hold the right to publish into a repository from this machine.

        Raises:
            StoreError: another process holds it and does not let go in time.
        """
