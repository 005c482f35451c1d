"""What `assay lock` and `assay update` write with `--format json`. Pure."""

from __future__ import annotations

from typing import Literal

from assay.audit.findings import Finding
from assay.audit.found import Search
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.lockfile import lock_digest
from assay.pipeline.lock import LockResult, LockStatus

__all__ = ["LockDocument", "LockEnd", "NightlyLock", "ProposedChange", "UpdateDocument", "VersionChange"]


class NightlyLock(Value):
    """How locking a cell on nightlies again ended."""

    cell: str
    status: LockStatus
    changes: tuple[str, ...]
    """`+ torch 2.8.0` lines against the lock there was."""
    explanation: str
    """Why there is no lock."""

    @classmethod
    def of(cls, result: LockResult) -> NightlyLock:
        """Return a lock's result in its JSON form."""
        return cls(cell=result.cell.id, status=result.status, changes=result.changes, explanation=result.explanation)


class LockEnd(NightlyLock):
    """How locking a cell ended."""

    warning: str
    findings: tuple[Finding, ...]
    """Errors of the audit of a new lock."""
    repairs: tuple[str, ...]
    """Constraints that were added to the recipe."""
    digest: str | None
    """Of the lock."""
    wheels: int
    bytes: int
    """Of the wheels, as far as the index tells their sizes."""

    @classmethod
    def of(cls, result: LockResult) -> LockEnd:
        """Return a lock's result in its JSON form."""
        wheels = result.lock.wheels if result.lock else ()
        return cls(
            **dict(NightlyLock.of(result)),
            warning=result.warning,
            findings=result.findings,
            repairs=tuple(item.constraint for item in result.repairs),
            digest=lock_digest(result.lock) if result.lock else None,
            wheels=len(wheels),
            bytes=sum(wheel.size or 0 for wheel in wheels),
        )


class LockDocument(Value):
    """How locking each cell ended."""

    version: Literal[1] = 1
    locks: tuple[LockEnd, ...]


class VersionChange(Value):
    """A version that would change."""

    before: str
    after: str


class ProposedChange(Value):
    """What is proposed for one image and platform."""

    image: str
    platform: Platform
    like: str
    """The newest cell that there is."""
    cell: str | None
    """The new cell; null if there is nothing newer, or nothing that fits."""
    changes: dict[str, VersionChange]
    """By axis."""
    held: tuple[str, ...]
    """Newer releases that something holds back, and what does."""
    refused: str
    """Why nothing is proposed, where something newer was found."""
    search: Search | None
    """The releases that were tried."""


class UpdateDocument(Value):
    """The newest cells that lock and pass the audit."""

    version: Literal[1] = 1
    proposals: tuple[ProposedChange, ...]
    nightlies: tuple[NightlyLock, ...]
    """Cells on nightlies, locked again."""
