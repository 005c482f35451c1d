"""Predict each feature on each target from findings, GPU code and the packages' use of their kernels.

A prediction is never a measurement: it is kept apart from what probes find, and says its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from assay.audit.context import Context, TargetGpu, label
from assay.audit.findings import Finding, Prediction
from assay.audit.gpu import Run, spread
from assay.audit.knowledge import Dispatch, Feature
from assay.audit.missing_libraries import soname_cause
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.versions import fits
from assay.wheels.facts import Library, WheelFacts

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

    def of(self, feature: str, target: str) -> Prediction:
        """Return it as the prediction of a feature on a target."""
        return Prediction(
            target=target,
            feature=feature,
            outcome=self.outcome,
            verdict=self.verdict,
            reason=self.reason,
            cause=self.cause,
        )


def predictions(context: Context, findings: Sequence[Finding], broken: Mapping[str, str]) -> tuple[Prediction, ...]:
    """Return what each feature is expected to do on each target; features nothing here can give are left out.

    Args:
        context: the question.
        findings: what the rules report, in their order.
        broken: path of a library -> why it does not load.
    """
    return tuple(made for target in context.targets for made in _Judge(context, target, findings, broken).all())


class _Judge:
    """Predicts features of one installation on one target."""

    def __init__(
        self, context: Context, target: TargetGpu, findings: Sequence[Finding], broken: Mapping[str, str]
    ) -> None:
        self._context = context
        self._target = target
        self._findings = findings
        self._faulty = broken
        self.given = context.knowledge.dispatch.given_by(context.installation.names)
        self._done: dict[str, _Way | None] = {}
        # Needs at run time (rule R4) without which nothing of a package works.
        self._unmet: dict[str, _Way] = {}
        for need in context.unmet_needs:
            if need.severity == "error" and not need.features:
                way = _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=need.needs, cause=need.cause)
                self._unmet.setdefault(need.package, way)

    def all(self) -> Iterator[Prediction]:
        """Yield what becomes of all features that are asked for."""
        for name in self.given.asked:
            way = self._predict(name)
            if way is not None:
                yield way.of(name, self._target.name)

    def _predict(self, name: str) -> _Way | None:
        """Return what becomes of a feature; None if nothing here can give it."""
        if name not in self._done:
            # Features that need each other in a circle would never end.
            self._done[name] = None
            feature = self.given.asked.get(name)
            own = self._judged(name, feature) if feature is not None else None
            if feature is not None and own is not None:
                self._done[name] = self._with_needs(feature, own)
        return self._done[name]

    def _judged(self, name: str, feature: Feature) -> _Way | None:
        there = self._context.installation.names
        ways = [
            way
            for entry in feature.dispatch
            if entry.package in there and (way := self._way(feature, entry)) is not None
        ]
        if feature.soname:
            ways.append(self._soname_way(feature.soname))
        best = max(ways, key=lambda way: _RANK[way.outcome], default=None)
        for glob, why in feature.unsupported.items():
            # What the hardware lacks, no version of a package has, whatever its kernels are called.
            if self._context.on(self._target, (glob,)) and name in self.given.part:
                best = _Way(outcome=Outcome.UNSUPPORTED, verdict=Verdict.FAIL, reason=why)
        if best is None:
            return None
        for glob, why in feature.degraded.items():
            if best.outcome is Outcome.WORKS and self._context.on(self._target, (glob,)):
                best = _Way(outcome=Outcome.DEGRADED, verdict=Verdict.WARN, reason=why)
        return self._at_run_time(name, best) if best.outcome is Outcome.WORKS else best

    def _with_needs(self, feature: Feature, own: _Way) -> _Way:
        for other in feature.needs:
            needed = self._predict(other)
            if needed is None and own.outcome is Outcome.WORKS and other in self.given.part:
                reason = f"needs {other}, of which nothing is known for {self._target.name} in the versions here"
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

    def _at_run_time(self, feature: str, own: _Way) -> _Way:
        """Say what a feature needs when it runs and no wheel says, where it is not there or nobody said that it is."""
        for mismatch in self._context.mismatches:
            if feature in mismatch.features:
                companion = mismatch.companion
                reason = f"{mismatch.pair} do not go together: {companion.why}"
                return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=reason, cause=companion.cause)
        for need in self._context.unmet_needs:
            if feature not in need.features:
                continue
            version = self._context.installation.wheel(need.package)
            reason = f"{label(version) if version else need.package} {need.needs}"
            whole, base = self._context.installation.whole, self._context.base
            if need.severity == "error" or (whole and base.closed):
                return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=reason, cause=need.cause)
            if whole and base.known:
                return _Way(outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=reason, cause=need.cause)
            return _Way(outcome=own.outcome, verdict=Verdict.WARN, reason=f"{own.reason}; {reason}", cause=own.cause)
        return own

    def _soname_way(self, soname: str) -> _Way:
        """What a shared library that has to come with the base makes of a feature."""
        base = self._context.base
        if base.has(soname):
            return _Way(outcome=Outcome.WORKS, verdict=Verdict.OK, reason=f"{soname} is in the base {base.name}")
        if not base.known:
            return _Way(
                outcome=Outcome.INCONCLUSIVE, verdict=Verdict.WARN, reason=f"whether the base has {soname} is not known"
            )
        reason = f"{soname} is not in the base {base.name}"
        return _Way(outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason=reason, cause=soname_cause(soname))

    def _way(self, feature: Feature, entry: Dispatch) -> _Way | None:
        wheel = self._context.installation.wheel(entry.package)
        if wheel is None or not fits(wheel.version, entry.versions):
            return None
        if entry.targets and not self._context.on(self._target, entry.targets):
            return None
        if wheel.name in self._unmet:
            return self._unmet[wheel.name]
        fault = self._package_fault(wheel, known=entry.code)
        if not entry.code:
            return fault or _Way(
                outcome=Outcome.WORKS,
                verdict=Verdict.OK,
                reason=f"{label(wheel)} has it; rests on {', '.join(needs)}"
                if (needs := [name for name in feature.needs if name in self.given.part])
                else f"every library that {label(wheel)} cannot do without finds what it needs",
            )
        best = self._best_library(wheel, entry)
        return fault if best is not None and fault is not None and _RANK[best.outcome] > _RANK[fault.outcome] else best

    def _best_library(self, wheel: WheelFacts, entry: Dispatch) -> _Way | None:
        ways: list[_Way] = []
        others = self._context.others(wheel)
        for library in wheel.matching(entry.library):
            if library.path in others:
                continue
            way = self._library_way(wheel, library, entry)
            policy = self._context.policy(wheel, library, self._target)
            if way is not None and policy is not None and policy.use == "never":
                reason = f"{library.path} of {label(wheel)} is not used on {self._target.name}: {policy.reason}"
                way = _Way(outcome=Outcome.UNSUPPORTED, verdict=Verdict.FAIL, reason=reason)
            if way is not None:
                ways.append(way)
        return max(ways, key=lambda way: _RANK[way.outcome], default=None)

    def _package_fault(self, wheel: WheelFacts, *, known: bool) -> _Way | None:
        """A library that does not load and without which nothing of the package works.

        Args:
            known: count those alone that are known to be needed, not those of which nothing is known.
        """
        if wheel.paths.isdisjoint(self._faulty):
            return None
        for library in wheel.libraries:
            if library.path in self._faulty:
                policy = self._context.policy(wheel, library, self._target)
                if policy.use == "required" if policy is not None else not known:
                    return self._broken(wheel, library)
        return None

    def _broken(self, wheel: WheelFacts, library: Library) -> _Way:
        finding = next((item for item in self._findings if item.library == library.path and item.cause), None)
        return _Way(
            outcome=Outcome.BROKEN,
            verdict=Verdict.FAIL,
            reason=f"{library.path} of {label(wheel)} does not load: {self._faulty[library.path]}",
            cause=finding.cause if finding else self._cause_of(wheel),
        )

    def _cause_of(self, wheel: WheelFacts) -> str | None:
        return next((item.cause for item in self._findings if item.package == label(wheel) and item.cause), None)

    def _library_way(self, wheel: WheelFacts, library: Library, entry: Dispatch) -> _Way | None:
        broken = self._broken(wheel, library) if library.path in self._faulty else None
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
        found = spread(
            library, entry.kernels, self._target.capability, self._context.knowledge.ptx.isa, self._target.driver_cuda
        )
        if found is None or broken is not None:
            return broken if found is not None else None
        count, parts = found.counts[Run.SASS], sum(found.counts.values())
        where = f"{library.path} of {label(wheel)}"
        match found.best:
            case Run.SASS:
                return _Way(
                    outcome=Outcome.WORKS,
                    verdict=Verdict.OK,
                    reason=f"machine code for {self._target.name} in {count} of {parts} parts of {where}",
                )
            case Run.PTX:
                driver = f", driver for CUDA {found.needs_cuda} or newer" if found.needs_cuda else ""
                return _Way(
                    outcome=entry.on_ptx or Outcome.WORKS,
                    verdict=Verdict.WARN,
                    reason=entry.ptx_reason
                    or f"PTX alone for {self._target.name} in {where}: compiled at first start{driver}",
                )
            case Run.NONE:
                return _Way(
                    outcome=Outcome.BROKEN,
                    verdict=Verdict.FAIL,
                    reason=f"{where} has no code for {self._target.name}",
                    cause="arch-torch-incompatible" if wheel.is_torch else "arch-no-kernel-image",
                )
