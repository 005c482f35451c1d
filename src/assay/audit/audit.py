"""The audit: all rules over one installation. Pure: values in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from assay.audit.context import Context, TargetGpu, label
from assay.audit.facts import Library, WheelFacts
from assay.audit.features import predictions
from assay.audit.findings import AuditReport, CodeRow, Finding, verdict_of
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Installation
from assay.audit.rules_gpu import gpu_rules
from assay.audit.rules_link import link_rules
from assay.audit.rules_requirements import requirement_rules
from assay.audit.rules_sets import set_rules
from assay.audit.rules_torch import torch_rules
from assay.audit.rules_versions import version_rules
from assay.model.outcome import Severity

__all__ = ["Audited", "audit"]

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
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
        code=shown.code,
        packages=dict(sorted(installation.versions.items())),
        unread=shown.unread,
    )
    return Audited(report=report, uncertain=shown.uncertain)


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

    Many cells of a matrix differ in wheels without libraries alone: a release of SGLang, of FlashInfer, of what these
    need. The rules about libraries do not get to see such wheels.
    """
    installation = context.installation
    native = installation.native
    alone = Installation(
        wheels=native, python=installation.python, base=installation.base, complete=installation.complete
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
