"""Rule R7: packages whose versions must go together do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each pair of packages that do not go together."""
    versions = context.installation.versions
    for mismatch in context.mismatches:
        rule, package, beside = mismatch.companion, mismatch.package, mismatch.companion.beside
        yield Finding(
            rule="R7",
            severity=Severity.ERROR if mismatch.decides else Severity.WARNING,
            package=f"{package} {versions[package]}",
            message=f"does not go with {beside} {versions[beside]}: {rule.why}{mismatch.consequence}",
            cause=rule.cause,
            fix=f"constrain it in the recipe: {mismatch.constraint}" if mismatch.constraint else "",
            constraint=mismatch.constraint,
        )


RULE: Final = AuditRule(
    id="R7",
    text="Two packages have incompatible versions, although their metadata allows them.",
    known_by="`knowledge/companions.yaml`, for example parts of the CUDA toolkit. Features that need the pair are "
    "predicted `broken`. `assay lock --repair` adds the constraint to the recipe.",
    severity=Severity.ERROR,
    rests_on=("metadata", "knowledge"),
    findings=findings,
)
