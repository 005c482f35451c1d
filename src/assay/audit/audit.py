"""The audit: all rules over one installation. Pure: values in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from assay.audit.code_rows import code_rows
from assay.audit.context import AsLocked, Context, TargetGpu, label
from assay.audit.features import predictions
from assay.audit.findings import AuditReport, Finding, Prediction, verdict_of
from assay.audit.installation import Installation
from assay.audit.knowledge import Knowledge
from assay.audit.resolve import uncertain
from assay.audit.rules import ALL
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts

__all__ = ["Audited", "audit", "broken_libraries"]

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
UNREAD_FROM: Final = 1 << 20
"""Bytes from which on a library that was not read wholly may hold GPU code: CUDA's static runtime is about as large."""


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
    known: Mapping[str, Sequence[WheelFacts]] = MappingProxyType({}),
    problems: Sequence[Finding] = (),
    locked: AsLocked | None = None,
) -> Audited:
    """Apply every rule.

    Args:
        installation: what is, or would be, installed.
        knowledge: facts that age.
        targets: GPUs that have to be supported; none: only what does not depend on the GPU is judged.
        name: what the report is called.
        subject: what is judged.
        demangle: names as people write them.
        known: facts of other versions of the same packages, for suggestions.
        problems: findings of the reading itself (rule F1).
        locked: for images: what should be installed (rule R5).
    """
    context = Context(
        installation=installation,
        knowledge=knowledge,
        targets=targets,
        demangle=demangle,
        known=known,
        problems=problems,
        locked=locked,
    )
    found = [finding for rule in ALL for finding in rule.findings(context)]
    predicted = _with_asked(context, predictions(context, found, broken_libraries(context)))
    ordered = sorted(
        dict.fromkeys(found), key=lambda item: (_ORDER[item.severity], item.rule, item.package, item.library)
    )
    report = AuditReport(
        subject=subject,
        name=name,
        python=installation.python,
        base=installation.base.name,
        targets=tuple(target.name for target in targets),
        verdict=verdict_of(ordered, predicted),
        findings=tuple(ordered),
        predictions=predicted,
        code=tuple(one.row for one in context.shared(code_rows)),
        packages=dict(sorted(installation.versions.items())),
        unread=_unread(installation),
        asked=tuple(label(wheel) for wheel in installation.wheels if wheel.name in installation.asked),
        platform=installation.machine,
        titles={target.name: target.title for target in targets if target.title},
        code_unread=_code_unread(installation) if targets else (),
    )
    return Audited(report=report, uncertain=uncertain(context))


def broken_libraries(context: Context) -> dict[str, str]:
    """Return path -> why of the libraries that do not load; of several reasons the first rule's."""
    broken: dict[str, str] = {}
    for rule in ALL:
        for path, why in rule.breaks(context):
            broken.setdefault(path, why)
    return broken


def _with_asked(context: Context, predicted: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    """Mark the features that a wheel which was asked about can give."""
    asked = context.installation.asked
    if not asked:
        return predicted
    features = context.knowledge.dispatch.features
    return tuple(
        one if asked.isdisjoint(features[one.feature].givers) else one.model_copy(update={"asked": True})
        for one in predicted
    )


def _unread(installation: Installation) -> tuple[str, ...]:
    """Return the wheels of which some library is known by name alone."""
    return tuple(
        label(wheel)
        for wheel in installation.native
        if any(library.scope == "listed" and library.problem is None for library in wheel.libraries)
    )


def _code_unread(installation: Installation) -> tuple[str, ...]:
    """Return the wheels asked about that may have GPU code, in large libraries that nobody read wholly, and show none.

    CUDA that is linked statically is not among what a library asks for: only reading all of it would tell.
    """
    return tuple(
        label(wheel)
        for wheel in installation.native
        if wheel.name in installation.asked
        and not any(library.gpu is not None for library in wheel.libraries)
        and any(library.scope != "full" and library.size >= UNREAD_FROM for library in wheel.libraries)
    )
