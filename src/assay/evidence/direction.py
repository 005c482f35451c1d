"""Whether a change between two sets of records is for the worse."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Direction"]


class Direction(StrEnum):
    """Whether a change is for the worse."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    CHANGE = "change"
    ADDED = "added"
    REMOVED = "removed"
