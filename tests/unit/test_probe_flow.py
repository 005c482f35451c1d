"""The probe flow over a fake executor: skipping, breaking off, judging, recording."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from assay.adapters.files.records import FileStore
from assay.errors import GpuMissing
from assay.evidence.record import ProbeRecord
from assay.foundation.outcome import Outcome
from assay.pipeline.probe import ProbeFlow, ProbeOptions, ProbeSubject, exit_code
from assay.ports.executor import Place, ProbeRequest, Ran

DECLARE = 'FEATURE = "{0}"\nREQUIRES = {1!r}\nTIMEOUT = 5\nGPUS = {2}\nWARM = True\n'
SUITE = {
    "harness.py": b"",
    "features/one.py": DECLARE.format("one", (), 1).encode(),
    "features/two.py": DECLARE.format("two", ("one",), 1).encode(),
    "features/three.py": DECLARE.format("three", (), 0).encode(),
}
DEVICE = {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 1, "uuid": "GPU-1"}


class FakeExecutor:
    """Answers like the harness; `say` are outcomes by feature, `stop_after` ends it early."""

    name: Literal["docker", "local"] = "docker"

    def __init__(self, *, gpus: int = 1, outcomes: dict[str, str] | None = None, stop_after: int | None = None) -> None:
        self.count = gpus
        self.outcomes = outcomes or {}
        self.stop_after = stop_after
        self.requests: list[ProbeRequest] = []
        self.result: bytes | None = None
        self.killed_after: int | None = None
        """Assay itself dies when so many probes have ended."""
        self.left: list[str] = []

    def gpus(self) -> tuple[str, ...]:
        if not self.count:
            raise GpuMissing("no GPU")
        return tuple(str(index) for index in range(self.count))

    def place(self, reference: str) -> Place:
        return Place(reference=reference, digest="sha256:image")

    def sweep(self) -> list[str]:
        left, self.left = self.left, []
        return left

    def run(self, request: ProbeRequest) -> Ran:
        self.requests.append(request)
        if self.result is not None:
            return Ran(result=self.result, ended="failed", message="it said something else")
        done: dict[str, Any] = {}
        for item in request.job["probes"][: self.stop_after]:
            if len(done) == self.killed_after:
                raise Dead
            outcome = self.outcomes.get(item["feature"], "works")
            document = {"outcome": outcome, "reason": "why", "metrics": {}, "notes": [], "seconds": 0.1}
            done[item["feature"]] = {
                "feature": item["feature"],
                "file": item["file"],
                "exit_code": 0,
                "document": document,
                "stderr": "said on stderr",
            }
            if request.keep is not None:
                written = self.document(request, done, finished=False)
                request.keep(written[: len(written) // 2])
                request.keep(written)
        finished = self.stop_after is None
        data = self.document(request, done, finished=finished)
        return Ran(result=data, ended="finished" if finished else "killed", message="" if finished else "it was killed")

    def document(self, request: ProbeRequest, done: dict[str, Any], *, finished: bool) -> bytes:
        document = {
            "schema_version": 1,
            "suite_digest": "sha256:suite",
            "python": "3.12.1",
            "executable": "/usr/bin/python3",
            "facts": {
                "devices": [DEVICE] if request.gpus else [],
                "driver": "580.1",
                "cuda": "13.0",
                "packages": {"torch": "2.11.0"},
            },
            "probes": done,
            "finished": finished,
        }
        return json.dumps(document).encode()


class Dead(BaseException):
    """Nothing that comes after it in this process counts."""


class FakeLeases:
    @contextmanager
    def take(
        self, gpus: tuple[str, ...], count: int, *, wait_seconds: float, stop: threading.Event | None = None
    ) -> Iterator[tuple[str, ...]]:
        yield gpus[:count]


def flow(
    executor: FakeExecutor, root: Path, said: list[str] | None = None, leases: FakeLeases | None = None
) -> ProbeFlow:
    return ProbeFlow(
        executor=executor,
        leases=leases or FakeLeases(),
        store=FileStore(root),
        suite=SUITE,
        suite_digest="sha256:suite",
        diagnose=lambda text: "some-cause" if "why" in text else None,
        say=(said if said is not None else []).append,
    )


SUBJECT = ProbeSubject(place=Place(reference="image:tag", digest="sha256:image"), cell="cell-1", image="image")


def test_a_run_is_recorded_with_what_was_read_inside(tmp_path: Path) -> None:
    (made,) = flow(FakeExecutor(outcomes={"two": "wrong"}), tmp_path).run([SUBJECT], ProbeOptions())

    assert {"one", "two", "three"} == set(made.features)
    assert (Outcome.WRONG, "some-cause") == (made.features["two"].outcome, made.features["two"].cause)
    assert made.features["one"].cause is None
    assert ("sm_90", "580.1") == (made.devices[0].target, made.devices[0].driver)
    assert {"torch": "2.11.0"} == made.packages
    assert [made] == list(FileStore(tmp_path).records(kind="probe"))
    log = made.features["two"].log
    assert log is not None
    assert "said on stderr" in (tmp_path / log).read_text()


def test_what_is_known_is_not_run_again(tmp_path: Path) -> None:
    flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions(features=("one",)))
    executor = FakeExecutor()

    (made,) = flow(executor, tmp_path).run([SUBJECT], ProbeOptions(features=("one", "three")))

    # The first run of the harness has no probes: it reads the GPU and the driver.
    assert [[], ["three"]] == [[item["feature"] for item in request.job["probes"]] for request in executor.requests]
    assert {"one", "three"} == set(made.features)


def test_ctrl_c_ends_what_runs_and_keeps_what_was_measured(tmp_path: Path) -> None:
    class Slow(FakeExecutor):
        def run(self, request: ProbeRequest) -> Ran:
            assert request.stop is not None
            time.sleep(0.3)  # the pool has told the main thread by then that this one runs
            os.kill(os.getpid(), signal.SIGINT)
            assert request.stop.wait(30)
            ran = super().run(request)
            return replace(ran, ended="stopped", message="it was stopped")

    said: list[str] = []

    with pytest.raises(KeyboardInterrupt):
        flow(Slow(stop_after=1), tmp_path, said).run([SUBJECT], ProbeOptions())

    (kept,) = FileStore(tmp_path).records(kind="probe")
    assert isinstance(kept, ProbeRecord)
    outcomes = [item.outcome for item in kept.features.values()]
    assert (1, 2) == (outcomes.count(Outcome.WORKS), outcomes.count(Outcome.NOT_RUN))
    assert any("stopped; 1 of 3" in line for line in said)


def test_nothing_left_to_do_returns_the_record_there_is(tmp_path: Path) -> None:
    (first,) = flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions())

    (second,) = flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions())

    assert first == second
    assert 1 == len(list(FileStore(tmp_path).records(kind="probe")))


def test_force_runs_everything_again(tmp_path: Path) -> None:
    flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions())
    executor = FakeExecutor()

    flow(executor, tmp_path).run([SUBJECT], ProbeOptions(force=True))

    assert 3 == len(executor.requests[0].job["probes"])


def test_what_was_measured_before_a_kill_is_kept(tmp_path: Path) -> None:
    (made,) = flow(FakeExecutor(stop_after=1), tmp_path).run([SUBJECT], ProbeOptions())

    ran = [name for name, item in made.features.items() if item.outcome is Outcome.WORKS]
    assert 1 == len(ran)
    assert all("it was killed" in made.features[name].reason for name in {"one", "two", "three"} - set(ran))
    assert 1 == exit_code([made])


def test_what_was_measured_before_assay_was_killed_is_recorded_by_the_next_run(tmp_path: Path) -> None:
    executor = FakeExecutor(outcomes={"one": "wrong"})
    executor.killed_after = 2
    with pytest.raises(Dead):
        flow(executor, tmp_path).run([SUBJECT], ProbeOptions())
    assert [] == list(FileStore(tmp_path).records())
    again, said = FakeExecutor(), list[str]()
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
    assert [[], ["one", "two"]] == [[item["feature"] for item in one.job["probes"]] for one in again.requests]
    assert any(f"{kept.run} was killed" in line and "one, three" in line for line in said)
    assert any("1 of 3 features are recorded already" in line for line in said)
    assert any("assay-run-1" in line for line in said)
    assert [] == list(tmp_path.glob("*/unfinished"))


def test_who_had_the_gpu_may_have_been_killed_while_it_was_waited_for(tmp_path: Path) -> None:
    class Waiting(FakeLeases):
        @contextmanager
        def take(self, gpus: tuple[str, ...], count: int, **rest: Any) -> Iterator[tuple[str, ...]]:
            executor.left = ["assay-run-1"]
            yield gpus[:count]

    class Alone(FakeExecutor):
        def run(self, request: ProbeRequest) -> Ran:
            assert [] == executor.left
            return super().run(request)

    executor = Alone()

    flow(executor, tmp_path, leases=Waiting()).run([SUBJECT], ProbeOptions())

    assert executor.requests


def test_a_run_that_lives_keeps_its_drafts(tmp_path: Path) -> None:
    class Watched(FakeExecutor):
        def run(self, request: ProbeRequest) -> Ran:
            ran = super().run(request)
            assert 1 == len(list(tmp_path.glob("*/unfinished/*.json")))
            assert [] == FileStore(tmp_path).adopt()
            return ran

    (made,) = flow(Watched(), tmp_path).run([SUBJECT], ProbeOptions())

    assert [made] == list(FileStore(tmp_path).records())
    assert [] == list(tmp_path.glob("*/unfinished"))


def test_what_an_engine_gave_out_before_it_was_lost_is_recorded(tmp_path: Path) -> None:
    class Lost(FakeExecutor):
        def run(self, request: ProbeRequest) -> Ran:
            super().run(request)
            return Ran(result=None, ended="engine_lost", message="the engine is gone")

    (made,) = flow(Lost(stop_after=2), tmp_path).run([SUBJECT], ProbeOptions())

    outcomes = [item.outcome for item in made.features.values()]
    assert (2, 1) == (outcomes.count(Outcome.WORKS), outcomes.count(Outcome.NOT_RUN))
    assert [made] == list(FileStore(tmp_path).records())
    assert any("the engine is gone" in note for note in made.notes)


def test_drafts_that_cannot_be_written_do_not_end_a_run(tmp_path: Path) -> None:
    class Blocked(FakeExecutor):
        def run(self, request: ProbeRequest) -> Ran:
            (tmp_path / request.run / "unfinished").write_bytes(b"")
            return super().run(request)

    said: list[str] = []

    (made,) = flow(Blocked(), tmp_path, said).run([SUBJECT], ProbeOptions())

    assert {Outcome.WORKS} == {item.outcome for item in made.features.values()}
    assert 1 == sum("at the end only" in line for line in said)


def test_without_a_gpu_what_is_known_is_not_run_again(tmp_path: Path) -> None:
    nothing = ProbeOptions(features=("three",), gpus=0)
    flow(FakeExecutor(gpus=0), tmp_path).run([SUBJECT], nothing)
    executor = FakeExecutor(gpus=0)

    flow(executor, tmp_path).run([SUBJECT], nothing)

    assert [[]] == [request.job["probes"] for request in executor.requests]


def test_everything_known_is_shown_whichever_record_holds_it(tmp_path: Path) -> None:
    for name in ("one", "three"):
        flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions(features=(name,)))

    (made,) = flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions(features=("one", "three")))

    assert {"one", "three"} == set(made.features)


@pytest.mark.parametrize("result", [b"", b"\x00\xff", b"[]", b'{"schema_version": 1}'])
def test_an_unreadable_result_claims_nothing(tmp_path: Path, result: bytes) -> None:
    executor = FakeExecutor()
    executor.result = result
    said: list[str] = []

    (made,) = flow(executor, tmp_path, said).run([SUBJECT], ProbeOptions(features=("three",)))

    assert Outcome.NOT_RUN is made.features["three"].outcome
    assert [] == list(FileStore(tmp_path).records())
    assert any("nothing is recorded" in line for line in said)


def test_a_sabotaged_run_is_shown_and_never_recorded(tmp_path: Path) -> None:
    (made,) = flow(FakeExecutor(), tmp_path).run([SUBJECT], ProbeOptions(sabotage={"one": "perturb"}))

    assert made.features
    assert [] == list(FileStore(tmp_path).records())


def test_without_a_gpu_only_probes_that_need_none_run(tmp_path: Path) -> None:
    nothing = flow(FakeExecutor(gpus=0), tmp_path)

    with pytest.raises(GpuMissing):
        nothing.run([SUBJECT], ProbeOptions())
    (made,) = nothing.run([SUBJECT], ProbeOptions(features=("three",)))

    assert Outcome.WORKS is made.features["three"].outcome


def test_more_gpus_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GpuMissing, match="2 GPUs"):
        flow(FakeExecutor(gpus=1), tmp_path).run([SUBJECT], ProbeOptions(gpus=2))


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("works", 0), ("degraded", 0), ("unsupported", 0), ("not_run", 0), ("wrong", 1), ("broken", 1)],
)
def test_exit_code(tmp_path: Path, outcome: str, code: int) -> None:
    made: list[ProbeRecord] = flow(FakeExecutor(outcomes={"one": outcome}), tmp_path).run(
        [SUBJECT], ProbeOptions(features=("one",))
    )

    assert code == exit_code(made)
