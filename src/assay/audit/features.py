"""Predicts each feature on each target from findings, GPU code and what is known of how packages use their kernels.

A prediction is never a measurement: it is kept apart from what probes find, and says its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from assay.audit.context import Context, TargetGpu, label
from assay.audit.facts import Library, WheelFacts
from assay.audit.findings import Finding, Prediction
from assay.audit.gpu import Run, group_runs
from assay.audit.knowledge import Dispatch, Feature, fits
from assay.audit.rules_link import soname_cause
from assay.model.outcome import Outcome, Verdict

__all__ = ["predictions"]

_RANK = {
    Outcome.WORKS: 6,
    Outcome.DEGRADED: 5,
    Outcome.INCONCLUSIVE: 4,
    Outcome.WRONG: 3,
    Outcome.BROKEN: 2,
    Outcome.UNSUPPORTED: 1,
    Outcome.NOT_RUN: 0,
}


@dataclass(frozen=True, kw_only=True)
class _Way:
    """What one package makes of a feature."""

    outcome: Outcome
    verdict: Verdict
    reason: str
    cause: str | None = None


def predictions(context: Context) -> tuple[Prediction, ...]:
    """Return what each feature is expected to do on each target; features nothing here can give are left out."""
    made: list[Prediction] = []
    for target in context.targets:
        done: dict[str, _Way | None] = {}
        made.extend(
            Prediction(
                target=target.name,
                feature=name,
                outcome=way.outcome,
                verdict=way.verdict,
                reason=way.reason,
                cause=way.cause,
            )
            for name in context.knowledge.dispatch.features
            if (way := _predict(context, target, name, done)) is not None
        )
    return tuple(made)


def _predict(context: Context, target: TargetGpu, name: str, done: dict[str, _Way | None]) -> _Way | None:
    if name not in done:
        # Features that need each other in a circle would never end.
        done[name] = None
        feature = context.knowledge.dispatch.features.get(name)
        done[name] = _predicted(context, target, name, feature, done) if feature is not None else None
    return done[name]


def _predicted(
    context: Context, target: TargetGpu, name: str, feature: Feature, done: dict[str, _Way | None]
) -> _Way | None:
    if not (feature.soname or _has_part(context, name)):
        return None
    if any(context.installation.wheel(package) is None for package in feature.packages):
        return None
    ways = [way for entry in feature.dispatch if (way := _way(context, target, feature, entry)) is not None]
    if feature.soname:
        ways.append(_soname_way(context, feature.soname))
    best = max(ways, key=lambda way: _RANK[way.outcome], default=None)
    for glob, why in feature.unsupported.items():
        # What the hardware lacks, no version of a package has, whatever its kernels are called.
        if fnmatchcase(target.dotted, glob) and _has_part(context, name):
            best = _Way(outcome=Outcome.UNSUPPORTED, verdict=Verdict.FAIL, reason=why)
    if best is None:
        return None
    for glob, why in feature.degraded.items():
        if fnmatchcase(target.dotted, glob) and best.outcome is Outcome.WORKS:
            best = _Way(outcome=Outcome.DEGRADED, verdict=Verdict.WARN, reason=why)
    if best.outcome is Outcome.WORKS:
        best = _at_run_time(context, name, best)
    return _with_needs(context, target, feature, best, done)


def _with_needs(context: Context, target: TargetGpu, feature: Feature, own: _Way, done: dict[str, _Way | None]) -> _Way:
    for other in feature.needs:
        needed = _predict(context, target, other, done)
        if needed is None and own.outcome is Outcome.WORKS and _has_part(context, other):
            reason = f"needs {other}, of which nothing is known for {target.name} in the versions here"
            own = _Way(outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=reason)
        if needed is not None and needed.outcome is Outcome.INCONCLUSIVE and own.outcome is Outcome.WORKS:
            own = _Way(outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=f"needs {other}: {needed.reason}")
        if needed is not None and needed.outcome in {Outcome.BROKEN, Outcome.UNSUPPORTED, Outcome.WRONG}:
            if own.outcome in {Outcome.BROKEN, Outcome.UNSUPPORTED}:
                return own
            # What rests on something unsupported or wrong is so itself.
            return _Way(
                outcome=needed.outcome,
                verdict=Verdict.FAIL,
                reason=f"needs {other}: {needed.reason}",
                cause=needed.cause,
            )
    return own


def _at_run_time(context: Context, feature: str, own: _Way) -> _Way:
    """Say what a feature needs when it runs and no wheel says, where it is not there or nobody said that it is."""
    for need in context.unmet_needs:
        if feature not in need.features:
            continue
        version = context.installation.wheel(need.package)
        reason = f"{label(version) if version else need.package} {need.needs}"
        if need.severity == "error":
            return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=reason, cause=need.cause)
        if context.installation.whole and context.base.known:
            return _Way(outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=reason, cause=need.cause)
        return _Way(outcome=own.outcome, verdict=Verdict.WARN, reason=f"{own.reason}; {reason}", cause=own.cause)
    return own


def _has_part(context: Context, feature: str) -> bool:
    """Whether a package is there that could give a feature in another version or on another target."""
    known = context.knowledge.dispatch.features.get(feature)
    return known is not None and not known.givers.isdisjoint(context.installation.names)


def _soname_way(context: Context, soname: str) -> _Way:
    """What a shared library that has to come with the base makes of a feature."""
    base = context.base
    if soname in base.sonames or soname in context.linker.system:
        return _Way(outcome=Outcome.WORKS, verdict=Verdict.OK, reason=f"{soname} is in the base {base.name}")
    if not base.known:
        return _Way(
            outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=f"whether the base has {soname} is not known"
        )
    reason = f"{soname} is not in the base {base.name}"
    return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=reason, cause=soname_cause(soname))


def _way(context: Context, target: TargetGpu, feature: Feature, entry: Dispatch) -> _Way | None:
    wheel = context.installation.wheel(entry.package)
    if wheel is None or not fits(wheel.version, entry.versions):
        return None
    if entry.targets and not context.on(target, entry.targets):
        return None
    needed = _unmet(context, wheel)
    if needed is not None:
        return needed
    fault = _package_fault(context, target, wheel, known=entry.code)
    if not entry.code:
        return fault or _Way(
            outcome=Outcome.WORKS,
            verdict=Verdict.OK,
            reason=f"{label(wheel)} has it; rests on {', '.join(needs)}"
            if (needs := [name for name in feature.needs if _has_part(context, name)])
            else f"every library that {label(wheel)} cannot do without finds what it needs",
        )
    ways: list[_Way] = []
    for library in wheel.matching(entry.library):
        if context.for_others(wheel, library):
            continue
        way = _library_way(context, target, wheel, library, entry)
        policy = context.policy(wheel, library, target)
        if way is not None and policy is not None and policy.use == "never":
            reason = f"{library.path} of {label(wheel)} is not used on {target.name}: {policy.reason}"
            way = _Way(outcome=Outcome.UNSUPPORTED, verdict=Verdict.FAIL, reason=reason)
        if way is not None:
            ways.append(way)
    if not ways:
        return None
    best = max(ways, key=lambda way: _RANK[way.outcome])
    return fault if fault is not None and _RANK[best.outcome] > _RANK[fault.outcome] else best


def _unmet(context: Context, wheel: WheelFacts) -> _Way | None:
    """A need at run time (rule R4) without which nothing of this package works."""
    for need in context.unmet_needs:
        if need.package == wheel.name and need.severity == "error" and not need.features:
            return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=need.needs, cause=need.cause)
    return None


def _package_fault(context: Context, target: TargetGpu, wheel: WheelFacts, *, known: bool) -> _Way | None:
    """A library that does not load and without which nothing of the package works.

    Args:
        known: count those alone that are known to be needed, not those of which nothing is known.
    """
    if wheel.paths.isdisjoint(context.broken):
        return None
    for library in wheel.libraries:
        if library.path in context.broken:
            policy = context.policy(wheel, library, target)
            if policy.use == "required" if policy is not None else not known:
                return _broken(context, wheel, library)
    return None


def _broken(context: Context, wheel: WheelFacts, library: Library) -> _Way:
    finding = next((item for item in context.findings if item.library == library.path and item.cause), None)
    return _Way(
        outcome=Outcome.BROKEN,
        verdict=Verdict.FAIL,
        reason=f"{library.path} of {label(wheel)} does not load: {context.broken[library.path]}",
        cause=finding.cause if finding else _cause_of(context.findings, wheel),
    )


def _cause_of(findings: list[Finding], wheel: WheelFacts) -> str | None:
    return next((item.cause for item in findings if item.package == label(wheel) and item.cause), None)


def _library_way(
    context: Context, target: TargetGpu, wheel: WheelFacts, library: Library, entry: Dispatch
) -> _Way | None:
    broken = _broken(context, wheel, library) if library.path in context.broken else None
    if library.gpu is None:
        if library.scope == "full":
            return None if entry.kernels else broken
        if broken:
            return broken
        return _Way(
            outcome=Outcome.INCONCLUSIVE,
            verdict=Verdict.WARN,
            reason=f"the GPU code of {library.path} was not read",
        )
    best: tuple[Run, str | None] | None = None
    counted = {Run.SASS: 0, Run.PTX: 0, Run.NONE: 0}
    for group in library.groups_with(entry.kernels):
        how, cuda = group_runs(group, target.capability, context.knowledge.ptx.isa, target.driver_cuda)
        counted[how] += group.containers
        if best is None or _ORDER[how] > _ORDER[best[0]]:
            best = (how, cuda)
    if best is None or broken is not None:
        return broken if best is not None else None
    parts = sum(counted.values())
    where = f"{library.path} of {label(wheel)}"
    match best[0]:
        case Run.SASS:
            return _Way(
                outcome=Outcome.WORKS,
                verdict=Verdict.OK,
                reason=f"machine code for {target.name} in {counted[Run.SASS]} of {parts} parts of {where}",
            )
        case Run.PTX:
            driver = f", driver for CUDA {best[1]} or newer" if best[1] else ""
            return _Way(
                outcome=entry.on_ptx or Outcome.WORKS,
                verdict=Verdict.WARN,
                reason=entry.ptx_reason or f"PTX alone for {target.name} in {where}: compiled at first start{driver}",
            )
        case Run.NONE:
            return _Way(
                outcome=Outcome.BROKEN,
                verdict=Verdict.FAIL,
                reason=f"{where} has no code for {target.name}",
                cause="arch-torch-incompatible" if wheel.is_torch else "arch-no-kernel-image",
            )


_ORDER = {Run.NONE: 0, Run.PTX: 1, Run.SASS: 2}
