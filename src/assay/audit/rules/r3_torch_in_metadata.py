"""Rule R3: the libraries need torch, and the metadata does not say so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.audit.torch_fit import built_for, either, linked
from assay.foundation.outcome import Severity

__all__ = ["RULE"]

_NAMED: Final = re.compile(r"\s*torch(?![\w-])")


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each wheel that is linked with torch and does not require it."""
    for wheel in context.installation.native:
        if not linked(context, wheel) or any(_NAMED.match(line) for line in wheel.requires_dist):
            continue
        built = built_for(context, wheel)
        yield Finding(
            rule="R3",
            severity=Severity.WARNING,
            package=label(wheel),
            message="its libraries are linked with torch, but its metadata does not ask for it: "
            "a resolver takes any torch"
            + (f"; by its symbols it was built for torch {either(built)}" if built else ""),
            fix=f"pin torch to {either(built)} beside it" if len(built) == 1 else "pin torch beside it",
        )


RULE: Final = AuditRule(
    id="R3",
    text="A library is linked with torch, but the wheel does not require torch.",
    known_by="Symbols against Requires-Dist. No resolver can find a fitting torch for it.",
    severity=Severity.WARNING,
    rests_on=("metadata", "libraries", "Python", "knowledge"),
    findings=findings,
)
