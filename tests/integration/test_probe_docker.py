"""The docker executor against a real engine: nothing leaks, whatever the image or the run is like."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from base_image import Bootstrapped

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.probe_executor import ProbeExecutor
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite, load_suite
from assay.errors import GpuMissing, UsageError
from assay.evidence import suite as probes
from assay.ports.engine import LABEL_RUN
from assay.ports.executor import JobListener, Stop
from assay.ports.jobs import JobLimits, ProbeJob

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]

SLOW = b"""
FEATURE = "slow"
REQUIRES = ()
TIMEOUT = 60
GPUS = 0
WARM = False


def run(probe):
    import time

    time.sleep(50)
"""
HUNGRY = SLOW.replace(b'"slow"', b'"hungry"').replace(
    b"time.sleep(50)", b"hoard = [bytearray(b'x' * (1 << 24)) for _ in range(400)]"
)


@pytest.fixture(scope="module")
def engine() -> DockerEngine:
    return DockerEngine()


@pytest.fixture(scope="module")
def python_image(bootstrapped: Bootstrapped) -> str:
    """An image with Python: a base that the project makes itself."""
    return bootstrapped.base.reference


@pytest.fixture
def run_name(engine: DockerEngine) -> Iterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    yield name
    assert [] == list(engine.sweep(name)), "the executor left something behind"


@pytest.fixture(scope="module")
def suite() -> dict[str, bytes]:
    return {**load_suite(ROOT), "features/slow.py": SLOW, "features/hungry.py": HUNGRY}


@pytest.fixture(scope="module")
def executor(engine: DockerEngine, suite: dict[str, bytes]) -> ProbeExecutor:
    return ProbeExecutor(DockerTaskHost(engine), ProbeSuites(suite))


def job(
    executor: ProbeExecutor, suite: dict[str, bytes], image: str, run_name: str, *features: str, **limits: float
) -> ProbeJob:
    return ProbeJob(
        place=executor.place(image),
        run=run_name,
        suite=digest_of_suite(suite),
        features=features,
        limits=JobLimits.model_validate({"seconds": 120, **limits}),
    )


def test_files_go_in_and_the_result_comes_out(
    executor: ProbeExecutor, suite: dict[str, bytes], python_image: str, run_name: str
) -> None:
    ran = executor.run(job(executor, suite, python_image, run_name, "abi-import", "torch-device"))

    assert ("finished", "") == (ran.ended, ran.message)
    result = ran.harness
    assert result is not None
    assert {"abi-import", "torch-device"} == set(result.probes)
    assert result.facts is not None


def test_an_image_without_python(
    engine: DockerEngine, executor: ProbeExecutor, suite: dict[str, bytes], run_name: str, tmp_path: Path
) -> None:
    from tiny_image import TINY, write_tiny

    engine.load(write_tiny(tmp_path))
    ran = executor.run(job(executor, suite, TINY, run_name, "numa"))

    assert ("no_python", None) == (ran.ended, ran.harness)
    assert "python3" in ran.message


def test_a_container_killed_from_outside_keeps_what_was_measured(
    executor: ProbeExecutor, suite: dict[str, bytes], python_image: str, run_name: str
) -> None:
    import docker

    client = docker.from_env()

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = client.containers.list(filters={"label": f"{LABEL_RUN}={run_name}"})
            if found and b"slow" not in found[0].logs() and b"abi-import" in found[0].logs():
                found[0].kill()
                return
            time.sleep(0.2)

    killer = threading.Thread(target=kill)
    killer.start()
    ran = executor.run(job(executor, suite, python_image, run_name, "abi-import", "slow"))
    killer.join()
    client.close()

    assert "killed" == ran.ended
    result = ran.harness
    assert result is not None
    assert ({"abi-import"}, False) == (set(result.probes), result.finished)


def test_stopped_run_keeps_finished_measurements(
    executor: ProbeExecutor, suite: dict[str, bytes], python_image: str, run_name: str
) -> None:
    stop = Stop()
    listener = JobListener(line=lambda line: stop.set() if "abi-import" in line else None)

    ran = executor.run(job(executor, suite, python_image, run_name, "abi-import", "slow"), listener=listener, stop=stop)

    assert "stopped" == ran.ended
    result = ran.harness
    assert result is not None
    assert ({"abi-import"}, False) == (set(result.probes), result.finished)


def test_a_run_that_takes_too_long_is_stopped(
    executor: ProbeExecutor, suite: dict[str, bytes], python_image: str, run_name: str
) -> None:
    ran = executor.run(job(executor, suite, python_image, run_name, "slow", seconds=5))

    assert "timed_out" == ran.ended


def test_memory_used_up_is_inconclusive(
    executor: ProbeExecutor, suite: dict[str, bytes], python_image: str, run_name: str
) -> None:
    ran = executor.run(job(executor, suite, python_image, run_name, "hungry", memory_bytes=512 << 20))

    result = ran.harness
    assert result is not None
    ended = result.probes["hungry"]
    assert "inconclusive" == probes.judge(ended, timeout=60).outcome, ended


def test_an_unknown_image_offers_the_nearest(engine: DockerEngine, python_image: str) -> None:
    with pytest.raises(UsageError, match="did you mean"):
        DockerTaskHost(engine).place(python_image[:-1])


def test_without_a_gpu_the_missing_part_is_reported(engine: DockerEngine) -> None:
    if engine.info().gpu is not None:
        pytest.skip("this engine can give GPUs")

    with pytest.raises(GpuMissing, match="device request") as caught:
        DockerTaskHost(engine).gpus()

    assert caught.value.hint is not None
    assert "nvidia-ctk" in caught.value.hint
