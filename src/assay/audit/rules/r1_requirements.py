"""Rule R1: what the metadata requires is not there, or in another version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.requirements import WantedPackage, requirement, requirements_of
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.foundation.versions import fits
from assay.wheels.facts import WheelFacts

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each requirement that nothing in the set meets."""
    installation = context.installation
    versions = installation.versions
    for wheel in installation.wheels:
        for wanted in requirements_of(wheel, installation.python, installation.machine):
            have = versions.get(wanted.name)
            if have is None:
                if installation.whole and wanted.name not in installation.elsewhere:
                    yield _absent(context, wheel, wanted)
            elif not fits(have, wanted.specifier, unknown=True):
                # Some distributions have versions that are none; nothing can be said of them.
                yield _unmet(context, wheel, wanted, have)


def _absent(context: Context, wheel: WheelFacts, wanted: WantedPackage) -> Finding:
    return Finding(
        rule="R1",
        severity=Severity.WARNING if context.installation.installed else Severity.ERROR,
        package=label(wheel),
        message=f"requires {requirement(wanted.line)}, which is not in the set",
        fix=f"add {wanted.name} to the requirements, or lock again",
    )


def _unmet(context: Context, wheel: WheelFacts, wanted: WantedPackage, have: str) -> Finding:
    name = wanted.name
    forced = name in context.installation.overridden
    mild = forced or context.installation.installed
    return Finding(
        rule="R1",
        severity=Severity.WARNING if mild else Severity.ERROR,
        package=label(wheel),
        cause=None if mild else "res-conflict",
        message=f"requires {requirement(wanted.line).name}{wanted.specifier}, but {have} is in the set"
        + (" (forced)" if forced else ""),
        fix=f"take {name}{wanted.specifier}, or another version of {wheel.name}",
    )


RULE: Final = AuditRule(
    id="R1",
    text="A required package is missing, or its version does not match.",
    known_by="Requires-Dist against the set, markers evaluated for the cell's Python on Linux. Forced or already "
    "installed versions: a warning.",
    severity=Severity.ERROR,
    rests_on=("metadata", "Python"),
    findings=findings,
)
