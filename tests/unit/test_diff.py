"""What changed: regressions first, noise left out, nothing called better or worse that is neither."""

from __future__ import annotations

from datetime import UTC, datetime

from assay.evidence.diff import Change, Direction, changes, side
from assay.evidence.record import (
    SHARED_GPU,
    AnyRecord,
    AuditRecord,
    BenchRecord,
    BenchSeries,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Verdict

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
GPU = (Device(name="RTX 5090", capability="12.0", memory_bytes=1),)


def build(status: BuildStatus = BuildStatus.BUILT, *, size: int | None = None, cell: str = "c") -> BuildRecord:
    return BuildRecord(created=WHEN, run="r", cell=cell, status=status, size_bytes=size, cause="b-no-space")


def audit(verdict: Verdict) -> AuditRecord:
    return AuditRecord(created=WHEN, run="r", cell="c", subject="wheels", verdict=verdict)


def probe(torch: str = "2.8.0", **features: Outcome) -> ProbeRecord:
    return ProbeRecord(
        created=WHEN, run="r", cell="c", suite_digest="s", executor="local", devices=GPU, packages={"torch": torch},
        features={name: FeatureResult(outcome=outcome, cause="q-nan") for name, outcome in features.items()},
    )  # fmt: skip


def bench(rate: float) -> BenchRecord:
    series = BenchSeries(
        workload="chat", users=4, max_tokens=8, requests=8, failed=0, seconds=1, completion_tokens=64,
        requests_per_second=1, tokens_per_second=rate,
    )  # fmt: skip
    return BenchRecord(
        created=WHEN, run="r", cell="c", engine="vllm", executor="local", stable=True, series=(series,), devices=GPU
    )


def serve(status: ServeStatus, seconds: float = 30) -> ServeRecord:
    return ServeRecord(
        created=WHEN, run="r", cell="c", engine="vllm", executor="local", status=status, devices=GPU,
        start_seconds=seconds,
    )  # fmt: skip


def compare(before: list[AnyRecord], after: list[AnyRecord]) -> list[Change]:
    return changes(side("a", before), side("b", after))


def brief(found: list[Change]) -> list[tuple[str, str, str, str]]:
    return [(str(c.direction), c.what, c.before, c.after) for c in found]


def test_nothing_changed() -> None:
    records: list[AnyRecord] = [build(size=100), audit(Verdict.OK), probe(marlin=Outcome.WORKS), bench(100)]

    assert compare(records, records) == []


def test_regressions_come_first_builds_before_features() -> None:
    before: list[AnyRecord] = [build(), audit(Verdict.OK), probe(marlin=Outcome.WORKS, sampling=Outcome.BROKEN)]
    after: list[AnyRecord] = [
        build(BuildStatus.FAILED),
        audit(Verdict.WARN),
        probe("2.9.1", marlin=Outcome.WRONG, sampling=Outcome.WORKS),
    ]

    assert brief(compare(before, after)) == [
        ("regression", "build", "built", "failed"),
        ("regression", "audit of wheels", "ok", "warn"),
        ("regression", "marlin on sm_120", "works", "wrong"),
        ("improvement", "sampling on sm_120", "broken", "works"),
        ("change", "version of torch", "2.8.0", "2.9.1"),
    ]
    assert compare(before, after)[0].note == "b-no-space"
    assert compare(before, after)[2].note == "q-nan"


def test_sizes_and_speeds_count_only_beyond_the_tolerance() -> None:
    assert compare([build(size=1000)], [build(size=1040)]) == []
    [grown] = compare([build(size=1_000_000)], [build(size=1_200_000)])
    [slower] = compare([bench(100)], [bench(80)])
    [faster] = compare([bench(100)], [bench(120)])

    assert (grown.direction, grown.note) == (Direction.REGRESSION, "1.20 times")
    assert (slower.direction, slower.before, slower.after) == (Direction.REGRESSION, "100 tokens/s", "80 tokens/s")
    assert faster.direction is Direction.IMPROVEMENT


def test_a_server_that_stops_starting_is_a_regression_and_a_slow_start_too() -> None:
    [first, *_] = compare([serve(ServeStatus.OK)], [serve(ServeStatus.CRASHED)])
    assert (first.what, first.direction) == ("server on sm_120", Direction.REGRESSION)
    [slow] = compare([serve(ServeStatus.OK, 30)], [serve(ServeStatus.OK, 90)])
    assert (slow.direction, slow.before, slow.after) == (Direction.REGRESSION, "30 s", "90 s")


def test_speeds_beside_another_process_on_the_gpu_are_neither_better_nor_worse() -> None:
    beside = {"notes": (f"{SHARED_GPU} (9.0 GiB in use before the server started)",)}
    [slower] = compare([bench(100)], [bench(80).model_copy(update=beside)])
    [start] = compare([serve(ServeStatus.OK, 30)], [serve(ServeStatus.OK, 90).model_copy(update=beside)])

    assert (Direction.CHANGE, SHARED_GPU) == (slower.direction, slower.note)
    assert Direction.CHANGE is start.direction


def test_inconclusive_and_not_run_are_neither_better_nor_worse() -> None:
    [found] = compare([probe(marlin=Outcome.WORKS)], [probe(marlin=Outcome.INCONCLUSIVE)])
    [gone] = compare([probe(marlin=Outcome.WORKS)], [probe(marlin=Outcome.NOT_RUN)])

    assert found.direction is Direction.CHANGE
    assert gone.direction is Direction.REMOVED
    assert compare([probe(marlin=Outcome.WORKS), probe(marlin=Outcome.NOT_RUN)], [probe(marlin=Outcome.WORKS)]) == []


def test_added_and_removed_cells_and_features_sort_last() -> None:
    found = compare([build(), probe(a=Outcome.WORKS)], [build(), probe(b=Outcome.WORKS), build(cell="d")])

    assert brief(found) == [
        ("added", "b on sm_120", "-", "works"),
        ("added", "cell", "-", "built"),
        ("removed", "a on sm_120", "works", "-"),
    ]


def test_the_newest_record_counts() -> None:
    assert compare([build(BuildStatus.FAILED), build()], [build()]) == []


def test_an_aborted_build_gives_no_result() -> None:
    assert compare([build()], [build(), build(BuildStatus.ABORTED)]) == []


def test_two_different_cells_are_compared_under_one_name_with_their_locks() -> None:
    one = side("a", [probe(marlin=Outcome.WORKS)], versions={"c": {"torch": "2.8.0", "numpy": "2.1"}}, one="a / b")
    other = side("b", [probe(marlin=Outcome.BROKEN)], versions={"x": {"torch": "2.9.1", "numpy": "2.1"}}, one="a / b")

    assert brief(changes(one, other)) == [
        ("regression", "marlin on sm_120", "works", "broken"),
        ("change", "version of torch", "2.8.0", "2.9.1"),
    ]
