"""The lock step: give each cell its exact wheels, or the reason why there are none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import partial
from typing import Final

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from assay.audit.findings import Finding
from assay.errors import AssayError, PackageIndexError, RegistryError, ToolError
from assay.foundation.platforms import Platform
from assay.matrix import lockfile, unresolved
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell, LockedSource
from assay.matrix.model import AxisValue, Index, Matrix, RegistryBase, SourceTree
from assay.matrix.plan import render_requirements
from assay.pipeline.pool import JobControl, JobPool
from assay.ports.resolver import Failure, Resolver, ResolveRequest, Unresolved

__all__ = [
    "Commits",
    "Digests",
    "Judge",
    "LockOptions",
    "LockPorts",
    "LockResult",
    "LockStatus",
    "Versions",
    "age_warning",
    "dated_builds",
    "lock",
    "pick_nightly",
]

_REPAIRS: Final = 3
"""Rounds of new constraints: one repair may bring to light the next mismatch."""
_STEPS: Final = 4
"""Resolutions at once: they wait for the index most of the time."""

_NO_REGISTRY: Final = (
    "docker login, if the registry asks for it; a mirror that has the base (ASSAY_REGISTRY_MIRRORS, see "
    "docs/how-to/mirrors-and-proxies.md); or a base that needs no registry, such as slim"
)

_NO_GIT: Final = (
    "install git; check the network, and the proxies and mirrors in git's configuration; or write the whole commit as "
    "`commit` in matrix.yaml, which needs no repository"
)

Versions = Callable[[str, Index], Sequence[str]]
"""(distribution, index) -> the versions the index has; raises PackageIndexError."""
Digests = Callable[[str, Platform], str]
"""Image reference and platform -> digest; raises RegistryError."""
Commits = Callable[[str, str], str]
"""Address of a git repository and a tag -> the commit; raises ToolError where git could not ask, LookupError where
there is no such tag."""
Judge = Callable[[Cell, Lock], Sequence[Finding]]
"""Return the errors that the audit finds in a lock; raises PackageIndexError where nothing could be read."""


class LockStatus(StrEnum):
    """What came of locking one cell."""

    FRESH = "fresh"
    """The lock there is answers the recipe."""
    LOCKED = "locked"
    CONFLICT = "conflict"
    MISSING = "missing"
    UNREACHABLE = "unreachable"
    FAILING = "failing"
    """The lock answers the recipe, but the audit of its wheels fails."""
    STALE = "stale"
    """Only with --check: the lock does not answer the recipe, or there is none."""
    UNRESOLVED = "unresolved"
    """Only with --check: there is no lock, and unresolved.txt gives the reason for this very recipe."""

    @property
    def failed(self) -> bool:
        """Whether locking the cell failed, or a check found its files outdated."""
        return self not in {LockStatus.FRESH, LockStatus.LOCKED, LockStatus.UNRESOLVED}


@dataclass(frozen=True, kw_only=True)
class LockResult:
    """One cell's lock, or why it has none."""

    cell: Cell
    status: LockStatus
    lock: Lock | None = None
    explanation: str = ""
    changes: tuple[str, ...] = ()
    """`+ torch 2.8.0` lines against the lock there was."""
    warning: str = ""
    findings: tuple[Finding, ...] = ()
    """Errors of the audit of a new lock; those of a control, which must fail, are left out."""
    repairs: tuple[Finding, ...] = ()
    """Errors fixed by new constraints; each names its constraint, which belongs in the recipe."""

    @property
    def locked(self) -> LockedCell:
        """The cell with its lock, as later steps take it."""
        return LockedCell(cell=self.cell, lock=self.lock, unresolved=None if self.lock else self.explanation)

    @property
    def answers(self) -> bool:
        """Whether the cell has a lock that answers its recipe."""
        return self.lock is not None and self.status is not LockStatus.STALE


class _Unlockable(Exception):
    def __init__(self, failure: Failure, explanation: str) -> None:
        super().__init__(explanation)
        self.failure = failure


def dated_builds(versions: Sequence[str], value: AxisValue) -> list[tuple[Version, str]]:
    """Return the nightlies within an axis value's spec, each with its date (`20261101`)."""
    spec = SpecifierSet(value.spec or "")
    dated: list[tuple[Version, str]] = []
    for text in versions:
        try:
            version = Version(text)
        except InvalidVersion:
            continue
        if version.dev is not None and spec.contains(version, prereleases=True):
            dated.append((version, f"{version.dev:08d}"))
    return dated


def pick_nightly(versions: Sequence[str], value: AxisValue) -> str:
    """Return the newest nightly of an axis value: not younger than its date, within its spec.

    Raises:
        LookupError: there is none; the message says what the index has instead.
    """
    dated = dated_builds(versions, value)
    if not dated:
        raise LookupError(f"the index has no nightly {value.spec or ''}".rstrip())
    if value.date in {None, "latest"}:
        return str(max(dated)[0])
    wanted = str(value.date).replace("-", "")
    fitting = [version for version, built in dated if built <= wanted]
    if not fitting:
        oldest = min(built for _, built in dated)
        raise LookupError(f"the index keeps no build as old as {value.date}; its oldest is of {oldest}")
    exact = [version for version, built in dated if built == wanted]
    return str(max(exact or fitting))


def age_warning(lock: Lock, matrix: Matrix, *, today: date) -> str:
    """Say that a nightly of a lock is older than its index keeps builds, or nothing."""
    for name, built in lock.nightlies.items():
        wheel = lock.wheel(name)
        index = matrix.indexes.get(wheel.index) if wheel else None
        if index is None or index.keeps_days is None:
            continue
        day = date(int(built[:4]), int(built[4:6]), int(built[6:8]))
        gone = day + timedelta(days=index.keeps_days)
        if today > gone:
            return (
                f"{name} of {day} has probably left its index, which keeps builds for {index.keeps_days} days; "
                f"`assay lock --refresh` takes a newer one"
            )
    return ""


@dataclass(frozen=True, kw_only=True)
class LockPorts:
    """What locking needs from the world."""

    resolver: Resolver
    versions: Versions
    digests: Digests
    commits: Commits
    judge: Judge | None = None
    """Audits new locks; None leaves the audit out."""


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """How cells are locked."""

    refresh: bool = False
    """Resolve again even where the lock answers the recipe."""
    check: bool = False
    """Resolve nothing; report what is stale."""
    repair: bool = False
    """Where a constraint would fix what the audit finds, add it to the cell and lock again."""


def lock(
    cells: Sequence[LockedCell], matrix: Matrix, ports: LockPorts, options: LockOptions | None = None
) -> Iterator[LockResult]:
    """Lock cells, several at a time, and yield each result as it comes.

    Args:
        cells: each cell with the lock it has.
        matrix: the matrix of the cells.
        ports: the world.
        options: how; None for the defaults.
    """
    locker = _Locker(matrix, ports, options or LockOptions())
    if locker.options.check:
        return (locker.checked(item) for item in cells)
    return JobPool(locker.one, at_once=_STEPS, name=lambda item: item.cell.id).run(cells)


class _Locker:
    """One run of locking: what registries and git repositories have been asked for."""

    def __init__(self, matrix: Matrix, ports: LockPorts, options: LockOptions) -> None:
        self._matrix = matrix
        self._ports = ports
        self.options = options
        self._answers: dict[tuple[str, str], Future[str]] = {}
        self._asking = threading.Lock()

    def _stale(self, cell: Cell, lock: Lock | None) -> str | None:
        if lock is None:
            return "there is no lock"
        base = self._matrix.bases[cell.base]
        return lockfile.stale_reason(lock, cell, glibc=base.glibc, pulled=base.kind == "registry")

    def checked(self, item: LockedCell) -> LockResult:
        """Return whether a cell's lock, or the reason why it has none, answers its recipe."""
        cell, lock, reason = item.cell, item.lock, item.unresolved
        if lock is None and reason and unresolved.answers(reason, cell):
            words = f"{reason.splitlines()[0]}, as recorded"
            return LockResult(cell=cell, status=LockStatus.UNRESOLVED, explanation=words)
        stale = self._stale(cell, lock)
        if stale is not None:
            return LockResult(cell=cell, status=LockStatus.STALE, lock=lock, explanation=stale)
        assert lock is not None
        warnings = [age_warning(lock, self._matrix, today=date.today())]  # noqa: DTZ011 - the user's day
        for name, tree in lockfile.unpinned(cell, lock).items():
            warnings.append(f"the lock does not pin the commit of {name}'s tag {tree.ref}; `assay lock` does")
        warning = "; ".join(filter(None, warnings))
        return LockResult(cell=cell, status=LockStatus.FRESH, lock=lock, warning=warning)

    def one(self, item: LockedCell, _control: JobControl) -> LockResult:
        """Return a cell's lock, or why it has none."""
        cell, old = item.cell, item.lock
        if not self.options.refresh and old is not None and self._stale(cell, old) is None:
            return self._with_sources(cell, old) if lockfile.unpinned(cell, old) else self.checked(item)
        try:
            return self._audited(cell, self._lock(cell), old)
        except _Unlockable as reason:
            # What an index says today takes nothing away from a lock that answers the recipe.
            kept = old if self._stale(cell, old) is None else None
            words = f"{reason}\nthe existing lock matches the recipe and stays" if kept else str(reason)
            return LockResult(cell=cell, status=LockStatus(reason.failure.value), lock=kept, explanation=words)

    def _with_sources(self, cell: Cell, old: Lock) -> LockResult:
        """Add the commits of tags to a lock that lacks them; where they cannot be found out, the lock stays."""
        try:
            sources = self._sources(lockfile.unpinned(cell, old))
        except _Unlockable as reason:
            words = f"{reason}\nthe existing lock matches the recipe and stays, without the commit"
            return LockResult(cell=cell, status=LockStatus(reason.failure.value), lock=old, explanation=words)
        lock = old.model_copy(update={"sources": {**old.sources, **sources}})
        return LockResult(cell=cell, status=LockStatus.LOCKED, lock=lock, changes=changes(old, lock))

    def _audited(self, cell: Cell, lock: Lock, old: Lock | None) -> LockResult:
        """Audit a new lock; with `repair` lock again with the constraints that the audit proposes."""
        repairs: list[Finding] = []
        findings, warning = self._judged(cell, lock)
        for _ in range(_REPAIRS if self.options.repair else 0):
            fresh = {item.constraint: item for item in findings if item.constraint}
            if not fresh:
                break
            repaired = cell.model_copy(update={"constraints": (*cell.constraints, *fresh)})
            try:
                again = self._lock(repaired)
            except _Unlockable as reason:
                warning = f"no lock with {', '.join(fresh)}: {reason}"
                break
            cell, lock = repaired, again
            repairs += fresh.values()
            findings, warning = self._judged(cell, lock)
        return LockResult(
            cell=cell,
            status=LockStatus.FAILING if findings else LockStatus.LOCKED,
            lock=lock,
            changes=changes(old, lock),
            warning="; ".join(filter(None, (_moved(old, lock), warning))),
            findings=findings,
            repairs=tuple(repairs),
        )

    def _judged(self, cell: Cell, lock: Lock) -> tuple[tuple[Finding, ...], str]:
        """Return the errors of the audit, and why there was none."""
        if self._ports.judge is None or cell.kind == "control":
            return (), ""
        try:
            return tuple(self._ports.judge(cell, lock)), ""
        except PackageIndexError as error:
            return (), f"the lock was not audited: {error.message}"

    def _lock(self, cell: Cell) -> Lock:
        base = self._matrix.bases[cell.base]
        base_digest = None
        if isinstance(base, RegistryBase):
            try:
                base_digest = self._once(
                    (base.image, cell.platform), partial(self._ports.digests, base.image, cell.platform)
                )
            except RegistryError as error:
                words = f"the base {base.image}: {error.message}\n  try: {_NO_REGISTRY}"
                raise _Unlockable(Failure.UNREACHABLE, words) from error
        sources = self._sources(lockfile.unpinned(cell))
        point, nightlies = self._resolved_point(cell)
        texts = (cell.requirements, cell.constraints, cell.forced_requirements)
        try:
            required, constraints, forced = (_pinned(group, cell, point) for group in texts)
        except ValueError as error:
            raise AssayError(f"{cell.id}: {error}") from error
        platform = lockfile.platform_of(base.glibc, cell.platform)
        used = {value.index for value in point.values() if value.index is not None}
        answer = self._ports.resolver.resolve(
            ResolveRequest(
                requirements=required,
                constraints=constraints,
                forced=forced,
                without=[canonicalize_name(axis) for axis, value in point.items() if value.source is not None],
                python=cell.python,
                platform=platform,
                indexes={name: self._matrix.indexes[name] for name in sorted(used)},
                # A nightly index does not say when a file was uploaded, so no date can be held against it.
                as_of=None if nightlies else cell.as_of,
            )
        )
        if isinstance(answer, Unresolved):
            raise _Unlockable(answer.failure, answer.explanation)
        return Lock(
            cell=cell.id,
            python=cell.python,
            platform=platform,
            requirements=lockfile.wanted(cell),
            constraints=cell.constraints,
            base=cell.base,
            base_digest=base_digest,
            as_of=cell.as_of,
            nightlies=nightlies,
            sources=sources,
            wheels=answer.wheels,
        )

    def _sources(self, trees: Mapping[str, SourceTree]) -> dict[str, LockedSource]:
        """Return the commits of tags: distribution -> source."""
        found: dict[str, LockedSource] = {}
        for name, tree in trees.items():
            what = f"{name} from {tree.git}"
            try:
                commit = self._once((tree.git, tree.ref), partial(self._ports.commits, tree.git, tree.ref))
            except ToolError as error:
                words = f"{what}: the commit of the tag {tree.ref} is unknown: {error.message}\n  try: {_NO_GIT}"
                raise _Unlockable(Failure.UNREACHABLE, words) from error
            except LookupError as error:
                raise _Unlockable(Failure.MISSING, f"{what}: {error}") from error
            if tree.commit is not None and not commit.startswith(tree.commit):
                words = f"{what}: the tag {tree.ref} is the commit {commit} now, and the recipe pins {tree.commit}"
                raise _Unlockable(
                    Failure.CONFLICT, f"{words}\n  try: compare both, then change `commit` in matrix.yaml"
                )
            found[name] = LockedSource(ref=tree.ref, commit=commit)
        return found

    def _once(self, key: tuple[str, str], ask: Callable[[], str]) -> str:
        """Return an answer for many cells; who does not answer is waited for once, not once a cell."""
        with self._asking:
            known = self._answers.get(key)
            asked = known if known is not None else self._answers.setdefault(key, Future())
        if known is None:
            try:
                asked.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - handed to everybody who waits, the asker too
                asked.set_exception(error)
        return asked.result()

    def _resolved_point(self, cell: Cell) -> tuple[dict[str, AxisValue], dict[str, str]]:
        """Return the cell's point with every nightly pinned to one version, and the dates of those."""
        point = dict(cell.point)
        dates: dict[str, str] = {}
        for axis, value in cell.point.items():
            if not value.nightly:
                continue
            assert value.index is not None
            name = canonicalize_name(axis)
            try:
                version = pick_nightly(self._ports.versions(name, self._matrix.indexes[value.index]), value)
            except PackageIndexError as error:
                raise _Unlockable(Failure.UNREACHABLE, f"{name} on {value.index}: {error.message}") from error
            except LookupError as error:
                raise _Unlockable(Failure.MISSING, f"{name} on {value.index}: {error}") from error
            point[axis] = value.model_copy(update={"version": version, "spec": None})
            dates[name] = f"{Version(version).dev:08d}"
        return point, dates


def _pinned(texts: Sequence[str], cell: Cell, point: dict[str, AxisValue]) -> tuple[str, ...]:
    """Replace the condition of a nightly in requirements that are filled in already by its exact version."""
    result: list[str] = []
    for text in texts:
        for axis, value in point.items():
            before = cell.point[axis]
            if before.nightly and text.startswith(canonicalize_name(axis)) and text.endswith(before.pin):
                text = text.removesuffix(before.pin) + value.pin  # noqa: PLW2901 - each nightly in turn
        result.append(text)
    return render_requirements(result, point)


def _moved(old: Lock | None, new: Lock) -> str:
    """Say which tags name another commit than in the lock of before, or nothing."""
    before = old.sources if old else {}
    return "; ".join(
        f"the tag {now.ref} of {name} has moved from the commit {was.commit} to {now.commit}: compare both before you "
        f"build it"
        for name, now in new.sources.items()
        if (was := before.get(name)) is not None and was.ref == now.ref and was.commit != now.commit
    )


def changes(old: Lock | None, new: Lock) -> tuple[str, ...]:
    """Return what differs between two locks, `+ name version` and `- name version`, by name."""

    def keys(lock: Lock) -> set[tuple[str, str, str]]:
        sources = {(name, f"source {one.ref} {one.commit}", "") for name, one in lock.sources.items()}
        return {(wheel.name, wheel.version, wheel.sha256) for wheel in lock.wheels} | sources

    before = keys(old) if old else set()
    after = keys(new)
    lines = [(name, 0, f"- {name} {version}") for name, version, _ in before - after]
    lines += [(name, 1, f"+ {name} {version}") for name, version, _ in after - before]
    return tuple(line for _, _, line in sorted(lines))
