"""Bisect a feature over the cells along one axis, from a good cell to a bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from assay.errors import EngineError, PackageIndexError, StoreError, UsageError
from assay.evidence import suite
from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, ProbeRecord
from assay.foundation.nearest import suggestion
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix.between import CellLine
from assay.matrix.bisection import Answer, SearchState, Trial, answer, begin, propose
from assay.matrix.cell import Cell
from assay.matrix.lock import LockedCell
from assay.pipeline.bisect_line import Walk
from assay.pipeline.lock import LockResult, LockStatus

__all__ = [
    "STAGES",
    "BisectPorts",
    "BisectQuestion",
    "check_feature",
    "known",
    "resume",
    "run",
    "saved_state",
    "trial_of",
    "try_cell",
]

STAGES: Final = ("lock", "audit", "build")
"""What can be bisected beside features that have a probe: whether a cell resolves, passes the audit, builds."""
_SAYS_NOTHING: Final = {BuildStatus.ABORTED, BuildStatus.ENGINE_FAILED, BuildStatus.REGISTRY_FAILED}
_AGAIN: Final = "fix that, then run the same command again to resume"

Test = Callable[[Cell], Trial]
"""Tests one cell."""
Keep = Callable[[bytes], None]
"""Writes the state whole, or not at all."""


@dataclass(frozen=True, kw_only=True)
class BisectQuestion:
    """What is bisected."""

    feature: str
    """A feature that has a probe, or one of STAGES."""
    target: str = ""
    """Only results on this GPU count; empty: on any."""


@dataclass(frozen=True, kw_only=True)
class BisectPorts:
    """The steps that test a cell of the line."""

    lock: Callable[[Cell], LockResult]
    """Locks a cell and keeps its lock."""
    audit: Callable[[LockedCell], Verdict]
    build: Callable[[LockedCell], BuildRecord]
    probe: Callable[[Cell, str], Iterable[AnyRecord]]
    """Probes one feature of a cell that is built."""
    records: Callable[[], Iterable[AnyRecord]]
    """Returns what is recorded already."""
    say: Callable[[str], None] = lambda _: None


def check_feature(feature: str, programs: Mapping[str, str], recorded: Iterable[str]) -> None:
    """Refuse a feature that has no probe and no record, before anything is built for it.

    Args:
        feature: as the user names it.
        programs: the programs of the suite, by path.
        recorded: features of which there are records.

    Raises:
        UsageError: there is no such feature.
    """
    names = {*suite.declarations(programs), *recorded, *STAGES}
    if feature not in names:
        raise UsageError(
            f"there is no probe {feature!r}{suggestion(feature, names)}",
            hint=f"`assay probe --list` names all probes; the stages are {', '.join(STAGES)}",
        )


def try_cell(cell: Cell, walk: Walk, question: BisectQuestion, ports: BisectPorts) -> Trial:
    """Lock, build, audit and probe one cell as far as the question needs, and return what that shows.

    Raises:
        AssayError: a step could not do its work; that says nothing about the cell.
    """
    result = ports.lock(cell)
    if (trial := _of_lock(result, walk, question, ports.say)) is not None:
        return trial
    locked = result.locked
    feature, target = question.feature, question.target
    if feature == "audit":
        return Trial.BAD if ports.audit(locked) is Verdict.FAIL else Trial.GOOD
    built = ports.build(locked)
    if built.status in _SAYS_NOTHING:
        raise EngineError(f"{cell.id} could not be built: {built.reason}", hint=_AGAIN)
    trial = trial_of([built], cell.id, feature)
    if feature == "build" or trial is Trial.SKIP:
        return trial or Trial.SKIP
    measured = trial_of(ports.probe(cell, feature), cell.id, feature, target)
    # Nothing is measured again that is recorded already: older records count too.
    return measured or trial_of(ports.records(), cell.id, feature, target) or Trial.SKIP


def _of_lock(result: LockResult, walk: Walk, question: BisectQuestion, say: Callable[[str], None]) -> Trial | None:
    """Return the trial where locking decides it, None where there is a lock to build."""
    cell, lock = result.cell, result.lock
    if result.status is LockStatus.UNREACHABLE:
        raise PackageIndexError(f"{cell.id} cannot be locked: {result.explanation}", hint=_AGAIN)
    if lock is None:
        conflict = question.feature == "lock" and result.status is LockStatus.CONFLICT
        return Trial.BAD if conflict else Trial.SKIP
    value = cell.point[walk.line.axis]
    night = lock.nightlies.get(canonicalize_name(walk.line.axis))
    if value in walk.made and value.date and night != value.date.replace("-", ""):
        say(f"{cell.id}: the index no longer has a build of {value.date}")
        return Trial.SKIP
    return Trial.GOOD if question.feature == "lock" else None


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
                failed = record.over([target] if target else []) is Verdict.FAIL
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
    if record.status in _SAYS_NOTHING or feature in {"lock", "audit"}:
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
        raise StoreError(f"{source} is not the state of a bisection", hint="delete it to start over") from error


def resume(saved: SearchState | None, line: CellLine, results: Mapping[str, Trial]) -> SearchState:
    """Return the state to resume from: the saved results for these versions, and newer records.

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
    """Test versions until the result is final; save the state after each."""
    keep(state.model_dump_json(indent=1).encode())
    while (version := propose(state)) is not None:
        trial = test(line.cells[version])
        state = state.tell(version, trial)
        keep(state.model_dump_json(indent=1).encode())
        said(version, trial, state)
    return state, answer(state)
