"""What every executor does with a job: one suite for the fake, for this machine and for containers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from probe_suite import write_suite
from python_image import write_python_image

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.fake import FakeExecutor
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite, suite_in
from assay.adapters.executors.table import EXECUTORS
from assay.errors import GpuMissing, UsageError
from assay.evidence import suite as probes
from assay.evidence.suite import HarnessResult
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.ports.executor import Executor, JobListener, Stop
from assay.ports.jobs import Bind, DevicesWanted, JobLimits, JobResult, Place, ProbeJob, seal, unseal

ROOT = Path(__file__).parents[2]
IMAGE = "assay/test-contract:1"
PROGRAM = """
FEATURE = "{feature}"
REQUIRES = {requires!r}
TIMEOUT = {timeout}
GPUS = 0
WARM = False


def run(probe):
    import os
    import time

    {body}
"""
BODIES = {
    "quick": 'probe.equal("sum", 1 + 1, 2)',
    "wrong": 'probe.equal("sum", 1 + 1, 3)',
    "crash": "os.abort()",
    "rests": 'probe.equal("sum", 1 + 1, 2)',
    "slow": "time.sleep(50)",
    "hangs": "time.sleep(50)",
}


def program(feature: str) -> str:
    requires = ("crash",) if feature == "rests" else ()
    timeout = 1 if feature == "hangs" else 60
    return PROGRAM.format(feature=feature, requires=requires, timeout=timeout, body=BODIES[feature])


@dataclass(frozen=True)
class Scene:
    executor: Executor
    suite: dict[str, bytes]
    reference: str
    run: str

    def job(self, *features: str, **more: Any) -> ProbeJob:
        place = self.executor.place(self.reference)
        given: dict[str, Any] = {"features": features, "suite": digest_of_suite(self.suite), **more}
        return ProbeJob(run=self.run, place=place, **given)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("suite") / "probes"
    return suite_in(write_suite(folder, ROOT, {name: program(name) for name in BODIES}))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = DockerEngine()
    engine.load(write_python_image(tmp_path_factory.mktemp("image"), IMAGE, {}))
    yield IMAGE
    engine.remove_image(IMAGE, force=True)


@pytest.fixture(params=["fake", "local", pytest.param("docker", marks=pytest.mark.engine)])
def scene(request: pytest.FixtureRequest, suite: dict[str, bytes]) -> Iterator[Scene]:
    known = ProbeSuites(suite)
    run = f"contract-{uuid4().hex[:8]}"
    if request.param == "fake":
        ends: dict[str, Any] = {"wrong": Outcome.WRONG, "crash": "crashes", "slow": "hangs", "hangs": "hangs"}
        yield Scene(FakeExecutor(known, places={"image:1": "sha256:" + "a" * 64}, ends=ends), suite, "image:1", run)
        return
    settings = ExecutorSettings(suites=known, python=sys.executable)
    reference = request.getfixturevalue("image") if request.param == "docker" else "local"
    yield Scene(EXECUTORS[request.param](settings), suite, reference, run)
    if request.param == "docker":
        assert [] == list(DockerEngine().sweep(run)), "the executor left something behind"


def outcomes(result: JobResult, scene: Scene, *features: str) -> dict[str, Outcome]:
    """Return what the result says of the features."""
    assert result.harness is not None, result
    chosen = probes.declared(scene.suite, features)
    return {name: item.outcome for name, item in probes.judge_all(result.harness, chosen).items()}


def test_every_executor_of_the_table_is_in_this_suite() -> None:
    assert {"local", "docker"} == set(EXECUTORS)


def test_a_run_gives_the_documents_of_its_probes_and_what_it_read_there(scene: Scene) -> None:
    features = ("quick", "wrong", "crash", "rests")
    job = scene.job(*features)
    result = scene.executor.run(job)
    works, wrong, broken, not_run = Outcome.WORKS, Outcome.WRONG, Outcome.BROKEN, Outcome.NOT_RUN

    assert ("finished", "") == (result.ended, result.message)
    assert dict(zip(features, (works, wrong, broken, not_run), strict=True)) == outcomes(result, scene, *features)
    assert (job.digest, scene.executor.name) == (result.job, result.executor)
    assert result.harness is not None
    assert result.harness.finished
    assert job.suite == result.harness.suite_digest
    assert result.harness.facts is not None
    assert result.seconds > 0


def test_a_job_without_features_reads_what_the_place_is(scene: Scene) -> None:
    result = scene.executor.run(scene.job())

    assert "finished" == result.ended
    assert result.harness is not None
    assert {} == result.harness.probes
    assert result.harness.facts is not None


def test_a_job_and_its_result_can_be_sent_elsewhere(scene: Scene) -> None:
    job = unseal(seal(scene.job("quick")), ProbeJob, source="job.json")
    result = scene.executor.run(job)

    assert seal(result) == seal(unseal(seal(result), JobResult, source="result.json"))


def test_progress_and_the_log_travel_beside(scene: Scene) -> None:
    lines: list[str] = []
    measured: list[HarnessResult] = []
    logs: list[bytes] = []
    listener = JobListener(line=lines.append, measured=measured.append, log=logs.append)
    result = scene.executor.run(scene.job("quick", "wrong"), listener=listener)

    assert any("quick" in line for line in lines)
    assert any("wrong" in line for line in lines)
    assert "quick" in measured[-1].probes
    assert sorted(map(len, (item.probes for item in measured))) == [len(item.probes) for item in measured]
    assert result.log is not None
    assert [(result.log.digest, result.log.bytes)] == [(sha256_of(log), len(log)) for log in logs]


def test_a_listener_that_fails_ends_no_run(scene: Scene) -> None:
    """It is not called again, and its error comes out when the run has ended."""
    heard: list[str] = []
    logs: list[bytes] = []

    def fail(line: str) -> None:
        heard.append(line)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        scene.executor.run(scene.job("quick", "wrong"), listener=JobListener(line=fail, log=logs.append))
    assert 1 == len(heard)
    assert b"wrong" in logs[0]


def stopped(scene: Scene, stop: Stop) -> JobResult:
    """Run a quick probe and one of 50 s, and stop when the first has ended."""
    listener = JobListener(line=lambda line: stop.set() if "quick" in line else None)
    return scene.executor.run(scene.job("quick", "slow"), listener=listener, stop=stop)


def test_stopped_run_keeps_finished_measurements(scene: Scene) -> None:
    began = time.monotonic()
    result = stopped(scene, Stop())

    assert 45 > time.monotonic() - began
    assert "stopped" == result.ended
    assert result.message
    assert {"quick": Outcome.WORKS, "slow": Outcome.NOT_RUN} == outcomes(result, scene, "quick", "slow")


def test_a_run_that_takes_too_long_keeps_what_was_measured(scene: Scene) -> None:
    result = scene.executor.run(scene.job("quick", "slow", limits=JobLimits(seconds=8)))

    assert "timed_out" == result.ended
    assert result.message
    assert {"quick": Outcome.WORKS, "slow": Outcome.NOT_RUN} == outcomes(result, scene, "quick", "slow")


def test_a_probe_that_takes_too_long_ends_alone(scene: Scene) -> None:
    result = scene.executor.run(scene.job("hangs", "quick"))

    assert "finished" == result.ended
    assert {"hangs": Outcome.INCONCLUSIVE, "quick": Outcome.WORKS} == outcomes(result, scene, "hangs", "quick")


def test_runs_at_the_same_time_do_not_mix(scene: Scene) -> None:
    results: dict[str, JobResult] = {}

    def run(feature: str) -> None:
        results[feature] = scene.executor.run(scene.job(feature))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("quick", "wrong", "crash")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = {name: list(outcomes(result, scene, name).values()) for name, result in results.items()}
    assert {"quick": [Outcome.WORKS], "wrong": [Outcome.WRONG], "crash": [Outcome.BROKEN]} == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda job: job.model_copy(update={"suite": "sha256:" + "0" * 64}), "suite"),
        (lambda job: job.model_copy(update={"features": ("quik",)}), "did you mean"),
    ],
    ids=["suite", "feature"],
)
def test_a_job_of_other_probes_is_refused(scene: Scene, change: Callable[[ProbeJob], ProbeJob], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scene.executor.run(change(scene.job("quick")))


def test_gpus_that_are_not_there_are_refused(scene: Scene) -> None:
    try:
        there = len(scene.executor.gpus())
    except GpuMissing:
        there = 0

    with pytest.raises(GpuMissing):
        scene.executor.run(scene.job("quick", devices=DevicesWanted(count=there + 1)))


def test_what_is_missing_is_reported_before_a_run(scene: Scene) -> None:
    with pytest.raises(UsageError):
        scene.executor.place(scene.reference + "x")


def test_a_place_has_the_same_digest_each_time(scene: Scene) -> None:
    first, second = scene.executor.place(scene.reference), scene.executor.place(scene.reference)

    assert first == second
    assert first.digest is not None
    assert first.digest.startswith("sha256:")
    assert Place(reference=scene.reference, digest=first.digest) == first


def test_nothing_is_swept_while_its_owner_lives(scene: Scene) -> None:
    swept: list[object] = []

    def sweep(line: str) -> None:
        swept.extend(scene.executor.sweep())

    result = scene.executor.run(scene.job("quick"), listener=JobListener(line=sweep))

    assert "finished" == result.ended
    assert not [name for name in swept if scene.run in str(name)]


def test_the_environment_of_a_job_is_seen_by_its_probes(tmp_path: Path) -> None:
    """Of an executor with processes; where folders are mounted, that is a container's."""
    body = 'probe.equal("word", os.environ["WORD"], "said")'
    text = PROGRAM.format(feature="told", requires=(), timeout=60, body=body)
    suite = suite_in(write_suite(tmp_path / "probes", ROOT, {"told": text}))
    executor = EXECUTORS["local"](ExecutorSettings(suites=ProbeSuites(suite), python=sys.executable))
    here = Scene(executor, suite, "local", "r")

    result = executor.run(here.job("told", env={"WORD": "said"}))

    assert {"told": Outcome.WORKS} == outcomes(result, here, "told")
    with pytest.raises(UsageError, match="containers only"):
        executor.run(here.job("told", mounts=(Bind(source="/", target="/x"),)))
