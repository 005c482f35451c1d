"""Bisect a feature over the cells along one axis, from a good cell to a bad one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from assay.errors import StoreError, UsageError
from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, ProbeRecord
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix.between import CellLine, axis_between, distributions, line_between, narrowed, nights, releases
from assay.matrix.bisection import Answer, SearchState, Trial, answer, begin, propose
from assay.matrix.cell import Cell, Excluded
from assay.matrix.loading import Project
from assay.matrix.model import AxisValue
from assay.matrix.plan import Plan
from assay.pipeline.lock import Versions, dated_builds

__all__ = ["STAGES", "Walk", "known", "resume", "run", "saved_state", "trial_of", "walk"]

STAGES: Final = ("lock", "audit", "build")
"""What can be bisected beside features that have a probe: whether a cell resolves, passes the audit, builds."""

Test = Callable[[Cell], Trial]
"""Tests one cell."""
Keep = Callable[[bytes], None]
"""Writes the state whole, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What is walked."""

    line: CellLine
    project: Project
    """Holds the cells of the line and nothing else."""
    made: tuple[AxisValue, ...] = ()
    """The values of the axis that matrix.yaml does not name."""
    gone: tuple[str, ...] = ()
    """Nights between the ends that the index does not offer, as dates."""
    left_out: tuple[Excluded, ...] = ()
    """Versions that a rule of the matrix leaves out."""


def walk(
    plan: Plan,
    good: Cell,
    bad: Cell,
    *,
    versions: Versions,
    night_of: Mapping[str, str],
    all_versions: bool = False,
    told: Collection[str] = (),
) -> Walk:
    """Return the line from the good to the bad cell, with what the index offers between them.

    Args:
        plan: the project's plan.
        good, bad: the ends.
        versions: lists the versions of a distribution on an index; asked for nights, and with `all_versions`.
        night_of: ids of `latest` values -> the date that they are locked to.
        all_versions: also the releases that matrix.yaml does not name.
        told: cells of which something is known already; they stay on the line when their night has left the index.

    Raises:
        UsageError: the ends are not two cells of one image that differ in one axis, or are the same night.
        PackageIndexError: the index cannot be asked.
    """
    axis = axis_between(good, bad)
    declared = plan.project.matrix.axes
    order = {name: [value.id for value in found.values] for name, found in declared.items()}
    order.setdefault("base", list(plan.project.matrix.bases))
    named = line_between(plan.cells, good, bad, order, night_of=night_of)
    ends = (good.point[axis], bad.point[axis])
    like = bad if bad.point[axis].nightly else good
    offered: set[str] = set()
    more: list[AxisValue] = []
    if like.point[axis].nightly:
        offered = _offered(plan, axis, like.point[axis], versions)
        more = _nights(named, ends, offered, night_of)
    elif all_versions:
        more = _releases(plan, good, bad, versions, declared[axis].values)
        every = [value for value in (*declared[axis].values, *more) if value.version and not value.source]
        by_version = sorted(every, key=lambda value: Version(value.version or "0"))
        rest = [value.id for value in declared[axis].values if value not in every]
        order[axis] = [*rest, *(value.id for value in by_version)]
    _, wide = narrowed(plan.project, like, axis, named.cells.values(), more)
    whole = line_between(wide.cells, good, bad, order, night_of=night_of)
    made = {value.id: value for value in more}
    kept = [
        cell.id
        for cell in whole.cells.values()
        if cell.point[axis].id not in made or cell.point[axis].date in {None, *offered} or cell.id in told
    ]
    line = whole.only(kept)
    project, _ = narrowed(
        plan.project, like, axis, named.cells.values(), [made[version] for version in line.versions if version in made]
    )
    return Walk(
        line=line,
        project=project,
        made=tuple(made[version] for version in line.versions if version in made),
        gone=tuple(value.date for value in more if value.date and value.date not in offered),
        left_out=wide.excluded,
    )


def _offered(plan: Plan, axis: str, value: AxisValue, versions: Versions) -> set[str]:
    """Return the dates of the nights that the index of a nightly has."""
    assert value.index is not None
    found = dated_builds(versions(canonicalize_name(axis), plan.project.matrix.indexes[value.index]), value)
    return {date.fromisoformat(night).isoformat() for _, night in found if _is_date(night)}


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _nights(
    named: CellLine, ends: tuple[AxisValue, AxisValue], offered: Collection[str], night_of: Mapping[str, str]
) -> list[AxisValue]:
    """Return the nights between two ends that the matrix does not name, those that the index lacks included."""
    dated = {value.id: night_of.get(value.id, "") if value.date == "latest" else value.date for value in ends}
    if unknown := [identifier for identifier, night in dated.items() if night == ""]:
        raise UsageError(
            f"which night {unknown[0]} means is known only once it is locked",
            hint=f"`assay lock {list(named.cells.values())[-1].id}`, or name a night: date: 2026-11-01",
        )
    nightly = [value for value in ends if value.nightly]
    if len(nightly) == 2 and (nightly[0].index, nightly[0].spec) != (nightly[1].index, nightly[1].spec):
        raise UsageError(
            f"{ends[0].id} and {ends[1].id} are nights of two indexes or of two conditions, so no nights lie between",
            hint="give both the same index and spec in matrix.yaml",
        )
    days = sorted(date.fromisoformat(str(night)) for night in dated.values() if night)
    if len(days) == 1:
        # From a release on: the nights from the oldest that the index still has.
        oldest = min((date.fromisoformat(night) for night in offered), default=days[0])
        days = [oldest - timedelta(days=1), *days]
    there = {str(cell.point[named.axis].date) for cell in named.cells.values()}
    return nights(nightly[-1], days[0], days[-1], named=there)


def _releases(plan: Plan, good: Cell, bad: Cell, versions: Versions, named: Sequence[AxisValue]) -> list[AxisValue]:
    axis = axis_between(good, bad)
    low, high = good.point[axis], bad.point[axis]
    known: set[str] = set()
    for name in distributions(good, bad, axis):
        known |= set(versions(name, plan.project.matrix.indexes[high.index or low.index or "pypi"]))
    there = [value.version for value in named if value.version and not value.source]
    return releases(low, high, [text for text in known if _is_version(text)], named=there)


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def trial_of(records: Iterable[AnyRecord], cell: str, feature: str, target: str = "") -> Trial | None:
    """Return what the newest records say of a feature (or stage) of a cell, or None where they say nothing."""
    found: Trial | None = None
    for record in records:
        if record.cell != cell:
            continue
        match record:
            case BuildRecord():
                found = _of_build(record, feature) or found
            case AuditRecord(subject="wheels"):
                failed = record.verdict is Verdict.FAIL
                if feature == "audit":
                    found = Trial.BAD if failed else Trial.GOOD
                elif failed and feature not in STAGES:
                    found = Trial.SKIP
            case ProbeRecord() if feature in record.features and (
                not target or any(device.target == target for device in record.devices)
            ):
                outcome = record.features[feature].outcome
                if outcome is Outcome.NOT_RUN and found is not None:
                    # A later run that left it out takes nothing back.
                    continue
                if outcome is Outcome.WORKS:
                    found = Trial.GOOD
                elif outcome in {Outcome.INCONCLUSIVE, Outcome.NOT_RUN}:
                    found = Trial.SKIP
                else:
                    found = Trial.BAD
            case _:
                pass
    return found


def _of_build(record: BuildRecord, feature: str) -> Trial | None:
    good = record.status in {BuildStatus.BUILT, BuildStatus.CACHED}
    unknown = {BuildStatus.ABORTED, BuildStatus.ENGINE_FAILED, BuildStatus.REGISTRY_FAILED}
    if record.status in unknown or feature in {"lock", "audit"}:
        return None
    if feature == "build" and record.lock_digest is not None:
        return Trial.GOOD if good else Trial.BAD
    return None if good else Trial.SKIP


def known(line: CellLine, records: Sequence[AnyRecord], feature: str, target: str = "") -> dict[str, Trial]:
    """Return the results that records already give, by version; what could not be tested is tried again."""
    found = {version: trial_of(records, cell.id, feature, target) for version, cell in line.cells.items()}
    return {version: trial for version, trial in found.items() if trial in {Trial.GOOD, Trial.BAD}}


def saved_state(saved: bytes | None, *, source: str) -> SearchState | None:
    """Read the state of an interrupted bisection.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return None if saved is None else SearchState.model_validate_json(saved)
    except ValidationError as error:
        raise StoreError(f"{source} is not the state of a bisection", hint="delete it to begin anew") from error


def resume(saved: SearchState | None, line: CellLine, results: Mapping[str, Trial]) -> SearchState:
    """Return the state to go on from: what the saved one knows of this line, and what records have learnt since.

    Raises:
        UsageError: what is recorded contradicts that the ends are good and bad.
    """
    try:
        state = begin(line.versions, known={**results, **(saved.trials if saved else {})})
    except ValidationError as error:
        raise UsageError(str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")) from error
    evaluated = saved.evaluated if saved else ()
    return state.model_copy(update={"evaluated": tuple(v for v in evaluated if v in line.cells)})


def run(
    state: SearchState, line: CellLine, *, test: Test, keep: Keep, said: Callable[[str, Trial, SearchState], None]
) -> tuple[SearchState, Answer]:
    """Test versions until nothing more can be learnt; the state is kept after each."""
    keep(state.model_dump_json(indent=1).encode())
    while (version := propose(state)) is not None:
        trial = test(line.cells[version])
        state = state.tell(version, trial)
        keep(state.model_dump_json(indent=1).encode())
        said(version, trial, state)
    return state, answer(state)
