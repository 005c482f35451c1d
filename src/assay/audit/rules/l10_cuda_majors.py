"""Rule L10: libraries of one process need the runtimes of two CUDA major versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield one finding where two versions of libcudart would be loaded."""
    users: dict[str, set[str]] = defaultdict(set)
    torch = context.torch
    for found in context.linker.loaded.values() if torch is not None else ():
        if torch is not None and found.soname.startswith("libcudart.so."):
            users[found.soname].add(label(torch))
    for root in context.roots:
        for name in root.library.needs:
            if name.startswith("libcudart.so."):
                users[name].add(label(root.wheel))
    if len(users) > 1:
        parts = "; ".join(f"{name} by {', '.join(sorted(who)[:3])}" for name, who in sorted(users.items()))
        yield Finding(
            rule="L10",
            severity=Severity.WARNING,
            package=min(next(iter(users.values()))),
            message=f"two CUDA major versions in one process: {parts}; they share neither state nor errors",
            fix="take every package for the same CUDA version",
        )


RULE: Final = AuditRule(
    id="L10",
    text="Parts of two CUDA major versions would be loaded into one process.",
    known_by="Two sonames of libcudart.",
    severity=Severity.WARNING,
    rests_on=("libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
)
