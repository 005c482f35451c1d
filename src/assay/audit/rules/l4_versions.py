"""Rule L4: a library lacks the version of a symbol that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule, Breaks
from assay.audit.symbol_versions import Lacking, lacking_versions
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def _lacking(context: Context) -> Iterator[Lacking]:
    for one in context.shared(lacking_versions):
        if isinstance(one, Lacking) and not one.of_runtime:
            yield one


def findings(context: Context) -> Iterator[Finding]:
    """Yield the versions that a library in the set or in the base does not define."""
    for one in _lacking(context):
        yield Finding(
            rule="L4",
            severity=one.severity,
            package=label(one.wheel),
            library=one.path,
            message=f"needs {', '.join(one.versions[:4])} of {one.file}, which does not define that",
        )


def breaks(context: Context) -> Breaks:
    """Yield the libraries that ask for these versions."""
    return ((one.path, one.why) for one in _lacking(context))


RULE: Final = AuditRule(
    id="L4",
    text="A library lacks the required version of a symbol.",
    known_by="`.gnu.version_r` against `.gnu.version_d`.",
    severity=Severity.ERROR,
    rests_on=("libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
    breaks=breaks,
)
