"""What a run on a pool is judged by and what comes of it: patience, ends, progress, and the time of a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from assay.evidence.record import ProbeRecord
from assay.ports.pools import ADVICE, Loss, PlannedJob

__all__ = ["Board", "PoolLimits", "PooledEnd", "measured_at"]

_SKEW: Final = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """How patient a coordinator is, in seconds."""

    attempts: int = 5
    """How often one job is submitted."""
    patience: float = 600.0
    """For what the pool fails at: pulling an image, starting a job, answering."""
    grace: float = 5.0
    """Between a job's end and its result: file systems and logs lag."""
    unknown: float = 60.0
    """Until a job of a machine that does not answer is given to another one."""
    every: float = 2.0
    """Between two looks."""


@dataclass(frozen=True, kw_only=True)
class PooledEnd:
    """What came of one job."""

    planned: PlannedJob
    record: ProbeRecord | None = None
    """None: nothing was measured."""
    loss: Loss | None = None
    """Why the pool did not bring it to its end; it says nothing about the cell."""
    said: str = ""
    attempts: int = 1

    @property
    def words(self) -> str:
        """What went wrong, and what to try."""
        if self.loss is None:
            return ""
        said = f" ({self.said})" if self.said else ""
        return f"not the cell's fault: {self.loss.replace('_', ' ')}{said}\n  try: {ADVICE[self.loss]}"


@dataclass(frozen=True, kw_only=True)
class Board:
    """How far a run is."""

    done: int
    lost: int
    running: int
    waiting: int
    retried: int
    """Submissions beyond the first of each job."""


def measured_at(written: datetime | None, planned: datetime, now: datetime) -> tuple[datetime, timedelta | None]:
    """Return when a result counts as measured, and how far off the clock of its machine is, if it is.

    A clock that is off gives the time of the run: the same on every machine that records the result.
    """
    if written is None:
        return planned, None
    if written > now + _SKEW:
        return planned, written - now
    if written < planned - _SKEW:
        return planned, planned - written
    return written, None
