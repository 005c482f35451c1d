"""Rule G3: a library has code for a GPU in some of its parts only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from assay.audit.code_rows import judged_rows
from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield the libraries of which some kernels have no code for a target."""
    for one in judged_rows(context):
        if one.row.runs != "partial":
            continue
        row, target = one.row, one.target
        named = ", ".join(dict.fromkeys(_short(context.demangle(name), name) for name in row.kernels_without[:12]))
        yield Finding(
            rule="G3",
            severity=Severity.INFO,
            package=label(one.wheel),
            library=one.library.path,
            target=target.name,
            message=f"{row.none} of {row.sass + row.ptx + row.none} parts have no code for {target.name}"
            + (f": {named}" if named else ""),
            symbols=row.kernels_without[:8],
            symbols_count=len(row.kernels_without),
        )


@lru_cache(maxsize=1 << 12)
def _short(text: str, name: str) -> str:
    """Return the kernel's own name, without namespaces and arguments."""
    depth = 0
    kept: list[str] = []
    for char in text.removeprefix("void "):
        if char in "<(":
            depth += 1
        elif char in ">)":
            depth -= 1
        elif depth == 0:
            kept.append(char)
    return "".join(kept).strip()[:80] or name[:80]


RULE: Final = AuditRule(
    id="G3",
    text="A library has code for this GPU in some of its parts only.",
    known_by="Normal for libraries with kernels of several architectures; the kernels without code are named.",
    severity=Severity.INFO,
    rests_on=("GPU code", "Python", "targets", "knowledge"),
    findings=findings,
)
