"""The probe flow over a fake executor: skipping, breaking off, judging, recording."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.executors.fake import FakeEnd, FakeExecutor, FakeLeases
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite
from assay.adapters.files.records import FileStore
from assay.errors import GpuMissing
from assay.evidence.record import ProbeRecord
from assay.foundation.outcome import Outcome
from assay.pipeline.probe import ProbeFlow, ProbeOptions, ProbeSubject, exit_code
from assay.pipeline.probe_record import ProbeCause
from assay.ports.jobs import JobResult, Place, ProbeJob

DECLARE = 'FEATURE = "{0}"\nREQUIRES = {1!r}\nTIMEOUT = 5\nGPUS = {2}\nWARM = True\n'
SUITE = {
    "harness.py": b"",
    "features/one.py": DECLARE.format("one", (), 1).encode(),
    "features/two.py": DECLARE.format("two", ("one",), 1).encode(),
    "features/three.py": DECLARE.format("three", (), 0).encode(),
}
KNOWN = ProbeSuites(SUITE)
PLACE = Place(reference="image:tag", digest="sha256:image")


class Recorded(FakeExecutor):
    """A fake that is called what records call the real one."""

    name = "docker"

    def __init__(self, *, gpus: int = 1, ends: dict[str, FakeEnd] | None = None) -> None:
        super().__init__(KNOWN, places={"image:tag": "sha256:image"}, gpus=gpus, ends=ends)

    @property
    def asked(self) -> list[list[str]]:
        """The features of each job."""
        return [list(job.features) for job in self.jobs]


class Killed(Recorded):
    """Assay itself dies when two probes have ended."""

    def probe(self, item: Any, done: Any, stop: Any, deadline: float) -> Any:
        if len(done) == 2:
            raise Dead
        return super().probe(item, done, stop, deadline)


class Dead(BaseException):
    """Nothing that comes after it in this process counts."""


def flow(
    executor: Recorded,
    root: Path,
    said: list[str] | None = None,
    leases: FakeLeases | None = None,
    *,
    beside: bool = False,
) -> ProbeFlow:
    return ProbeFlow(
        executor=executor,
        leases=leases or FakeLeases(),
        store=FileStore(root),
        suite=SUITE,
        suite_digest=digest_of_suite(SUITE),
        diagnose=lambda text: ProbeCause("some-cause", beside) if "the fake says so" in text else None,
        say=(said if said is not None else []).append,
    )


SUBJECT = ProbeSubject(place=PLACE, cell="cell-1", image="image")


def test_a_failure_that_another_process_caused_leaves_the_feature_open(tmp_path: Path) -> None:
    (broken,) = flow(Recorded(ends={"two": Outcome.BROKEN}), tmp_path / "a").run([SUBJECT], ProbeOptions())
    (left,) = flow(Recorded(ends={"two": Outcome.BROKEN}), tmp_path / "b", beside=True).run([SUBJECT], ProbeOptions())
    (wrong,) = flow(Recorded(ends={"two": Outcome.WRONG}), tmp_path / "c", beside=True).run([SUBJECT], ProbeOptions())

    assert Outcome.BROKEN is broken.features["two"].outcome
    assert (Outcome.INCONCLUSIVE, "some-cause") == (left.features["two"].outcome, left.features["two"].cause)
    assert left.features["two"].reason.startswith("not the image: ")
    assert Outcome.WRONG is wrong.features["two"].outcome, "a wrong result was computed by the image"
    assert 1 == exit_code([left])


def test_record_has_the_facts_read_inside_the_image(tmp_path: Path) -> None:
    (made,) = flow(Recorded(ends={"two": Outcome.WRONG}), tmp_path).run([SUBJECT], ProbeOptions())

    assert {"one", "two", "three"} == set(made.features)
    assert (Outcome.WRONG, "some-cause") == (made.features["two"].outcome, made.features["two"].cause)
    assert made.features["one"].cause is None
    assert ("sm_90", "580.1") == (made.devices[0].target, made.devices[0].driver)
    assert {"torch": "2.11.0"} == made.packages
    assert [made] == list(FileStore(tmp_path).records(kind="probe"))
    log = made.features["two"].log
    assert log is not None
    assert "said on stderr" in (tmp_path / log).read_text()


def test_recorded_features_are_not_run_again(tmp_path: Path) -> None:
    flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions(features=("one",)))
    executor = Recorded()

    (made,) = flow(executor, tmp_path).run([SUBJECT], ProbeOptions(features=("one", "three")))

    # The first run of the harness has no probes: it reads the GPU and the driver.
    assert [[], ["three"]] == executor.asked
    assert {"one", "three"} == set(made.features)


def test_ctrl_c_ends_running_probes_and_keeps_results(tmp_path: Path) -> None:
    class Interrupting(Recorded):
        def probe(self, item: Any, done: Any, stop: Any, deadline: float) -> Any:
            if done:
                time.sleep(0.3)  # the pool has told the main thread by then that this one runs
                os.kill(os.getpid(), signal.SIGINT)
            return super().probe(item, done, stop, deadline)

    said: list[str] = []

    with pytest.raises(KeyboardInterrupt):
        flow(Interrupting(ends={"three": "hangs"}), tmp_path, said).run([SUBJECT], ProbeOptions())

    (kept,) = FileStore(tmp_path).records(kind="probe")
    assert isinstance(kept, ProbeRecord)
    outcomes = [item.outcome for item in kept.features.values()]
    assert (1, 2) == (outcomes.count(Outcome.WORKS), outcomes.count(Outcome.NOT_RUN))
    assert any("stopped; 1 of 3" in line for line in said)


def test_nothing_left_to_do_returns_the_record_there_is(tmp_path: Path) -> None:
    (first,) = flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions())

    (second,) = flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions())

    assert first == second
    assert 1 == len(list(FileStore(tmp_path).records(kind="probe")))


def test_force_runs_everything_again(tmp_path: Path) -> None:
    flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions())
    executor = Recorded()

    flow(executor, tmp_path).run([SUBJECT], ProbeOptions(force=True))

    assert [3] == [len(features) for features in executor.asked]


def test_measurements_before_a_kill_are_kept(tmp_path: Path) -> None:
    (made,) = flow(Recorded(ends={"three": "dies"}), tmp_path).run([SUBJECT], ProbeOptions())

    ran = [name for name, item in made.features.items() if item.outcome is Outcome.WORKS]
    assert 1 == len(ran)
    assert all("it was killed" in made.features[name].reason for name in {"one", "two", "three"} - set(ran))
    assert 1 == exit_code([made])


def test_next_run_records_measurements_of_a_killed_run(tmp_path: Path) -> None:
    executor = Killed(ends={"one": Outcome.WRONG})
    with pytest.raises(Dead):
        flow(executor, tmp_path).run([SUBJECT], ProbeOptions())
    assert [] == list(FileStore(tmp_path).records())
    again, said = Recorded(), list[str]()
    again.left = ["assay-run-1"]

    (made,) = flow(again, tmp_path, said).run([SUBJECT], ProbeOptions())

    records = [item for item in FileStore(tmp_path).records() if isinstance(item, ProbeRecord)]
    (kept,) = [item for item in records if item != made]
    assert 2 == len(records)
    assert (Outcome.WRONG, "some-cause") == (kept.features["one"].outcome, kept.features["one"].cause)
    assert kept.features["two"].reason == "the run broke off: assay was killed"
    assert made.features["three"] == kept.features["three"]
    assert (tmp_path / (kept.features["three"].log or "")).is_file()
    # `one` is what `two` rests on.
    assert [[], ["one", "two"]] == again.asked
    assert any(f"{kept.run} was killed" in line and "one, three" in line for line in said)
    assert any("1 of 3 features are recorded already" in line for line in said)
    assert any("assay-run-1" in line for line in said)
    assert [] == list(tmp_path.glob("*/unfinished"))


def test_waiting_for_a_gpu_survives_the_death_of_its_holder(tmp_path: Path) -> None:
    class Waiting(FakeLeases):
        @contextmanager
        def take(self, gpus: tuple[str, ...], count: int, **rest: Any) -> Iterator[tuple[str, ...]]:
            executor.left = ["assay-run-1"]
            yield gpus[:count]

    class Alone(Recorded):
        def run(self, job: ProbeJob, **beside: Any) -> JobResult:
            assert [] == executor.left
            return super().run(job, **beside)

    executor = Alone()

    flow(executor, tmp_path, leases=Waiting()).run([SUBJECT], ProbeOptions())

    assert executor.asked


def test_a_run_that_lives_keeps_its_drafts(tmp_path: Path) -> None:
    class Watched(Recorded):
        def run(self, job: ProbeJob, **beside: Any) -> JobResult:
            result = super().run(job, **beside)
            assert 1 == len(list(tmp_path.glob("*/unfinished/*.json")))
            assert [] == FileStore(tmp_path).adopt()
            return result

    (made,) = flow(Watched(), tmp_path).run([SUBJECT], ProbeOptions())

    assert [made] == list(FileStore(tmp_path).records())
    assert [] == list(tmp_path.glob("*/unfinished"))


def test_results_before_the_engine_was_lost_are_recorded(tmp_path: Path) -> None:
    class Lost(Recorded):
        def run(self, job: ProbeJob, **beside: Any) -> JobResult:
            super().run(job, **beside)
            return JobResult(job=job.digest, executor="docker", ended="engine_lost", message="the engine is gone")

    (made,) = flow(Lost(ends={"two": "dies"}), tmp_path).run([SUBJECT], ProbeOptions())

    outcomes = [item.outcome for item in made.features.values()]
    assert (2, 1) == (outcomes.count(Outcome.WORKS), outcomes.count(Outcome.NOT_RUN))
    assert [made] == list(FileStore(tmp_path).records())
    assert any("the engine is gone" in note for note in made.notes)


def test_drafts_that_cannot_be_written_do_not_end_a_run(tmp_path: Path) -> None:
    class Blocked(Recorded):
        def run(self, job: ProbeJob, **beside: Any) -> JobResult:
            (tmp_path / job.run / "unfinished").write_bytes(b"")
            return super().run(job, **beside)

    said: list[str] = []

    (made,) = flow(Blocked(), tmp_path, said).run([SUBJECT], ProbeOptions())

    assert {Outcome.WORKS} == {item.outcome for item in made.features.values()}
    assert 1 == sum("only at the end" in line for line in said)


def test_without_a_gpu_recorded_results_are_not_run_again(tmp_path: Path) -> None:
    nothing = ProbeOptions(features=("three",), gpus=0)
    flow(Recorded(gpus=0), tmp_path).run([SUBJECT], nothing)
    executor = Recorded(gpus=0)

    flow(executor, tmp_path).run([SUBJECT], nothing)

    assert [[]] == executor.asked


def test_everything_known_is_shown_whichever_record_holds_it(tmp_path: Path) -> None:
    for name in ("one", "three"):
        flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions(features=(name,)))

    (made,) = flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions(features=("one", "three")))

    assert {"one", "three"} == set(made.features)


def test_an_unreadable_result_claims_nothing(tmp_path: Path) -> None:
    class Garbled(Recorded):
        def run(self, job: ProbeJob, **beside: Any) -> JobResult:
            why = "the result document cannot be read: it is not JSON"
            return JobResult(job=job.digest, executor="docker", ended="finished", unreadable=why)

    executor = Garbled()
    said: list[str] = []

    (made,) = flow(executor, tmp_path, said).run([SUBJECT], ProbeOptions(features=("three",)))

    assert Outcome.NOT_RUN is made.features["three"].outcome
    assert [] == list(FileStore(tmp_path).records())
    assert any("nothing is recorded" in line and "it is not JSON" in line for line in said)


def test_a_sabotaged_run_is_shown_and_never_recorded(tmp_path: Path) -> None:
    (made,) = flow(Recorded(), tmp_path).run([SUBJECT], ProbeOptions(sabotage={"one": "perturb"}))

    assert made.features
    assert [] == list(FileStore(tmp_path).records())


def test_without_a_gpu_only_probes_that_need_none_run(tmp_path: Path) -> None:
    nothing = flow(Recorded(gpus=0), tmp_path)

    with pytest.raises(GpuMissing):
        nothing.run([SUBJECT], ProbeOptions())
    (made,) = nothing.run([SUBJECT], ProbeOptions(features=("three",)))

    assert Outcome.WORKS is made.features["three"].outcome


def test_more_gpus_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GpuMissing, match="2 GPUs"):
        flow(Recorded(gpus=1), tmp_path).run([SUBJECT], ProbeOptions(gpus=2))


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("works", 0), ("degraded", 0), ("unsupported", 0), ("not_run", 0), ("wrong", 1), ("broken", 1)],
)
def test_exit_code(tmp_path: Path, outcome: str, code: int) -> None:
    made: list[ProbeRecord] = flow(Recorded(ends={"one": Outcome(outcome)}), tmp_path).run(
        [SUBJECT], ProbeOptions(features=("one",))
    )

    assert code == exit_code(made)
