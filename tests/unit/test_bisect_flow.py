"""Bisecting cells: which stand on the line, what records already say, interruption, the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from assay.errors import AssayError, EngineError, PackageIndexError, StoreError, UsageError
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix import loading as matrix
from assay.matrix import plan
from assay.matrix.between import CellLine, line_between, texts
from assay.matrix.bisection import SearchState, Trial, propose
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.model import AxisValue, Index
from assay.pipeline.bisect import (
    BisectPorts,
    BisectQuestion,
    check_feature,
    known,
    resume,
    run,
    saved_state,
    trial_of,
    try_cell,
)
from assay.pipeline.bisect_line import Walk, end_of, walk
from assay.pipeline.lock import LockResult, LockStatus

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


def line() -> CellLine:
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
def test_results_of_one_cell_come_from_its_records(records: list[AnyRecord], trial: Trial | None) -> None:
    assert trial_of(records, "c", "marlin", "sm_120") == trial


def test_resume_keeps_good_and_bad_and_retries_skipped_cells() -> None:
    records: list[AnyRecord] = [
        probe(CELLS[4].id, Outcome.WORKS),
        probe(CELLS[5].id, Outcome.INCONCLUSIVE),
        probe(CELLS[9].id, Outcome.BROKEN),
    ]

    assert known(line(), records, "marlin") == {"2.4.0": Trial.GOOD, "2.9.0": Trial.BAD}


def test_a_run_keeps_its_state_before_and_after_each_test_and_finds_the_first_bad() -> None:
    kept: list[bytes] = []
    tested: list[str] = []

    def test(found: Cell) -> Trial:
        tested.append(found.id)
        return Trial.BAD if TORCH.index(found.id.rsplit("-", 1)[1]) >= 13 else Trial.GOOD

    state = resume(None, line(), {})
    _, found = run(state, line(), test=test, keep=kept.append, said=lambda *_: None)

    assert (found.last_good, found.first_bad) == ("2.12.0", "2.13.0")
    assert len(tested) <= 5
    assert len(kept) == len(tested) + 1


def test_interrupted_run_resumes_and_repeats_no_test() -> None:
    kept: list[bytes] = []
    tested: list[str] = []

    def test(found: Cell) -> Trial:
        if len(tested) == 2:
            raise KeyboardInterrupt
        tested.append(found.id)
        return Trial.BAD if TORCH.index(found.id.rsplit("-", 1)[1]) >= 13 else Trial.GOOD

    with pytest.raises(KeyboardInterrupt):
        run(resume(None, line(), {}), line(), test=test, keep=kept.append, said=lambda *_: None)
    again = resume(saved_state(kept[-1], source="f"), line(), {})
    end, found = run(
        again,
        line(),
        test=lambda c: Trial.BAD if TORCH.index(c.id.rsplit("-", 1)[1]) >= 13 else Trial.GOOD,
        keep=lambda _: None,
        said=lambda *_: None,
    )

    assert len(again.evaluated) == 2
    assert found.first_bad == "2.13.0"
    assert len(set(end.evaluated)) == len(end.evaluated) <= 5


def test_saved_state_is_used_for_the_same_versions_and_a_broken_one_is_reported() -> None:
    longer = SearchState(
        versions=("1.0.0", *TORCH),
        trials={"1.0.0": Trial.GOOD, "2.3.0": Trial.SKIP, "2.5.0": Trial.GOOD},
        evaluated=("1.0.0", "2.3.0"),
    )
    again = resume(longer, line(), {"2.9.0": Trial.BAD})

    assert again.versions == tuple(TORCH)
    assert again.trials == {"2.3.0": Trial.SKIP, "2.5.0": Trial.GOOD, "2.9.0": Trial.BAD}
    assert again.evaluated == ("2.3.0",)
    assert saved_state(None, source="f") is None
    with pytest.raises(StoreError, match="not the state"):
        saved_state(b"{", source="f")


def test_records_that_contradict_the_ends_are_reported() -> None:
    with pytest.raises(UsageError, match="given as good"):
        resume(None, line(), {"2.0.0": Trial.BAD})


MATRIX = """\
targets:
  sm_120: {name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}
bases:
  tiny: {kind: registry, image: "docker.io/library/tiny:1", python: 3.11, glibc: 2.36}
indexes: {pypi: {}, nights: {url: "https://nightly.example/whl", nightly: true, keeps_days: 60}}
axes:
  torch:
    label: torch
    values:
      - 2.8.0
      - 2.9.0
      - 2.9.1
      - 2.12.0
      - {id: first, spec: ">=2.15.0.dev0", index: nights, date: 2026-10-20}
      - {id: named, spec: ">=2.15.0.dev0", index: nights, date: 2026-10-25}
      - {id: nightly, spec: ">=2.15.0.dev0", index: nights, date: latest}
  kernel: {label: k, values: [1.0, 2.0]}
exclude: [{match: {torch: n20261102}, reason: that night was withdrawn by its makers.}]
groups: {some: ["torch=nightly"]}
default_group: some
"""
IMAGE = """\
description: an image
engine: none
targets: [sm_120]
id: [torch, kernel]
defaults: {base: tiny, kernel: 1.0}
axes: {torch: [2.8.0, 2.9.1, 2.12.0, first, named, nightly]}
include: [{torch: 2.8.0, kernel: 2.0}]
requirements: ["torch{{ torch.pin }}", "kernel{{ kernel.pin }}"]
overrides: [{match: {torch: nightly}, forced_requirements: ["torch{{ torch.pin }}"]}]
"""
NIGHTS = [f"2.15.0.dev202610{day:02d}+cu130" for day in range(18, 32) if day != 23]
NIGHTS += [f"2.15.0.dev202611{day:02d}+cu130" for day in range(1, 9)]
OTHERS = ["2.14.0.dev20261021+cu130", "2.15.0.dev1", "2.15.0"]
LATEST = {"nightly": "2026-11-05"}
PLAN = plan.make(matrix.load(MATRIX, {"i": IMAGE}))
BY_ID = {cell.id: cell for cell in PLAN.cells}


def walked(good: str, bad: str, *, told: tuple[str, ...] = (), every: bool = False) -> Walk:
    def versions(name: str, index: Index) -> list[str]:
        assert (name, index.nightly) == ("torch", not every)
        return ["2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.10.0rc1", "2.11.0", "2.12.0", "2.13.0"] if every else [
            *NIGHTS, *OTHERS,
        ]  # fmt: skip

    return walk(
        PLAN, BY_ID[f"i-torch{good}-k1.0"], BY_ID[f"i-torch{bad}-k1.0"], versions=versions, night_of=LATEST,
        all_versions=every, told=told,
    )  # fmt: skip


def test_every_night_between_two_that_the_index_offers_is_walked() -> None:
    found = walked("first", "nightly")

    assert found.line.versions == [
        "first", "n20261021", "n20261022", "n20261024", "named", "n20261026", "n20261027", "n20261028", "n20261029",
        "n20261030", "n20261031", "n20261101", "n20261103", "n20261104", "nightly",
    ]  # fmt: skip
    assert found.gone == ("2026-10-23",)
    assert [item.reason for item in found.left_out] == ["that night was withdrawn by its makers."]
    assert {(value.spec, value.index) for value in found.made} == {(">=2.15.0.dev0", "nights")}


def test_a_night_that_left_the_index_stays_while_something_is_known_about_it() -> None:
    assert "n20261023" in walked("first", "nightly", told=("i-torchn20261023-k1.0",)).line.versions


def test_conditions_on_the_end_that_stands_for_a_night_hold_for_all_nights() -> None:
    made = walked("first", "nightly").line.cells

    assert made["n20261026"].forced_requirements == made["nightly"].forced_requirements == ("torch>=2.15.0.dev0",)
    assert made["named"].forced_requirements == ()


def test_nights_are_walked_backwards_and_from_a_release_on() -> None:
    assert walked("nightly", "first").line.versions == walked("first", "nightly").line.versions[::-1]
    assert walked("2.12.0", "first").line.versions == ["2.12.0", "n20261018", "n20261019", "first"]


def test_a_latest_night_without_a_lock_is_refused() -> None:
    with pytest.raises(UsageError, match="known only after it is locked"):
        walk(PLAN, BY_ID["i-torchfirst-k1.0"], BY_ID["i-torchnightly-k1.0"], versions=lambda *_: [], night_of={})


def test_releases_that_the_matrix_does_not_name_are_walked_when_asked_for() -> None:
    def none(*_: object) -> list[str]:
        raise AssertionError("the index is not needed")

    ends = (BY_ID["i-torch2.8.0-k1.0"], BY_ID["i-torch2.12.0-k1.0"])
    named = walk(PLAN, *ends, versions=none, night_of={})

    assert named.line.versions == ["2.8.0", "2.9.1", "2.12.0"]
    assert walked("2.8.0", "2.12.0", every=True).line.versions == ["2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.0"]


def test_the_files_of_a_walk_give_the_cells_of_the_line_and_no_others() -> None:
    for found in (walked("first", "nightly"), walked("2.8.0", "2.12.0", every=True)):
        files = texts(found.project)
        again = plan.make(matrix.load(files["matrix.yaml"], {"i": files["images/i/image.yaml"]}))

        assert {cell.id: cell for cell in again.cells} == {cell.id: cell for cell in found.line.cells.values()}


def test_a_thousand_nights_take_at_most_eleven_evaluations() -> None:
    start = date(2024, 1, 1)
    days = [start + timedelta(days=day) for day in range(1000)]
    text = MATRIX.replace("2026-10-20", str(days[0])).replace("2026-10-25", str(days[-1]))
    made = plan.make(matrix.load(text, {"i": IMAGE}))
    by_id = {cell.id: cell for cell in made.cells}
    found = walk(
        made, by_id["i-torchfirst-k1.0"], by_id["i-torchnamed-k1.0"],
        versions=lambda *_: [f"2.15.0.dev{day:%Y%m%d}" for day in days], night_of={},
    )  # fmt: skip
    assert len(found.line.versions) == 1000
    for change in (1, 2, 500, 998, 999):
        state, answer = run(
            resume(None, found.line, {}), found.line,
            test=lambda cell: Trial.BAD if str(cell.point["torch"].date) >= str(days[change]) else Trial.GOOD,  # noqa: B023
            keep=lambda _: None, said=lambda *_: None,
        )  # fmt: skip

        assert propose(state) is None
        assert len(state.evaluated) <= 11
        assert answer.first_bad == ("named" if change == 999 else f"n{days[change]:%Y%m%d}")


@pytest.mark.parametrize(
    ("feature", "record", "trial"),
    [
        ("build", {"status": BuildStatus.BUILT, "lock_digest": "sha256:1"}, Trial.GOOD),
        ("build", {"status": BuildStatus.FAILED, "lock_digest": "sha256:1"}, Trial.BAD),
        ("build", {"status": BuildStatus.REFUSED, "lock_digest": "sha256:1"}, Trial.BAD),
        ("build", {"status": BuildStatus.REFUSED}, Trial.SKIP),
        ("build", {"status": BuildStatus.ENGINE_FAILED, "lock_digest": "sha256:1"}, None),
        ("audit", {"status": BuildStatus.FAILED, "lock_digest": "sha256:1"}, None),
        ("marlin", {"status": BuildStatus.BUILT}, None),
    ],
)
def test_build_record_gives_the_outcome_of_its_stage(feature: str, record: dict[str, Any], trial: Trial | None) -> None:
    assert trial_of([BuildRecord(created=WHEN, run="r", cell="c", **record)], "c", feature) == trial


@pytest.mark.parametrize(("verdict", "trial"), [(Verdict.OK, Trial.GOOD), (Verdict.FAIL, Trial.BAD)])
def test_audit_record_gives_the_outcome_of_stage_audit(verdict: Verdict, trial: Trial) -> None:
    record = AuditRecord(created=WHEN, run="r", cell="c", subject="wheels", verdict=verdict)

    assert trial_of([record], "c", "audit") == trial
    assert trial_of([record], "c", "build") is None


def steps(
    *,
    status: LockStatus = LockStatus.LOCKED,
    nights: Mapping[str, str] | None = None,
    verdict: Verdict = Verdict.OK,
    built: BuildStatus = BuildStatus.BUILT,
    measured: Outcome | None = Outcome.WORKS,
    recorded: Sequence[AnyRecord] = (),
    said: list[str] | None = None,
) -> BisectPorts:
    """Steps that end as they are told to; one that the question does not need raises."""

    def locked(cell: Cell) -> LockResult:
        lock = Lock(
            cell=cell.id, python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="slim", wheels=(),
            nightlies=dict(nights or {}),
        )  # fmt: skip
        there = status in {LockStatus.LOCKED, LockStatus.FAILING}
        return LockResult(cell=cell, status=status, lock=lock if there else None, explanation="why")

    def probed(cell: Cell, feature: str) -> list[AnyRecord]:
        return [] if measured is None else [probe(cell.id, measured)]

    return BisectPorts(
        lock=locked,
        audit=lambda item: verdict,
        build=lambda item: BuildRecord(
            created=WHEN, run="r", cell=item.cell.id, status=built, lock_digest="sha256:" + "0" * 64, reason="why"
        ),
        probe=probed,
        records=lambda: recorded,
        say=(said if said is not None else []).append,
    )


WALK = Walk(line=line(), project=PLAN.project)
CELL = CELLS[3]


@pytest.mark.parametrize(
    ("feature", "ports", "trial"),
    [
        ("lock", steps(), Trial.GOOD),
        ("lock", steps(status=LockStatus.CONFLICT), Trial.BAD),
        ("lock", steps(status=LockStatus.MISSING), Trial.SKIP),
        ("marlin", steps(status=LockStatus.CONFLICT), Trial.SKIP),
        ("audit", steps(), Trial.GOOD),
        ("audit", steps(verdict=Verdict.FAIL), Trial.BAD),
        ("build", steps(), Trial.GOOD),
        ("build", steps(built=BuildStatus.CACHED), Trial.GOOD),
        ("build", steps(built=BuildStatus.FAILED), Trial.BAD),
        ("build", steps(built=BuildStatus.REFUSED), Trial.BAD),
        ("marlin", steps(built=BuildStatus.REFUSED), Trial.SKIP),
        ("marlin", steps(built=BuildStatus.FAILED), Trial.SKIP),
        ("marlin", steps(), Trial.GOOD),
        ("marlin", steps(measured=Outcome.BROKEN), Trial.BAD),
        ("marlin", steps(measured=Outcome.INCONCLUSIVE), Trial.SKIP),
        ("marlin", steps(measured=None), Trial.SKIP),
        ("marlin", steps(measured=None, recorded=[probe(CELL.id, Outcome.BROKEN)]), Trial.BAD),
        ("marlin", steps(status=LockStatus.FAILING), Trial.GOOD),
    ],
)
def test_a_cell_is_tested_as_far_as_the_question_needs(feature: str, ports: BisectPorts, trial: Trial) -> None:
    assert try_cell(CELL, WALK, BisectQuestion(feature=feature), ports) is trial


def test_results_of_another_gpu_do_not_answer() -> None:
    assert try_cell(CELL, WALK, BisectQuestion(feature="marlin", target="sm_90"), steps()) is Trial.SKIP
    assert try_cell(CELL, WALK, BisectQuestion(feature="marlin", target="sm_120"), steps()) is Trial.GOOD


@pytest.mark.parametrize(
    ("ports", "error"),
    [
        (steps(status=LockStatus.UNREACHABLE), PackageIndexError),
        (steps(built=BuildStatus.ENGINE_FAILED), EngineError),
        (steps(built=BuildStatus.ABORTED), EngineError),
    ],
)
def test_a_step_that_cannot_do_its_work_gives_no_result_for_the_cell(
    ports: BisectPorts, error: type[AssayError]
) -> None:
    with pytest.raises(error, match="why") as raised:
        try_cell(CELL, WALK, BisectQuestion(feature="marlin"), ports)

    assert "run the same command again" in (raised.value.hint or "")


def test_a_night_that_left_its_index_is_skipped() -> None:
    walk = walked("first", "nightly")
    night = walk.line.cells["n20261022"]
    said: list[str] = []
    other = steps(nights={"torch": "20261021"}, said=said)

    assert try_cell(night, walk, BisectQuestion(feature="lock"), other) is Trial.SKIP
    assert said == [f"{night.id}: the index no longer has a build of 2026-10-22"]
    assert try_cell(night, walk, BisectQuestion(feature="lock"), steps(nights={"torch": "20261022"})) is Trial.GOOD


def test_a_feature_that_has_neither_probe_nor_record_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="marlin"):
        check_feature("marlln", {}, ["marlin"])
    check_feature("marlin", {}, ["marlin"])
    check_feature("build", {}, [])


def test_an_end_names_exactly_one_cell() -> None:
    assert end_of(PLAN, PLAN.cells[0].id) == PLAN.cells[0]
    with pytest.raises(UsageError, match="an end of a bisection is one cell"):
        end_of(PLAN, "i-*")
