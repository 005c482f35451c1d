"""The coordinator over a pool that loses jobs in every way that was seen: results come home, no cell is blamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assay.adapters.files.pool_runs import FilePoolBook, PoolRuns
from assay.adapters.files.records import FileStore
from assay.adapters.pools.fake import FakePool, Fate, sealed_result
from assay.errors import StoreError, UsageError
from assay.evidence import suite as probes
from assay.evidence.record import ProbeRecord
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.pipeline.pooled import Coordinator
from assay.pipeline.pooled_probes import PoolRecorder, plan_run, pooled_exit_code
from assay.pipeline.pooled_values import PooledEnd, PoolLimits, measured_at
from assay.pipeline.probe import ProbeOptions
from assay.pipeline.probe_record import ProbeSubject
from assay.ports.jobs import Place, ProbeJob
from assay.ports.pools import Loss, PoolRun, PoolSilent

DECLARE = 'FEATURE = "{0}"\nREQUIRES = ()\nTIMEOUT = 5\nGPUS = 0\nWARM = True\n'
SUITE = {"features/one.py": DECLARE.format("one").encode(), "features/two.py": DECLARE.format("two").encode()}
KNOWN = probes.declarations({path: data.decode() for path, data in SUITE.items()})
LIMITS = PoolLimits(attempts=3, patience=12, grace=2, unknown=6, every=0)


@dataclass
class Scene:
    """A project with a run on a pool, and what was said of it."""

    root: Path
    stack: ExitStack
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FileStore(self.root)

    def plan(self, count: int = 4, **more: object) -> PoolRun:
        subjects = [
            ProbeSubject(place=Place(reference=f"r.example/a@{digest}", digest=digest), cell=f"cell-{number}")
            for number in range(count)
            if (digest := sha256_of(str(number).encode()))
        ]
        made = plan_run(
            subjects,
            ProbeOptions(**more),  # type: ignore[arg-type]
            pool="p",
            suite=sha256_of(b"suite"),
            chosen=probes.order(KNOWN),
            gpus=("h200",),
        )
        return PoolRuns(self.root).start(made, SUITE)

    def coordinator(self, pool: FakePool, plan: PoolRun) -> Coordinator:
        book = FilePoolBook(self.stack.enter_context(self.store.named_run(plan.run)))
        recorder = PoolRecorder(store=self.store, book=book, known=KNOWN, say=self.said.append)
        return Coordinator(
            pool, plan, book, suite=b"zip", record=recorder, limits=LIMITS, say=self.said.append, clock=pool.clock
        )

    def run(self, pool: FakePool, plan: PoolRun) -> list[PooledEnd]:
        return list(self.coordinator(pool, plan).run())

    @property
    def records(self) -> list[ProbeRecord]:
        return [item for item in self.store.records() if isinstance(item, ProbeRecord)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path / "build_logs", stack)


def first(fate: Fate) -> Callable[[ProbeJob], Fate]:
    """Return a pool's fate: the first attempt has this one, later ones finish."""
    return lambda job: fate if job.attempt == 1 else "finishes"


def test_every_job_becomes_one_record_bound_to_its_digest(scene: Scene) -> None:
    plan = scene.plan()
    ends = scene.run(FakePool(), plan)

    assert [item.cell for item in plan.jobs] == [end.planned.cell for end in ends]
    assert {item.cell: item.job.place.digest for item in plan.jobs} == {
        item.cell: item.image_digest for item in scene.records
    }
    assert {Outcome.WORKS} == {result.outcome for item in scene.records for result in item.features.values()}
    assert 0 == pooled_exit_code(ends, 4)


@pytest.mark.parametrize(
    "fate", ["no_result", "cut_off", "foreign", "node_lost", "vanishes", "held", "half", "late", "done_but_pending"]
)
def test_a_job_that_the_pool_lost_is_run_again_and_recorded_once(scene: Scene, fate: Fate) -> None:
    pool = FakePool(fate=first(fate))
    ends = scene.run(pool, scene.plan())

    assert Counter({f"cell-{number}": 1 for number in range(4)}) == Counter(item.cell for item in scene.records)
    assert all(end.loss is None and end.record is not None for end in ends)


def test_a_result_that_is_there_counts_although_the_engine_calls_the_job_held(scene: Scene) -> None:
    pool = FakePool(fate=lambda _: "done_but_pending")
    scene.run(pool, scene.plan())

    assert 4 == len(pool.submitted)
    assert 4 == len(scene.records)


@pytest.mark.parametrize(
    ("fate", "loss"),
    [
        ("pull_failed", Loss.PULL_FAILED),
        ("refused", Loss.REFUSED),
        ("no_result", Loss.NO_RESULT),
        ("node_lost", Loss.NODE_LOST),
    ],
)
def test_a_job_that_never_ends_well_is_not_a_failure_of_its_cell(scene: Scene, fate: Fate, loss: Loss) -> None:
    plan = scene.plan()
    ends = scene.run(FakePool(fate=lambda job: fate if job.place == plan.jobs[0].job.place else "finishes"), plan)

    assert [loss, None, None, None] == [end.loss for end in ends]
    assert ends[0].record is None
    assert "not the cell's fault" in ends[0].words
    assert ["cell-1", "cell-2", "cell-3"] == sorted(item.cell for item in scene.records)
    assert 4 == pooled_exit_code(ends, 4)


def test_what_a_lost_job_had_measured_is_recorded_and_the_rest_is_not_run(scene: Scene) -> None:
    ends = scene.run(FakePool(fate=lambda _: "half"), scene.plan(1))
    outcomes = {name: result.outcome for name, result in scene.records[0].features.items()}

    assert Loss.NODE_LOST == ends[0].loss
    assert {"one": Outcome.WORKS, "two": Outcome.NOT_RUN} == outcomes


def test_a_harness_that_fails_is_tried_on_another_attempt_before_it_counts(scene: Scene) -> None:
    pool = FakePool(fate=lambda _: "broke_off")
    scene.run(pool, scene.plan(1))

    assert 2 == len(pool.submitted)
    assert Outcome.NOT_RUN == scene.records[0].features["two"].outcome


def test_another_process_continues_with_the_same_run(scene: Scene) -> None:
    """The first one dies after two looks; the second submits nothing twice."""
    plan, pool = scene.plan(), FakePool()
    dead = scene.coordinator(pool, plan)
    dead.look(submit=True)
    scene.run(pool, scene.plan())

    assert 4 == len(pool.submitted)
    assert 4 == len(scene.records)


def test_running_the_same_command_again_does_not_measure_again(scene: Scene) -> None:
    pool = FakePool()
    scene.run(pool, scene.plan())
    ends = scene.run(pool, scene.plan())

    assert 4 == len(pool.submitted)
    assert 4 == len(scene.records)
    assert all(end.record is not None for end in ends)


def test_two_coordinators_of_one_run_record_each_job_once(scene: Scene) -> None:
    plan, pool = scene.plan(), FakePool()
    one, two = scene.coordinator(pool, plan), scene.coordinator(pool, plan)
    for _ in range(6):
        one.look(submit=True)
        two.look(submit=True)

    assert (0, 0) == (one.open, two.open)
    assert 4 == len(scene.records)


def test_force_begins_a_run_of_its_own(scene: Scene) -> None:
    assert scene.plan().run == scene.plan().run
    assert scene.plan().run != scene.plan(force=True).run


def test_a_pool_that_is_silent_for_a_while_loses_nothing(scene: Scene) -> None:
    pool = FakePool(silent=range(2, 8))
    scene.run(pool, scene.plan())

    assert 4 == len(scene.records)
    assert 1 == sum("does not answer" in text for text in scene.said)


def test_a_pool_that_stays_silent_ends_the_run_with_an_error(scene: Scene) -> None:
    with pytest.raises(PoolSilent):
        scene.run(FakePool(silent=range(1, 1000)), scene.plan())
    assert [] == scene.records


def test_no_more_jobs_are_submitted_than_the_pool_has_room_for(scene: Scene) -> None:
    pool = FakePool(room=1)
    coordinator = scene.coordinator(pool, scene.plan())
    coordinator.look(submit=True)

    assert 1 == len(pool.submitted)
    assert 4 == len(coordinator.run())


def test_detaching_submits_what_the_pool_has_room_for(scene: Scene) -> None:
    assert 0 == scene.coordinator(FakePool(), scene.plan()).submit_all()
    assert 3 == scene.coordinator(FakePool(room=1, fate=lambda _: "held"), scene.plan(seed=1)).submit_all()


def test_cancelled_jobs_end_and_what_they_measured_is_kept(scene: Scene) -> None:
    pool = FakePool(fate=lambda _: "half")
    coordinator = scene.coordinator(pool, scene.plan(1))
    for _ in range(4):
        coordinator.look(submit=True)
    coordinator.cancel()
    ends = coordinator.give_up()

    assert [Outcome.WORKS] == [item.features["one"].outcome for item in scene.records]
    assert pool.submitted[0] in pool.cancelled
    assert ends[0].loss is Loss.KILLED


def test_a_clock_that_is_a_day_off_is_named_and_not_believed(scene: Scene) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    plan = scene.plan()
    scene.run(FakePool(when=tomorrow), plan)

    assert {plan.created} == {item.created for item in scene.records}
    assert ["the clock of n1 is off by"] == [text[:25] for text in scene.said if "clock" in text]


def test_the_time_of_a_result_is_that_of_its_machine_unless_it_is_off() -> None:
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    hour = timedelta(hours=1)

    assert (now, None) == measured_at(now, now - hour, now + hour)
    assert (now, hour) == measured_at(now + hour, now, now)
    assert (now, hour) == measured_at(now - hour, now, now)
    assert (now, None) == measured_at(None, now, now + hour)


def test_a_run_with_other_jobs_keeps_its_plan(scene: Scene) -> None:
    plan = scene.plan()
    other = plan.model_copy(update={"jobs": plan.jobs[:1]})

    with pytest.raises(StoreError, match="other jobs"):
        PoolRuns(scene.root).start(other, SUITE)
    with pytest.raises(UsageError, match="did you mean"):
        PoolRuns(scene.root).plan(plan.run[:-1])


def test_the_result_of_a_job_is_known_whatever_the_attempt(scene: Scene) -> None:
    job = scene.plan().jobs[0]

    assert job.attempt(1).name != job.attempt(2).name
    assert job.attempt(1).digest != job.attempt(2).digest
    assert b"sha256:" in sealed_result(job.attempt(2))[:30]
