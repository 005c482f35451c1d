"""Rule R4: what packages need when they run and no wheel says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context
from assay.audit.findings import Finding
from assay.audit.knowledge import RuntimeNeed
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each need at run time that nothing here is known to meet."""
    versions = context.installation.versions
    for need in context.unmet_needs:
        if context.installation.whole or need.severity == "error":
            yield Finding(
                rule="R4",
                severity=Severity(need.severity),
                package=f"{need.package} {versions[need.package]}",
                message=need.needs,
                cause=need.cause,
                fix=_remedy(need),
            )


def _remedy(need: RuntimeNeed) -> str:
    ways = [f"add one of: {', '.join(need.provided_by)}"] if need.provided_by else []
    ways += [f"set {' or '.join(need.provided_by_env)} in `env`"] if need.provided_by_env else []
    return "; or ".join(ways)


RULE: Final = AuditRule(
    id="R4",
    text="A package needs something at run time that its metadata does not list.",
    known_by="`knowledge/runtime_needs.yaml`.",
    severity=Severity.ERROR,
    rests_on=("metadata", "base", "targets", "knowledge"),
    findings=findings,
)
