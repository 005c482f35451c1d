"""The line of cells that a bisection walks: what the matrix names between two cells, and what the index offers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from assay.errors import UsageError
from assay.matrix.between import CellLine, axis_between, distributions, line_between, narrowed, nights, releases
from assay.matrix.cell import Cell, Excluded
from assay.matrix.loading import Project
from assay.matrix.lock import LockedCell
from assay.matrix.model import AxisValue
from assay.matrix.plan import Plan
from assay.pipeline.lock import Versions, dated_builds

__all__ = ["Walk", "end_of", "nights_of", "walk"]


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
        order[axis] = _by_version(declared[axis].values, more)
    _, wide = narrowed(plan.project, like, axis, named.cells.values(), more)
    whole = line_between(wide.cells, good, bad, order, night_of=night_of)
    made = {value.id: value for value in more}
    kept = [
        cell.id
        for cell in whole.cells.values()
        if cell.point[axis].id not in made or cell.point[axis].date in {None, *offered} or cell.id in told
    ]
    line = whole.only(kept)
    unnamed = tuple(made[version] for version in line.versions if version in made)
    project, _ = narrowed(plan.project, like, axis, named.cells.values(), unnamed)
    return Walk(
        line=line,
        project=project,
        made=unnamed,
        gone=tuple(value.date for value in more if value.date and value.date not in offered),
        left_out=wide.excluded,
    )


def _by_version(named: Sequence[AxisValue], more: Sequence[AxisValue]) -> list[str]:
    """Return the ids of values in the order of their versions; those without a version come first."""
    every = [value for value in (*named, *more) if value.version and not value.source]
    by_version = sorted(every, key=lambda value: Version(value.version or "0"))
    return [*(value.id for value in named if value not in every), *(value.id for value in by_version)]


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
            f"the date of {unknown[0]} is known only after it is locked",
            hint=f"`assay lock {list(named.cells.values())[-1].id}`, or name a night: date: 2026-11-01",
        )
    nightly = [value for value in ends if value.nightly]
    if len(nightly) == 2 and (nightly[0].index, nightly[0].spec) != (nightly[1].index, nightly[1].spec):
        raise UsageError(
            f"{ends[0].id} and {ends[1].id} are nightlies of different indexes or specs, so none lie between them",
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


def end_of(plan: Plan, word: str) -> Cell:
    """Return the cell that an end of a bisection names.

    Raises:
        UsageError: it names none, or several.
    """
    found = plan.select([word])
    if len(found) != 1:
        raise UsageError(
            f"{word!r} matches {len(found)} cells; an end of a bisection is one cell", hint="`assay plan` lists them"
        )
    return found[0]


def nights_of(ends: Iterable[LockedCell]) -> dict[str, str]:
    """Return the night, as a date, to which each `latest` value of cells is locked."""
    found: dict[str, str] = {}
    for item in ends:
        for axis, value in item.cell.point.items():
            night = item.lock.nightlies.get(canonicalize_name(axis)) if item.lock and value.date == "latest" else None
            if night is not None:
                found[value.id] = f"{night[:4]}-{night[4:6]}-{night[6:8]}"
    return found
