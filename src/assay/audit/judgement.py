"""The audit's judgement of one cell, as later steps use it."""

from __future__ import annotations

from dataclasses import dataclass

from assay.foundation.outcome import Verdict

__all__ = ["AuditJudgement"]


@dataclass(frozen=True, kw_only=True)
class AuditJudgement:
    """What the audit found in a cell's wheels, or in its image."""

    verdict: Verdict
    causes: tuple[str, ...] = ()
    """Cause ids and rule ids of the findings that are errors."""
    summary: tuple[str, ...] = ()
    """The findings that decide, one line each."""
