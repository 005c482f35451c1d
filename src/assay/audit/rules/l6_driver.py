"""Rule L6: a library needs functions of a newer driver, where the driver is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.resolve import is_out_of_reach, unresolved
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.foundation.versions import parsed

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield the functions that the driver of a target lacks."""
    drivers = [(target.name, target.driver_cuda) for target in context.targets if target.driver_cuda is not None]
    for one in context.shared(unresolved) if drivers else ():
        if is_out_of_reach(context, one):
            continue
        for target, driver in drivers:
            for name in one.driver:
                cuda = _newer(context, name, driver)
                if cuda is not None:
                    yield Finding(
                        rule="L6",
                        severity=Severity.ERROR,
                        package=label(one.wheel),
                        library=one.library.path,
                        target=target,
                        message=f"needs {name} of a driver for CUDA {cuda}; the driver is for {driver}",
                        symbols=(name,),
                        symbols_count=1,
                    )


def _newer(context: Context, name: str, driver: str) -> str | None:
    """Return the CUDA version of the drivers that have a function, if that is newer than this one's."""
    return next(
        (
            cuda
            for start, cuda in context.knowledge.ptx.symbols.items()
            if name.startswith(start) and parsed(cuda) > parsed(driver)
        ),
        None,
    )


RULE: Final = AuditRule(
    id="L6",
    text="A library needs functions of a newer driver.",
    known_by="Only with `--driver-cuda`: `knowledge/ptx_isa.yaml`.",
    severity=Severity.ERROR,
    rests_on=("libraries", "targets", "knowledge"),
    findings=findings,
)
