"""Rule L7: a library needs a newer C or C++ runtime than the base has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule, Breaks
from assay.audit.symbol_versions import Lacking, Newer, lacking_versions
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def _too_new(context: Context) -> Iterator[Lacking | Newer]:
    for one in context.shared(lacking_versions):
        if isinstance(one, Newer) or one.of_runtime:
            yield one


def findings(context: Context) -> Iterator[Finding]:
    """Yield the versions of the runtime that the base lacks: of each family the newest that a wheel asks for."""
    for one in _too_new(context):
        if isinstance(one, Newer):
            ceiling = context.base.ceilings[one.family]
            message = f"needs {one.version}; {context.base.name} has up to {one.family}_{ceiling}"
            fix = "take a base of a newer distribution, or a wheel built for an older one"
        else:
            message, fix = f"needs {', '.join(one.versions[:4])} of {one.file}, which does not define that", ""
        yield Finding(
            rule="L7",
            severity=one.severity,
            package=label(one.wheel),
            library=one.path,
            message=message,
            cause="abi-glibc",
            fix=fix,
        )


def breaks(context: Context) -> Breaks:
    """Yield the libraries that ask for these versions."""
    return ((one.path, one.why) for one in _too_new(context))


RULE: Final = AuditRule(
    id="L7",
    text="A library needs a newer C or C++ runtime than the base has.",
    known_by="GLIBC, GLIBCXX and CXXABI versions against the base.",
    severity=Severity.ERROR,
    rests_on=("libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
    breaks=breaks,
)
