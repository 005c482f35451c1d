"""Rule G4: a package's own dispatch admits a GPU for which its library has no code, or refuses one for which it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, TargetGpu, label
from assay.audit.findings import Finding
from assay.audit.gpu import spelled_targets
from assay.audit.guards import Guard, Held, held
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each guard and target that do not go with the code."""
    for guard in context.knowledge.guards.guards if context.targets else ():
        package = context.installation.wheel(guard.package)
        wheel = context.installation.wheel(guard.of or guard.package)
        if package is None or wheel is None or not guard.is_of(package.version):
            continue
        for target in context.targets:
            if guard.is_about(target.dotted):
                yield from _compared(context, guard, package, wheel, target)


def _compared(
    context: Context, guard: Guard, package: WheelFacts, wheel: WheelFacts, target: TargetGpu
) -> Iterator[Finding]:
    code = held(guard, wheel, target.capability, context.knowledge.ptx.isa, target.driver_cuda)
    if code is None:
        return
    admitted = guard.admitted(target.dotted)
    if admitted and code.how in {"none", "absent"}:
        yield Finding(
            rule="G4",
            severity=Severity.WARNING,
            package=label(package),
            library=code.library if code.how == "none" else "",
            target=target.name,
            message=f"{_where(guard)} admits {target.name} for {guard.what}, {_lack(guard, wheel, code)}",
            cause="arch-no-kernel-image" if code.how == "none" else None,
            fix=f"do not use {guard.what} on {target.name}, or build {wheel.name} for it",
        )
    elif not admitted and code.how == "sass":
        yield Finding(
            rule="G4",
            severity=Severity.INFO,
            package=label(package),
            library=code.library,
            target=target.name,
            message=f"{_where(guard)} refuses {target.name} for {guard.what}, though {code.library} has machine code "
            f"for it ({', '.join(spelled_targets(code.targets))})",
        )


def _where(guard: Guard) -> str:
    return f"{guard.file} (line {guard.line} in {guard.release})"


def _lack(guard: Guard, wheel: WheelFacts, code: Held) -> str:
    if code.how == "absent":
        return f"but {label(wheel)} has no {guard.library} ({wheel.filename})"
    has = ", ".join(spelled_targets(code.targets))
    if guard.specific:
        has += "; these kernels need code with suffix a or f"
    return f"but {code.library} has no code that it can run: {has}"


RULE: Final = AuditRule(
    id="G4",
    text="A package's own dispatch admits a GPU for which its library has no code, or refuses one for which it has.",
    known_by="Guards in the packages' files (`knowledge/guards.yaml`) against `.nv_fatbin`. A refusal is a note: "
    "it may have other reasons.",
    severity=Severity.WARNING,
    rests_on=("metadata", "GPU code", "targets", "knowledge"),
    findings=findings,
)
