"""Bisect a feature over the cells along one axis, from a good cell to a bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta

from pydantic import ValidationError

from assay.bisect import Answer, State, Trial, answer, begin, propose
from assay.errors import StoreError, UsageError
from assay.model.cell import Cell
from assay.model.matrix import AxisValue
from assay.model.outcome import Outcome, Verdict
from assay.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, ProbeRecord

__all__ = ["Line", "known", "line_between", "nights_between", "resume", "run", "trial_of"]

Test = Callable[[str], Trial]
"""Tests one cell by its id."""
Keep = Callable[[bytes], None]
"""Writes the state whole, or not at all."""


class Line:
    """The cells from the good to the bad one, in the order of the axis."""

    def __init__(self, axis: str, cells: Sequence[Cell]) -> None:
        self.axis = axis
        self.cells = {cell.value(axis) or "": cell for cell in cells}

    @property
    def versions(self) -> list[str]:
        """The values of the axis."""
        return list(self.cells)


def line_between(cells: Sequence[Cell], good: Cell, bad: Cell, order: Mapping[str, Sequence[str]]) -> Line:
    """Return the cells that differ from the two only in the one axis in which those differ.

    `order` gives the ids of each axis' values in the order of matrix.yaml; dated nightlies go by their dates.

    Raises:
        UsageError: the two differ in no axis or in more than one, or are of different images.
    """
    axes = sorted({*good.point, *bad.point})
    differing = [axis for axis in axes if good.value(axis) != bad.value(axis)]
    if good.image != bad.image or len(differing) != 1:
        what = ", ".join(f"{axis}: {good.value(axis)} and {bad.value(axis)}" for axis in differing) or "nothing"
        raise UsageError(
            f"{good.id} and {bad.id} must be cells of one image that differ in exactly one axis; they differ in {what}",
            hint="add cells between them to images/<image>/image.yaml, changing one axis at a time",
        )
    axis = differing[0]
    along = [
        cell
        for cell in cells
        if cell.image == good.image
        and cell.kind == "build"
        and {a: cell.value(a) for a in cell.point if a != axis} == {a: good.value(a) for a in good.point if a != axis}
    ]
    values = list(order[axis])

    def position(cell: Cell) -> tuple[int, str, int]:
        value = cell.point[axis]
        dated = value.date if value.date not in {None, "latest"} else None
        return (1, str(dated), 0) if dated else (0, "", values.index(value.id))

    along = sorted({cell.id: cell for cell in [good, *along, bad]}.values(), key=position)
    ids = [cell.id for cell in along]
    start, end = ids.index(good.id), ids.index(bad.id)
    chosen = along[start : end + 1] if start < end else along[end : start + 1][::-1]
    return Line(axis, chosen)


def nights_between(line: Line) -> list[AxisValue]:
    """Return the values of the axis that are missing for every night between two dated ends to be on the line."""
    ends = [cell.point[line.axis] for cell in (next(iter(line.cells.values())), list(line.cells.values())[-1])]
    if any(value.date in {None, "latest"} for value in ends):
        return []
    first, last = sorted(date.fromisoformat(str(value.date)) for value in ends)
    there = {str(cell.point[line.axis].date) for cell in line.cells.values()}
    nights = [first + timedelta(days=day) for day in range(1, (last - first).days)]
    return [
        ends[0].model_copy(update={"id": f"n{night:%Y%m%d}", "date": night.isoformat()})
        for night in nights
        if night.isoformat() not in there
    ]


def trial_of(records: Iterable[AnyRecord], cell: str, feature: str, target: str = "") -> Trial | None:
    """Return what the newest records say of a feature of a cell, or None where they say nothing."""
    found: Trial | None = None
    for record in records:
        if record.cell != cell:
            continue
        match record:
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
            case BuildRecord() if record.status not in {BuildStatus.BUILT, BuildStatus.CACHED, BuildStatus.ABORTED}:
                found = Trial.SKIP
            case AuditRecord(verdict=Verdict.FAIL, subject="wheels"):
                found = Trial.SKIP
            case _:
                pass
    return found


def known(line: Line, records: Sequence[AnyRecord], feature: str, target: str = "") -> dict[str, Trial]:
    """Return the results that records already give, by version; what could not be tested is tried again."""
    found = {version: trial_of(records, cell.id, feature, target) for version, cell in line.cells.items()}
    return {version: trial for version, trial in found.items() if trial in {Trial.GOOD, Trial.BAD}}


def resume(saved: bytes | None, line: Line, results: dict[str, Trial], *, source: str) -> State:
    """Return the state to go on from: the saved one if it is of this line, with what records have learnt since.

    Raises:
        StoreError: the saved state cannot be read.
        UsageError: what is recorded contradicts that the ends are good and bad.
    """
    try:
        if saved is not None:
            state = State.model_validate_json(saved)
            if list(state.versions) == line.versions:
                return State(versions=state.versions, trials={**results, **state.trials}, evaluated=state.evaluated)
    except ValidationError as error:
        raise StoreError(f"{source} is not the state of a bisection", hint="delete it to begin anew") from error
    try:
        return begin(line.versions, known=results)
    except ValidationError as error:
        raise UsageError(str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")) from error


def run(
    state: State, line: Line, *, test: Test, keep: Keep, said: Callable[[str, Trial, State], None]
) -> tuple[State, Answer]:
    """Test versions until nothing more can be learnt; the state is kept after each."""
    keep(state.model_dump_json(indent=1).encode())
    while (version := propose(state)) is not None:
        trial = test(line.cells[version].id)
        state = state.tell(version, trial)
        keep(state.model_dump_json(indent=1).encode())
        said(version, trial, state)
    return state, answer(state)
