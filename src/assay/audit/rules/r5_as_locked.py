"""Rule R5: what is installed in an image is not what was locked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import AsLocked, Context
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield what a later step of the build replaced or removed."""
    if context.locked is not None:
        here = {wheel.name: wheel.version for wheel in context.installation.wheels}
        yield from _versions(context.locked, here)
        yield from _files(context.locked, here)


def _versions(locked: AsLocked, here: dict[str, str]) -> Iterator[Finding]:
    for name, version in locked.versions.items():
        have = here.get(name)
        if have is not None and have != version:
            message = f"{have} is installed, the lock has {version}: something replaced it after the lock"
        elif have is None:
            message = f"the lock has {version}, but it is not installed"
        else:
            continue
        yield Finding(
            rule="R5",
            severity=Severity.ERROR,
            package=f"{name} {have or version}",
            message=message,
            fix="look for an installation without --no-deps or without the lock's constraints",
        )


def _files(locked: AsLocked, here: dict[str, str]) -> Iterator[Finding]:
    """Yield libraries of wheels whose version is the locked one."""
    for name, version in locked.versions.items():
        if here.get(name) != version:
            continue
        for severity, paths, message in (
            (Severity.ERROR, locked.changed.get(name, ()),
             "is not the file of the locked wheel: something replaced it after the lock"),
            (Severity.WARNING, locked.missing.get(name, ()), "of the locked wheel is not there"),
        ):  # fmt: skip
            if paths:
                more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
                yield Finding(
                    rule="R5",
                    severity=severity,
                    package=f"{name} {version}",
                    library=paths[0],
                    message=f"{message}{more}",
                    fix="look for a later step that installs, copies or removes files of this package",
                )


RULE: Final = AuditRule(
    id="R5",
    text="The installed files differ from the lock.",
    known_by="The image's METADATA files against the lock, and the sha256 of each library against the RECORD of "
    "the locked wheel, where facts of it are known.",
    severity=Severity.ERROR,
    rests_on=("metadata", "files", "lock"),
    findings=findings,
)
