"""What changed between two runs, cells or tags: versions, verdicts, outcomes, sizes, speed; regressions first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from assay.evidence.direction import Direction
from assay.evidence.record import (
    SHARED_GPU,
    AnyRecord,
    AuditRecord,
    BenchRecord,
    BuildRecord,
    BuildStatus,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
    shared_gpu,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.strict import Value

__all__ = ["Change", "DiffDocument", "Direction", "Fact", "Side", "changes", "side"]

_OUTCOME: Final = {
    Outcome.WORKS: 5.0, Outcome.DEGRADED: 4.0, Outcome.UNSUPPORTED: 2.0, Outcome.BROKEN: 1.0, Outcome.WRONG: 0.0,
}  # fmt: skip
# What was not run or showed nothing is neither better nor worse than anything.
_VERDICT: Final = {Verdict.OK: 2, Verdict.WARN: 1, Verdict.FAIL: 0}
_BUILT: Final = {BuildStatus.BUILT, BuildStatus.CACHED}


class Fact(Value):
    """One thing known of a side: text for reading, and a number by which it can be judged."""

    text: str
    rank: float | None = None
    """Greater is better; None where neither is."""
    relative: bool = False
    """Compare `rank` as a measurement: only a change by more than the tolerance counts."""
    note: str = ""


class Side(Value):
    """What the newest records of one run, cell or tag say."""

    name: str
    facts: dict[str, dict[str, Fact]]
    """Cell -> what -> fact. What is `build`, `size`, `audit`, `feature cuda-graphs on sm_120`, `version torch`, ..."""


class Change(Value):
    """One thing that is not the same on both sides."""

    cell: str
    what: str
    before: str
    after: str
    direction: Direction
    note: str = ""


class DiffDocument(Value):
    """What changed between two runs, cells or images."""

    version: Literal[1] = 1
    before: str
    """As it was asked for."""
    after: str
    changes: tuple[Change, ...]
    """Regressions first."""


def _measure(record: ServeRecord | BenchRecord, value: float, unit: str, *, less_is_better: bool = False) -> Fact:
    text = f"{value:,.4g} {unit}"
    if shared_gpu(record):
        return Fact(text=text, note=SHARED_GPU)
    return Fact(text=text, rank=-value if less_is_better else value, relative=True)


def _of_build(record: BuildRecord) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    good = record.status in _BUILT
    if record.status is not BuildStatus.ABORTED:
        note = record.cause or next(iter(record.reason.splitlines()), "")
        found["build"] = Fact(text="built" if good else str(record.status), rank=float(good), note="" if good else note)
    if record.size_bytes:
        found["size"] = Fact(text=f"{record.size_bytes / 1e6:,.1f} MB", rank=-float(record.size_bytes), relative=True)
    if record.image_digest:
        found["digest"] = Fact(text=record.image_digest)
    if record.lock_digest:
        found["lock"] = Fact(text=record.lock_digest)
    return found


def _of_serve(record: ServeRecord) -> dict[str, Fact]:
    where = " ".join(["server", *([record.profile] if record.profile else []), "on", _target(record)])
    good = record.status is ServeStatus.OK
    found = {where: Fact(text=str(record.status), rank=float(good), note=record.cause or record.reason)}
    if good:
        found[f"{where}: start"] = _measure(record, record.start_seconds, "s", less_is_better=True)
    return found


def _of_bench(record: BenchRecord) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    for series in record.series:
        where = f"{series.workload}, {series.users} users on {_target(record)}"
        found[f"{where}: tokens"] = _measure(record, series.tokens_per_second, "tokens/s")
        if series.ttft:
            found[f"{where}: first token"] = _measure(record, series.ttft.p50, "ms", less_is_better=True)
    return found


def _target(record: ProbeRecord | ServeRecord | BenchRecord) -> str:
    return record.devices[0].target if record.devices else "no GPU"


def _facts(record: AnyRecord) -> Mapping[str, Fact]:
    found: dict[str, Fact]
    match record:
        case BuildRecord():
            return _of_build(record)
        case AuditRecord():
            note = next(iter(record.summary), "")
            fact = Fact(text=str(record.verdict), rank=float(_VERDICT[record.verdict]), note=note)
            return {f"audit of {record.subject}": fact}
        case ProbeRecord():
            found = {
                f"{name} on {_target(record)}": Fact(
                    text=str(result.outcome), rank=_OUTCOME.get(result.outcome), note=result.cause or result.reason
                )
                for name, result in record.features.items()
                if result.outcome is not Outcome.NOT_RUN
            }
        case ServeRecord():
            found = _of_serve(record)
        case BenchRecord():
            found = _of_bench(record)
    return found | {f"version of {name}": Fact(text=version) for name, version in record.packages.items()}


def side(
    name: str,
    records: Iterable[AnyRecord],
    *,
    versions: Mapping[str, Mapping[str, str]] | None = None,
    one: str | None = None,
) -> Side:
    """Gather what records say, the newest word of each thing last.

    `versions` are the locked packages of cells, where a lock is at hand. With `one`, everything is put under that name,
    so that two different cells can be compared with each other.
    """
    facts: dict[str, dict[str, Fact]] = {}
    for record in records:
        facts.setdefault(one or record.cell, {}).update(_facts(record))
    for cell, packages in (versions or {}).items():
        mine = facts.setdefault(one or cell, {})
        mine.update({f"version of {package}": Fact(text=version) for package, version in packages.items()})
    return Side(name=name, facts=facts)


def _direction(before: Fact, after: Fact, tolerance: float) -> Direction | None:
    if before.rank is None or after.rank is None:
        return None if before.text == after.text else Direction.CHANGE
    difference = after.rank - before.rank
    if before.relative:
        base = abs(before.rank)
        if base == 0 or abs(difference) / base <= tolerance:
            return None
    elif difference == 0:
        return None if before.text == after.text else Direction.CHANGE
    return Direction.REGRESSION if difference < 0 else Direction.IMPROVEMENT


_ORDER: Final = {direction: position for position, direction in enumerate(Direction)}


def _urgency(change: Change) -> int:
    words: Sequence[str] = ("build", "audit", " on ", "size")
    return next((i for i, word in enumerate(words) if word in change.what), len(words))


def changes(before: Side, after: Side, *, tolerance: float = 0.05) -> list[Change]:
    """Return what differs: regressions, then improvements, then the rest.

    `tolerance` is the share by which sizes and speeds may differ without being told.
    """
    found: list[Change] = []
    for cell in sorted({*before.facts, *after.facts}):
        mine, theirs = before.facts.get(cell), after.facts.get(cell)
        if mine is None or theirs is None:
            direction = Direction.ADDED if mine is None else Direction.REMOVED
            state = (theirs or mine or {}).get("build")
            text = state.text if state else "known"
            old, new = ("-", text) if mine is None else (text, "-")
            found.append(Change(cell=cell, what="cell", before=old, after=new, direction=direction))
            continue
        for what in sorted({*mine, *theirs}):
            old_fact, new_fact = mine.get(what), theirs.get(what)
            if old_fact is None or new_fact is None:
                fact = new_fact or old_fact
                assert fact is not None
                new_one = old_fact is None
                found.append(
                    Change(
                        cell=cell,
                        what=what,
                        before="-" if new_one else fact.text,
                        after=fact.text if new_one else "-",
                        direction=Direction.ADDED if new_one else Direction.REMOVED,
                    )
                )
                continue
            verdict = _direction(old_fact, new_fact, tolerance)
            if verdict is None:
                continue
            note = new_fact.note
            if old_fact.relative and old_fact.rank and new_fact.rank is not None:
                note = f"{new_fact.rank / old_fact.rank:.2f} times"
            found.append(
                Change(cell=cell, what=what, before=old_fact.text, after=new_fact.text, direction=verdict, note=note)
            )
    return sorted(found, key=lambda change: (_ORDER[change.direction], _urgency(change), change.cell, change.what))
