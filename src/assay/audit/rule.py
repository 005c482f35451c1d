"""What a rule of the audit is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from assay.audit.context import Context
from assay.audit.findings import Finding
from assay.foundation.outcome import Severity

__all__ = ["AuditRule", "Breaks", "Input"]

Input = Literal["metadata", "files", "libraries", "GPU code", "base", "Python", "targets", "knowledge", "lock"]
Breaks = Iterable[tuple[str, str]]
"""Paths of libraries that do not load, and why."""


def _nothing(_context: Context) -> Breaks:
    return ()


@dataclass(frozen=True, kw_only=True)
class AuditRule:
    """One rule: a pure function of a question to findings."""

    id: str
    text: str
    """What it reports, in one line."""
    known_by: str
    """How it is known, for docs/reference/audit-rules.md."""
    severity: Severity
    """The most that a finding of it weighs."""
    rests_on: tuple[Input, ...]
    """What its findings depend on."""
    findings: Callable[[Context], Iterable[Finding]]
    breaks: Callable[[Context], Breaks] = _nothing
    """The libraries that do not load because of what it reports."""

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands in lists."""
        return "RLGF".index(self.id[0]), int(self.id[1:])
