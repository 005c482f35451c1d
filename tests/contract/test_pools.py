"""What every pool does with jobs: one suite for the fake, this machine, Docker contexts, Slurm and Kubernetes.

Slurm and Kubernetes are started on this machine with --farm; Kubernetes needs its binaries in ASSAY_FARM_BIN.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from farm_jobs import PROGRAM, ROOT
from kube_cluster import CONTEXT, NAMESPACE, KubeCluster, pause_image
from probe_suite import write_suite
from python_image import write_python_image
from slurm_cluster import SlurmCluster

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.local import LocalTaskHost
from assay.adapters.executors.probe_suite import digest_of_suite, suite_in
from assay.adapters.pools.bundle import suite_zip
from assay.adapters.pools.fake import FakePool
from assay.adapters.pools.table import probe_pool
from assay.foundation.digest import sha256_of
from assay.matrix.pools import load_pools
from assay.ports.jobs import JobResult, Place, ProbeJob, unseal
from assay.ports.pools import JobOutput, Phase, ProbePool, Submission

IMAGE = "assay/test-pools:1"
DIGEST = sha256_of(b"an image")
QUICK, SLOW = "sum-1", "sum-2"


@dataclass
class Scene:
    """A pool, and jobs for it."""

    pool: ProbePool
    place: Place
    suite: dict[str, bytes]
    run: str = field(default_factory=lambda: f"pool-{uuid4().hex[:8]}")

    def job(self, *features: str, **more: Any) -> Submission:
        made = ProbeJob(
            run=self.run,
            place=self.place,
            suite=digest_of_suite(self.suite),
            features=features,
            keep_cache=False,
            **more,
        )
        return Submission(job=made, suite=suite_zip(self.suite))

    def until(self, done: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Return what `done` gives as soon as it gives something."""
        deadline = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < deadline, self.pool.poll(self.run)
            time.sleep(0.3)
        return found

    def complete(self, job: ProbeJob) -> Callable[[], list[tuple[JobOutput, JobResult]]]:
        """Return what looks for the complete result of a job."""

        def look() -> list[tuple[JobOutput, JobResult]]:
            self.pool.poll(self.run)
            found = []
            for output in self.pool.collect([job.name], run=self.run):
                if output.result is not None:
                    result = unseal(output.result, JobResult, source=job.name)
                    found += [(output, result)] if result.ended != "unfinished" else []
            return found

        return look


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    programs = {f"sum_{n}": PROGRAM.format(number=n, seconds=seconds) for n, seconds in ((1, 0.1), (2, 40))}
    return suite_in(write_suite(tmp_path_factory.mktemp("suite") / "probes", ROOT, programs))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_python_image(tmp_path_factory.mktemp("image"), IMAGE, {})


@pytest.fixture(scope="module")
def contexts(archive: Path) -> Iterator[ProbePool]:
    engine = DockerEngine()
    engine.load(archive)
    yield _pool("{kind: ssh, hosts: [{context: default, count: 4}]}", Path())
    engine.remove_image(IMAGE, force=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbePool]:
    folder = tmp_path_factory.mktemp("shared")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        runtime = f"env ASSAY_IMAGE={{image}} {sys.executable} {{arguments}}"
        yield _pool(f'{{kind: slurm, partition: low, folder: {folder}, runtime: "{runtime}"}}', folder)


@pytest.fixture(scope="module")
def kubernetes(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbePool]:
    root = Path(tempfile.mkdtemp(prefix="farm-k8s-", dir="/var/tmp"))
    pause = pause_image(archive)
    binaries = Path(os.environ["ASSAY_FARM_BIN"])
    with KubeCluster(root, binaries, (archive, pause)) as cluster, pytest.MonkeyPatch.context() as patch:
        cluster.enter(patch, tmp_path_factory.mktemp("bin"))
        yield _pool(
            f"{{kind: kubernetes, context: {CONTEXT}, namespace: {NAMESPACE}, cpu: 500m, memory: 200Mi, scratch: 1Gi}}",
            root,
        )
    shutil.rmtree(root, ignore_errors=True)


def _pool(entry: str, root: Path) -> ProbePool:
    return probe_pool("p", load_pools(f"pools: {{p: {entry}}}").pool("p"), root)


FARM = pytest.mark.farm
KINDS = [
    "fake",
    "local",
    pytest.param("contexts", marks=pytest.mark.engine),
    pytest.param("slurm", marks=FARM),
    pytest.param(
        "kubernetes",
        marks=[FARM, pytest.mark.skipif("ASSAY_FARM_BIN" not in os.environ, reason="ASSAY_FARM_BIN is not set")],
    ),
]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, suite: dict[str, bytes], tmp_path: Path) -> Iterator[Scene]:
    place = Place(reference=IMAGE, digest=DIGEST)
    if request.param == "fake":
        pool: ProbePool = FakePool(fate=lambda job: "hangs" if SLOW in job.features else "finishes")
    elif request.param == "local":
        place = LocalTaskHost(python=sys.executable).place("local")
        pool = probe_pool(
            "p",
            load_pools("pools: {p: {kind: local, executor: local}}").pool("p"),
            tmp_path,
            python=sys.executable,
        )
    else:
        pool = request.getfixturevalue(request.param)
    made = Scene(pool, place, suite)
    yield made
    pool.sweep(made.run)


def test_a_job_leaves_a_sealed_result_that_names_it(scene: Scene) -> None:
    item = scene.job(QUICK)
    assert {} == scene.pool.submit([item])
    ((output, result),) = scene.until(scene.complete(item.job))[:1]

    assert "finished" == result.ended
    assert item.job.digest == result.job
    assert result.harness is not None
    assert [QUICK] == list(result.harness.probes)
    assert output.name == item.job.name
    assert result.written is not None
    assert result.machine
    assert scene.pool.kind == result.executor


def test_a_job_that_is_submitted_twice_is_there_once(scene: Scene) -> None:
    item = scene.job(SLOW)
    for _ in range(2):
        assert {} == scene.pool.submit([item])
    states = scene.until(lambda: scene.pool.poll(scene.run))

    assert [item.job.name] == list(states)


def test_two_jobs_are_told_apart(scene: Scene) -> None:
    items = [scene.job(QUICK), scene.job(QUICK, seed=1)]
    assert {} == scene.pool.submit(items)

    assert items[0].job.name != items[1].job.name
    for item in items:
        assert item.job.digest == scene.until(scene.complete(item.job))[0][1].job


def test_a_cancelled_job_does_not_run_on(scene: Scene) -> None:
    item = scene.job(SLOW)
    scene.pool.submit([item])
    scene.until(lambda: item.job.name in scene.pool.poll(scene.run))
    scene.pool.cancel([item.job.name, "pool-0-unknown-1"], run=scene.run)

    def over() -> bool:
        state = scene.pool.poll(scene.run).get(item.job.name)
        return state is None or state.phase in {Phase.ENDED, Phase.GONE}

    assert scene.until(over, 35)


def test_a_run_that_was_swept_is_gone(scene: Scene) -> None:
    item = scene.job(QUICK)
    scene.pool.submit([item])
    scene.until(scene.complete(item.job))
    scene.pool.sweep(scene.run)
    left = {Phase.RUNNING, Phase.WAITING}

    assert scene.until(lambda: not any(state.phase in left for state in scene.pool.poll(scene.run).values()))
    assert [] == [item for item in scene.pool.collect([item.job.name], run=scene.run) if item.result]


def test_runs_and_jobs_that_do_not_exist_have_no_state(scene: Scene) -> None:
    assert {} == scene.pool.poll("pool-none")
    assert [] == list(scene.pool.collect(["pool-none-1"], run="pool-none"))


def test_what_would_be_submitted_can_be_written_for_people(scene: Scene) -> None:
    items = [scene.job(QUICK), scene.job(QUICK, seed=1)]
    files = scene.pool.render(items)

    for item in items:
        assert any(item.job.name in path for path in files)
    assert {} == scene.pool.poll(scene.run)
