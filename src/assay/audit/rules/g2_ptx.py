"""Rule G2: a library has PTX alone for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.code_rows import judged_rows
from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.wheels.symbols import SymbolKind

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield the libraries that the driver compiles at first start."""
    for one in judged_rows(context):
        if one.row.runs != "ptx":
            continue
        row, target = one.row, one.target
        loaded_by_torch = one.wheel.is_torch or one.library.torch_kind is not SymbolKind.NONE
        driver = f"a driver for CUDA {row.needs_cuda} or newer" if row.needs_cuda else "the driver"
        yield Finding(
            rule="G2",
            severity=Severity.WARNING if loaded_by_torch and not one.policy else Severity.INFO,
            package=label(one.wheel),
            library=one.library.path,
            target=target.name,
            message=f"has PTX, no machine code, for {target.name} in {row.ptx} of {row.sass + row.ptx} parts: "
            f"compiled at first start by {driver}, which is slow",
        )


RULE: Final = AuditRule(
    id="G2",
    text="A library has PTX alone for this GPU.",
    known_by="The driver compiles it at first use, and must know its PTX version.",
    severity=Severity.WARNING,
    rests_on=("libraries", "GPU code", "Python", "targets", "knowledge"),
    findings=findings,
)
