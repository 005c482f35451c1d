"""Rule F1: what could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield the problems of the reading, then what of each library could not be read."""
    yield from context.problems
    for wheel in context.installation.native:
        for library in wheel.libraries:
            for trouble in _unreadable(library):
                yield Finding(
                    rule="F1",
                    severity=Severity.WARNING,
                    package=label(wheel),
                    library=library.path,
                    message=f"could not be read: {trouble}",
                )


def _unreadable(library: Library) -> Iterator[str]:
    """Yield what of a library could not be read; that containers do not fill their section is no loss."""
    if library.problem is not None:
        yield library.problem
    if library.gpu is not None:
        yield from (trouble for trouble in library.gpu.damage if not trouble.startswith("containers cover"))


RULE: Final = AuditRule(
    id="F1",
    text="A file could not be read.",
    known_by="The finding has the reason; the other files are audited.",
    severity=Severity.WARNING,
    rests_on=("libraries", "GPU code"),
    findings=findings,
)
