"""Bisecting cells: which stand on the line, what records already say, interruption, the answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from assay.bisect import Trial
from assay.errors import StoreError, UsageError
from assay.flows.bisect import Line, known, line_between, nights_between, resume, run, trial_of
from assay.model.cell import Cell
from assay.model.matrix import AxisValue
from assay.model.outcome import Outcome, Verdict
from assay.record import (
    AnyRecord,
    AuditRecord,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
)

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
TORCH = [f"2.{minor}.0" for minor in range(20)]
ORDER: Mapping[str, list[str]] = {"torch": TORCH, "cuda": ["12.8", "13.0"]}


def cell(torch: str, *, cuda: str = "13.0", image: str = "made", date: str | None = None) -> Cell:
    nightly = {"id": torch, "spec": ">=2", "index": "nightly", "date": date}
    value = AxisValue.model_validate({"id": torch, "version": torch} if date is None else nightly)
    point = {"torch": value, "cuda": AxisValue(id=cuda, version=cuda)}
    return Cell(
        id=f"{image}-{cuda}-{torch}", image=image, engine="none", kind="build", point=point, targets=("sm_120",)
    )


CELLS = [cell(torch) for torch in TORCH]


def probe(cell_id: str, outcome: Outcome, capability: str = "12.0") -> ProbeRecord:
    return ProbeRecord(
        created=WHEN, run="r", cell=cell_id, suite_digest="s", executor="docker", packages={},
        devices=(Device(name="g", capability=capability, memory_bytes=1),),
        features={"marlin": FeatureResult(outcome=outcome)},
    )  # fmt: skip


def line() -> Line:
    return line_between(CELLS, CELLS[0], CELLS[-1], ORDER)


def test_the_line_holds_the_cells_of_one_image_that_differ_in_one_axis() -> None:
    others = [cell("2.3.0", image="other"), cell("2.5.0", cuda="12.8")]
    found = line_between([*others, *CELLS[::-1]], CELLS[2], CELLS[6], ORDER)

    assert found.axis == "torch"
    assert found.versions == TORCH[2:7]


def test_a_line_can_go_backwards() -> None:
    assert line_between(CELLS, CELLS[6], CELLS[2], ORDER).versions == TORCH[6:1:-1]


def test_nightlies_go_by_their_dates() -> None:
    nights = [cell(f"n{day:02d}", date=f"2026-10-{day:02d}") for day in (9, 2, 5)]
    order = {"torch": ["n09", "n02", "n05"], "cuda": ["13.0"]}

    assert line_between(nights, nights[1], nights[0], order).versions == ["n02", "n05", "n09"]


def test_nights_that_are_missing_between_two_dated_ends_are_named() -> None:
    nights = [cell(f"n{day:02d}", date=f"2026-10-{day:02d}") for day in (28, 30)]
    later = cell("n1102", date="2026-11-02")
    order = {"torch": ["n28", "n30", "n1102"], "cuda": ["13.0"]}
    found = nights_between(line_between([*nights, later], nights[0], later, order))

    assert [(value.id, value.date) for value in found] == [
        ("n20261029", "2026-10-29"),
        ("n20261031", "2026-10-31"),
        ("n20261101", "2026-11-01"),
    ]
    assert {(value.spec, value.index) for value in found} == {(">=2", "nightly")}
    assert nights_between(line()) == []


@pytest.mark.parametrize("other", [CELLS[0], cell("2.3.0", cuda="12.8"), cell("2.3.0", image="other")])
def test_cells_that_differ_in_more_or_less_than_one_axis_are_refused(other: Cell) -> None:
    with pytest.raises(UsageError, match="exactly one axis"):
        line_between(CELLS, CELLS[0], other, ORDER)


@pytest.mark.parametrize(
    ("records", "trial"),
    [
        ([], None),
        ([probe("c", Outcome.WORKS)], Trial.GOOD),
        ([probe("c", Outcome.DEGRADED)], Trial.BAD),
        ([probe("c", Outcome.UNSUPPORTED)], Trial.BAD),
        ([probe("c", Outcome.INCONCLUSIVE)], Trial.SKIP),
        ([probe("c", Outcome.WORKS), probe("c", Outcome.BROKEN)], Trial.BAD),
        ([probe("c", Outcome.WORKS), probe("c", Outcome.NOT_RUN)], Trial.GOOD),
        ([probe("c", Outcome.NOT_RUN)], Trial.SKIP),
        ([probe("c", Outcome.WORKS, "9.0")], None),
        ([BuildRecord(created=WHEN, run="r", cell="c", status=BuildStatus.FAILED)], Trial.SKIP),
        ([BuildRecord(created=WHEN, run="r", cell="c", status=BuildStatus.ABORTED)], None),
        ([AuditRecord(created=WHEN, run="r", cell="c", subject="wheels", verdict=Verdict.FAIL)], Trial.SKIP),
        ([probe("another", Outcome.WORKS)], None),
    ],
)
def test_what_records_say_of_one_cell(records: list[AnyRecord], trial: Trial | None) -> None:
    assert trial_of(records, "c", "marlin", "sm_120") == trial


def test_only_good_and_bad_are_taken_over_what_was_skipped_is_tried_again() -> None:
    records: list[AnyRecord] = [
        probe(CELLS[4].id, Outcome.WORKS),
        probe(CELLS[5].id, Outcome.INCONCLUSIVE),
        probe(CELLS[9].id, Outcome.BROKEN),
    ]

    assert known(line(), records, "marlin") == {"2.4.0": Trial.GOOD, "2.9.0": Trial.BAD}


def test_a_run_keeps_its_state_before_and_after_each_test_and_finds_the_first_bad() -> None:
    kept: list[bytes] = []
    tested: list[str] = []

    def test(cell_id: str) -> Trial:
        tested.append(cell_id)
        return Trial.BAD if TORCH.index(cell_id.rsplit("-", 1)[1]) >= 13 else Trial.GOOD

    state = resume(None, line(), {}, source="f")
    _, found = run(state, line(), test=test, keep=kept.append, said=lambda *_: None)

    assert (found.last_good, found.first_bad) == ("2.12.0", "2.13.0")
    assert len(tested) <= 5
    assert len(kept) == len(tested) + 1


def test_an_interrupted_run_goes_on_and_tests_nothing_twice() -> None:
    kept: list[bytes] = []
    tested: list[str] = []

    def test(cell_id: str) -> Trial:
        if len(tested) == 2:
            raise KeyboardInterrupt
        tested.append(cell_id)
        return Trial.BAD if TORCH.index(cell_id.rsplit("-", 1)[1]) >= 13 else Trial.GOOD

    with pytest.raises(KeyboardInterrupt):
        run(resume(None, line(), {}, source="f"), line(), test=test, keep=kept.append, said=lambda *_: None)
    again = resume(kept[-1], line(), {}, source="f")
    end, found = run(
        again,
        line(),
        test=lambda c: Trial.BAD if TORCH.index(c.rsplit("-", 1)[1]) >= 13 else Trial.GOOD,
        keep=lambda _: None,
        said=lambda *_: None,
    )

    assert len(again.evaluated) == 2
    assert found.first_bad == "2.13.0"
    assert len(set(end.evaluated)) == len(end.evaluated) <= 5


def test_a_saved_state_of_another_line_is_not_used_and_a_broken_one_is_told() -> None:
    other = resume(None, line_between(CELLS, CELLS[0], CELLS[3], ORDER), {}, source="f")

    assert resume(other.model_dump_json().encode(), line(), {}, source="f").versions == tuple(TORCH)
    with pytest.raises(StoreError, match="not the state"):
        resume(b"{", line(), {}, source="f")


def test_records_that_contradict_the_ends_are_told() -> None:
    with pytest.raises(UsageError, match="given as good"):
        resume(None, line(), {"2.0.0": Trial.BAD}, source="f")
