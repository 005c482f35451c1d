"""The audit: all rules over one installation. Pure: values in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from assay.audit.context import Context, TargetGpu, label
from assay.audit.features import predictions
from assay.audit.findings import AuditReport, CodeRow, Finding, Prediction, verdict_of
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Installation
from assay.audit.rules.alternatives import alternative_rules
from assay.audit.rules.gpu import gpu_rules
from assay.audit.rules.link import link_rules
from assay.audit.rules.requirements import requirement_rules
from assay.audit.rules.sets import set_rules
from assay.audit.rules.torch import torch_rules
from assay.audit.rules.versions import version_rules
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts

__all__ = ["Audited", "audit"]

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
UNREAD_FROM: Final = 1 << 20
"""Bytes from which on a library that was not read wholly may hold GPU code: CUDA's static runtime is about as large."""
_NOTHING_KNOWN: Final[Mapping[str, Sequence[WheelFacts]]] = {}


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
        known=_NOTHING_KNOWN if known is None else known,
    )
    context.findings.extend(problems)
    requirement_rules(context)
    set_rules(context)
    shown = _shown_by_libraries(context)
    context.findings += shown.findings
    context.broken.update(shown.broken)
    predicted = _with_asked(context, predictions(context))
    ordered = sorted(
        dict.fromkeys(context.findings), key=lambda item: (_ORDER[item.severity], item.rule, item.package, item.library)
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
        code=shown.code,
        packages=dict(sorted(installation.versions.items())),
        unread=shown.unread,
        asked=tuple(label(wheel) for wheel in installation.wheels if wheel.name in installation.asked),
        platform=installation.machine,
        titles={target.name: target.title for target in targets if target.title},
        code_unread=_code_unread(installation) if targets else (),
    )
    return Audited(report=report, uncertain=shown.uncertain)


def _with_asked(context: Context, predicted: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    """Mark the features that a wheel which was asked about can give."""
    asked = context.installation.asked
    if not asked:
        return predicted
    givers = context.knowledge.dispatch.given_by(context.installation.names).givers
    return tuple(
        one if asked.isdisjoint(givers.get(one.feature, ())) else one.model_copy(update={"asked": True})
        for one in predicted
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


class _Shown(NamedTuple):
    """What the libraries of an installation show, whatever else is in it."""

    findings: tuple[Finding, ...]
    broken: Mapping[str, str]
    """Path of a library -> why it does not load."""
    uncertain: frozenset[tuple[str, str]]
    """As in `Audited`."""
    code: tuple[CodeRow, ...]
    unread: tuple[str, ...]


def _shown_by_libraries(context: Context) -> _Shown:
    """Apply the rules about libraries, once for all cells with the same ones.

    Many cells of a matrix differ in wheels without libraries alone: a release of an engine, of FlashInfer, of what
    these need. The rules about libraries do not get to see such wheels.
    """
    installation = context.installation
    native = installation.native
    alone = Installation(
        wheels=native,
        python=installation.python,
        base=installation.base,
        complete=installation.complete,
        machine=installation.machine,
    )
    seen = replace(context, installation=alone, findings=[], broken={})
    if not native or installation.base.read:
        return _apply(seen)
    beside = (native, context.knowledge, context.demangle, context.known)
    key = "shown", *map(id, native), *map(id, beside[1:]), alone.python, alone.base, alone.complete
    return native[0].once((*key, *context.targets), beside, lambda: _apply(seen))


def _unreadable(library: Library) -> Iterator[str]:
    """Yield what of a library could not be read; that containers do not fill their section is no loss."""
    if library.problem is not None:
        yield library.problem
    if library.gpu is not None:
        yield from (trouble for trouble in library.gpu.damage if not trouble.startswith("containers cover"))


def _apply(context: Context) -> _Shown:
    """Apply the rules about libraries."""
    for wheel in context.installation.native:
        for library in wheel.libraries:
            for trouble in _unreadable(library):
                context.add(
                    Finding(
                        rule="F1",
                        severity=Severity.WARNING,
                        package=label(wheel),
                        library=library.path,
                        message=f"could not be read: {trouble}",
                    )
                )
    before = len(context.findings)
    link_rules(context)
    alternative_rules(context)
    version_rules(context)
    context.settle(context.findings[before:])
    torch_rules(context)
    rows = gpu_rules(context)
    return _Shown(
        findings=tuple(context.findings),
        broken=context.broken,
        uncertain=frozenset[tuple[str, str]]().union(*context.uncertain.values()),
        code=tuple(rows),
        unread=tuple(
            label(wheel)
            for wheel in context.installation.native
            if any(library.scope == "listed" and library.problem is None for library in wheel.libraries)
        ),
    )
