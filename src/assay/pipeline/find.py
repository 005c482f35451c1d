"""Find the newest release that fits a card: walk releases, resolve, audit, and stop at the first that passes.

For each release the Pythons that it has a wheel for are tried in order until one resolves. Where the audit fails, the
constraints that it asks for are given to the resolver, then other CUDA builds of torch and of the release are tried.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.audit.found import Attempt, MissingFeature, Search
from assay.audit.installation import Base
from assay.errors import PackageIndexError, UsageError
from assay.foundation.nearest import suggestion
from assay.foundation.outcome import Outcome, Severity
from assay.matrix.lock import Lock
from assay.pipeline.audit import Auditor
from assay.pipeline.releases import Release, builds, pythons_of, releases
from assay.ports.index import PackageIndex
from assay.ports.resolver import Failure, Resolver, ResolveRequest, Unresolved

__all__ = ["FindPorts", "Fit", "Wanted", "find"]

_AHEAD: Final = (1, 9)
"""Releases that are resolved at once: the first alone, as it often fits; then many, as a resolver mostly waits."""
_REPAIRS: Final = 3
"""Rounds of constraints: one may bring to light the next mismatch."""
_OF_PYTHON: Final = frozenset({"R2", "L5"})
"""Rules whose errors another Python may not have."""
_REASONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is searched for."""

    subject: Requirement
    beside: tuple[str, ...] = ()
    """Requirements on what else is installed."""
    needs: tuple[str, ...] = ()
    """Features that have to be predicted to work on every target."""
    targets: tuple[TargetGpu, ...]
    machine: str
    base: Base
    pythons: tuple[str, ...]
    """In the order of preference."""
    request: ResolveRequest
    """What each resolution has in common: indexes, constraints, platform; its requirements and Python are replaced."""
    pre: bool = False
    most: int
    """Releases that are tried at most."""

    @property
    def platform(self) -> str:
        """`x86_64-manylinux_2_36`."""
        return self.request.platform


@dataclass(frozen=True, kw_only=True)
class FindPorts:
    """What a search needs from the world."""

    index: PackageIndex
    resolver: Resolver
    auditor: Auditor
    say: Callable[[str], None] = lambda _text: None
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends the resolutions that run while it is set: set when a search ends."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a search ends with."""

    search: Search
    lock: Lock | None = None
    """Of the release that fits."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    attempt: Attempt
    lock: Lock | None = None
    report: AuditReport | None = None
    errors: frozenset[str] = field(default=frozenset())
    """Rules."""


def find(wanted: Wanted, ports: FindPorts) -> Fit:
    """Walk the releases, newest first, until one fits.

    Raises:
        UsageError: a need is not a feature, or no package of the set can ever give it.
        QuestionError: the index does not know the name, has no such version, or has sources alone.
        PackageIndexError: the index cannot be asked.
    """
    started = time.monotonic()
    _check_needs(wanted, ports.auditor)
    there = releases(ports.index, wanted.subject, pre=wanted.pre)
    walk = _Walk(wanted, ports)
    attempts: list[Attempt] = []
    lock = None
    tried = there[: wanted.most]
    for found in walk.attempts(tried):
        attempts.append(found.attempt)
        if found.attempt.outcome == "fits":
            lock = found.lock
            break
    done = {one.version for one in attempts}
    search = Search(
        asked=str(wanted.subject),
        beside=wanted.beside,
        needs=wanted.needs,
        platform=wanted.machine,
        targets=tuple(target.name for target in wanted.targets),
        titles={target.name: target.title for target in wanted.targets if target.title},
        base=wanted.base.name,
        attempts=tuple(attempts),
        untried=sum(str(one.version) not in done for one in there),
        seconds=round(time.monotonic() - started, 1),
    )
    return Fit(search=search, lock=lock)


def _check_needs(wanted: Wanted, auditor: Auditor) -> None:
    features = auditor.knowledge.dispatch.features
    for need in wanted.needs:
        if need not in features:
            words = suggestion(need, features) or f"; known: {', '.join(sorted(features))}"
            raise UsageError(f"--need {need}: there is no such feature{words}")


class _Walk:
    """One search: resolves a few releases ahead of the one that is judged."""

    def __init__(self, wanted: Wanted, ports: FindPorts) -> None:
        self._wanted = wanted
        self._ports = ports
        self._name = str(canonicalize_name(wanted.subject.name))
        self._learned: tuple[str, ...] = ()
        """Constraints that the audit of a newer release asked for: an older one mostly needs them too."""

    def attempts(self, there: Sequence[Release]) -> Iterator[_Judged]:
        """Yield what becomes of each release."""
        pool = ThreadPoolExecutor(max(_AHEAD))
        ahead: dict[int, Future[Lock | Unresolved]] = {}
        try:
            for number, release in enumerate(there):
                width = _AHEAD[min(number, len(_AHEAD) - 1)]
                for near in range(number, min(number + width, len(there))):
                    usable = self._pythons(there[near])
                    if near not in ahead and usable:
                        ahead[near] = pool.submit(self._resolve, there[near], usable[0], more=self._learned)
                yield from self._release(release, ahead.pop(number, None))
        finally:
            self._ports.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._ports.stop.clear()

    def _pythons(self, release: Release) -> list[str]:
        return pythons_of(release, self._wanted.pythons, self._wanted.platform)

    def _release(self, release: Release, first: Future[Lock | Unresolved] | None) -> Iterator[_Judged]:
        """Yield what becomes of a release: one attempt, or one for each Python that makes a difference."""
        version = str(release.version)
        usable = self._pythons(release)
        if first is None or not usable:
            reason = release.lack(self._wanted.platform)
            self._ports.say(f"{self._name} {version}: {reason}")
            yield _Judged(attempt=Attempt(version=version, outcome="no_wheel", reasons=(reason,)))
            return
        for number, python in enumerate(usable):
            self._ports.say(f"{self._name} {version}: resolving for Python {python} on {self._wanted.machine}")
            answer = first.result() if number == 0 else self._resolve(release, python, more=self._learned)
            if isinstance(answer, Unresolved) and self._learned:
                answer = self._resolve(release, python)
            if isinstance(answer, Unresolved):
                if answer.failure is Failure.UNREACHABLE:
                    raise PackageIndexError(answer.explanation)
                found = _Judged(attempt=_unresolved(version, python, answer))
            else:
                found = self._best(release, answer)
            yield found
            if found.attempt.outcome == "fits" or (found.lock is not None and not found.errors & _OF_PYTHON):
                return

    def _resolve(
        self, release: Release, python: str, *, more: Sequence[str] = (), exact: str | None = None
    ) -> Lock | Unresolved:
        wanted = self._wanted
        extras = f"[{','.join(sorted(wanted.subject.extras))}]" if wanted.subject.extras else ""
        requirements = (f"{self._name}{extras}=={exact or release.version}", *wanted.beside)
        constraints = (*wanted.request.constraints, *more)
        request = replace(wanted.request, requirements=requirements, constraints=constraints, python=python)
        answer = self._ports.resolver.resolve(request)
        if isinstance(answer, Unresolved):
            return answer
        return Lock(
            cell=f"{self._name} {release.version}",
            python=python,
            platform=request.platform,
            requirements=requirements,
            constraints=tuple(constraints),
            base=re.sub(r"[^A-Za-z0-9._]", ".", wanted.base.name),
            as_of=request.as_of,
            wheels=answer.wheels,
        )

    def _best(self, release: Release, lock: Lock) -> _Judged:
        """Judge a lock; where it fails, try what the audit asks for, then other CUDA builds."""
        found = self._repaired(release, lock, exact=None, variant="")
        if found.attempt.outcome != "fails" or found.lock is None:
            return found
        for name in dict.fromkeys(("torch", self._name)):
            wheel = found.lock.wheel(name)
            if wheel is None:
                continue
            for build in builds(self._ports.index, name, wheel.version, lock.python, lock.platform):
                self._ports.say(f"{self._name} {release.version}: trying {name} {build}")
                exact, more = (build, ()) if name == self._name else (None, (f"{name}=={build}",))
                other = self._resolve(release, lock.python, more=more, exact=exact)
                if isinstance(other, Lock):
                    judged = self._repaired(release, other, exact=exact, variant=f"{name} {build}")
                    if judged.attempt.outcome == "fits":
                        return judged
        return found

    def _repaired(self, release: Release, lock: Lock, *, exact: str | None, variant: str) -> _Judged:
        """Judge a lock, and lock again with the constraints that the audit asks for."""
        given = lock.constraints[len(self._wanted.request.constraints) :]
        given = tuple(one for one in given if one in self._learned)
        found = self._judged(release, lock, variant, given)
        for _ in range(_REPAIRS):
            asked = tuple(
                dict.fromkeys(
                    item.constraint
                    for item in (found.report.of(Severity.ERROR) if found.report else ())
                    if item.constraint and item.constraint not in given
                )
            )
            if not asked:
                break
            self._ports.say(f"{self._name} {release.version}: resolving again with {', '.join(asked)}")
            own = lock.constraints[len(self._wanted.request.constraints) :]
            more = tuple(dict.fromkeys((*own, *given, *asked)))
            again = self._resolve(release, lock.python, more=more, exact=exact)
            if isinstance(again, Unresolved):
                break
            given = (*given, *asked)
            self._learned = tuple(dict.fromkeys((*self._learned, *asked)))
            found = self._judged(release, again, variant, given)
        return found

    def _judged(self, release: Release, lock: Lock, variant: str, given: tuple[str, ...] = ()) -> _Judged:
        version, wanted = str(release.version), self._wanted
        self._ports.say(f"{self._name} {version}: {len(lock.wheels)} packages; reading those without cached facts")
        report = self._ports.auditor.lock(lock, wanted.base, targets=wanted.targets, asked=frozenset({self._name}))
        errors = report.of(Severity.ERROR)
        lacking = tuple(self._lacking(report))
        own = lock.wheel(self._name)
        unread = [
            item for item in report.findings if item.rule == "F1" and own is not None and own.filename in item.message
        ]
        common = Attempt(
            version=version,
            python=lock.python,
            variant=variant,
            outcome="not_read" if unread else "fails" if errors or lacking else "fits",
            lacking=lacking,
            constraints=given,
            packages=report.packages,
            main=self._main(report),
            features=report.predicted(),
            fetched_bytes=report.fetched_bytes,
        )
        # A warning is no reason against a release: told of what fits alone.
        told = errors or (() if lacking else report.of(Severity.WARNING))
        reasons = [f"{item.package}: {item.message}" if item.package else item.message for item in (*unread, *told)]
        reasons += [f"{one.feature} on {one.target}: {one.reason}" for one in lacking]
        if common.outcome == "fits":
            reasons += [f"{one.feature} {one.outcome} on {one.target}: {one.reason}" for one in report.troubled]
        fixes = dict.fromkeys(item.fix for item in errors if item.fix)
        fixes |= dict.fromkeys(
            f"{one.package} {', '.join(one.versions)} ({one.why})" for item in errors for one in item.suggestions
        )
        attempt = common.model_copy(update={"reasons": tuple(dict.fromkeys(reasons)), "fixes": tuple(fixes)})
        return _Judged(attempt=attempt, lock=lock, report=report, errors=frozenset(item.rule for item in errors))

    def _main(self, report: AuditReport) -> tuple[str, ...]:
        features = self._ports.auditor.knowledge.dispatch.features.values()
        givers = {giver for feature in features for giver in feature.givers}
        asked = [self._name, *(str(canonicalize_name(Requirement(one).name)) for one in self._wanted.beside)]
        rest = sorted(name for name in report.packages if name in givers)
        return tuple(dict.fromkeys((*(one for one in asked if one in report.packages), *rest)))

    def _lacking(self, report: AuditReport) -> Iterator[MissingFeature]:
        """Yield the needs that are not predicted to work."""
        there = {(one.target, one.feature): one for one in report.predictions}
        for target in report.targets:
            for need in self._wanted.needs:
                one = there.get((target, need))
                if one is None:
                    words = self._nothing_gives(need, report)
                    yield MissingFeature(target=target, feature=need, outcome=None, reason=words)
                elif one.outcome is not Outcome.WORKS:
                    words = f"predicted {one.outcome}: {one.reason}"
                    yield MissingFeature(target=target, feature=need, outcome=one.outcome, reason=words)

    def _nothing_gives(self, need: str, report: AuditReport) -> str:
        """Return why nothing is predicted of a feature, in words."""
        givers = sorted(self._ports.auditor.knowledge.dispatch.features[need].givers)
        here = [f"{name} {report.packages[name]}" for name in givers if name in report.packages]
        if here:
            return f"for {' and '.join(here)} nothing is recorded that provides it"
        return f"no package of the set provides it; {', '.join(givers) or 'none'} can (--with)"


def _unresolved(version: str, python: str, answer: Unresolved) -> Attempt:
    words = " ".join(answer.explanation.split())
    return Attempt(version=version, python=python, outcome="no_lock", reasons=(words,))
