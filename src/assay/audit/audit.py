"""The audit: all rules over one installation. Pure: values in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assay.audit.context import Context, TargetGpu, label
from assay.audit.facts import WheelFacts
from assay.audit.features import predictions
from assay.audit.findings import AuditReport, Finding, verdict_of
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Installation
from assay.audit.rules_gpu import gpu_rules
from assay.audit.rules_link import link_rules
from assay.audit.rules_requirements import requirement_rules
from assay.audit.rules_torch import torch_rules
from assay.audit.rules_versions import version_rules
from assay.model.outcome import Severity

__all__ = ["Audited", "audit"]

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


@dataclass(frozen=True, kw_only=True)
class Audited:
    """A report, and what it does not rest on."""

    report: AuditReport
    uncertain: frozenset[tuple[str, str]]
    """(sha256, path) of libraries whose symbols would have to be read for the verdict to be certain."""


def audit(
    installation: Installation,
    knowledge: Knowledge,
    *,
    targets: Sequence[TargetGpu] = (),
    name: str = "",
    subject: Literal["wheels", "image"] = "wheels",
    demangle: Callable[[str], str] = str,
    known: Mapping[str, Sequence[WheelFacts]] | None = None,
    problems: Sequence[Finding] = (),
) -> Audited:
    """Apply every rule.

    Args:
        installation: what is, or would be, installed.
        targets: GPUs to be true on; none: only what does not depend on the GPU is judged.
        demangle: names as people write them.
        known: facts of other versions of the same packages, for suggestions.
        problems: findings of the reading itself (rule F1).
    """
    context = Context(
        installation=installation,
        knowledge=knowledge,
        targets=targets,
        demangle=demangle,
        # A mapping that reads when it is asked is empty until then.
        known={} if known is None else known,
    )
    context.findings.extend(problems)
    _apply(context)
    rows = gpu_rules(context)
    predicted = predictions(context)
    ordered = sorted(
        dict.fromkeys(context.findings), key=lambda item: (_ORDER[item.severity], item.rule, item.package, item.library)
    )
    report = AuditReport(
        subject=subject,
        name=name,
        python=installation.python,
        base=installation.base.name,
        targets=tuple(target.name for target in targets),
        verdict=verdict_of(ordered),
        findings=tuple(ordered),
        predictions=predicted,
        code=tuple(rows),
        packages={wheel.name: wheel.version for wheel in sorted(installation.wheels, key=lambda item: item.name)},
        unread=tuple(
            label(wheel)
            for wheel in installation.native
            if any(library.scope == "listed" and library.problem is None for library in wheel.libraries)
        ),
    )
    return Audited(report=report, uncertain=frozenset[tuple[str, str]]().union(*context.uncertain.values()))


def _apply(context: Context) -> None:
    for wheel in context.installation.native:
        for library in wheel.libraries:
            if library.problem is not None:
                context.add(
                    Finding(
                        rule="F1",
                        severity=Severity.WARNING,
                        package=label(wheel),
                        library=library.path,
                        message=f"could not be read: {library.problem}",
                    )
                )
    requirement_rules(context)
    before = len(context.findings)
    link_rules(context)
    version_rules(context)
    context.settle(context.findings[before:])
    torch_rules(context)
