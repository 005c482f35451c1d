"""Outcomes of features and verdicts of audits."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

__all__ = ["Outcome", "Severity", "Verdict"]


class Outcome(StrEnum):
    """What a probe measured of one feature."""

    WORKS = "works"
    DEGRADED = "degraded"
    """Right, but slower than without the feature."""
    WRONG = "wrong"
    """Ran to its end and gave bad numbers."""
    BROKEN = "broken"
    """Raised, crashed or aborted."""
    UNSUPPORTED = "unsupported"
    """The hardware or the framework itself declares that it cannot."""
    INCONCLUSIVE = "inconclusive"
    """Out of memory, time-out, engine failure, slow beside another process on the GPU: nothing can be said."""
    NOT_RUN = "not_run"
    """Not tried; the reason says why."""

    @property
    def symbol(self) -> str:
        """One character for tables, always shown with the word."""
        return {
            "works": "✓",
            "degraded": "~",
            "wrong": "≠",
            "broken": "✗",
            "unsupported": "−",
            "inconclusive": "?",
            "not_run": "·",
        }[self]


class Severity(StrEnum):
    """The severity of an audit finding."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Verdict(StrEnum):
    """The audit's result for a cell, or for a feature on a target: a prediction, never a measurement."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return the worst of several; `ok` of none."""
        found = set(verdicts)
        return next((one for one in (cls.FAIL, cls.WARN) if one in found), cls.OK)
