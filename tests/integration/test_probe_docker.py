"""The docker executor against a real engine: nothing leaks, whatever the image or the run is like."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from base_image import Bootstrapped

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.docker import DockerExecutor
from assay.adapters.executors.probe_suite import load_suite
from assay.errors import GpuMissing, UsageError
from assay.evidence import suite as probes
from assay.evidence.suite import HarnessResult
from assay.ports.engine import LABEL_RUN
from assay.ports.executor import JobLimits, ProbeRequest

pytestmark = pytest.mark.engine

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


def request(
    executor: DockerExecutor, image: str, run_name: str, root: Path, *features: str, **limits: float
) -> ProbeRequest:
    suite = {**load_suite(root / "probes"), "features/slow.py": SLOW, "features/hungry.py": HUNGRY}
    known = probes.declarations({path: data.decode() for path, data in suite.items() if path.startswith("features/")})
    chosen = probes.order(known, features)
    memory = int(limits["memory"]) if "memory" in limits else None
    return ProbeRequest(
        place=executor.place(image), run=run_name, job=probes.job(chosen, work=""), suite=suite, gpus=(),
        limits=JobLimits(seconds=limits.get("seconds", 120), memory_bytes=memory),
    )  # fmt: skip


def test_files_go_in_and_the_result_comes_out(
    engine: DockerEngine, python_image: str, run_name: str, root: Path
) -> None:
    executor = DockerExecutor(engine)

    ran = executor.run(request(executor, python_image, run_name, root, "abi-import", "torch-device"))

    assert ("finished", "") == (ran.ended, ran.message)
    assert ran.result is not None
    result = HarnessResult.model_validate_json(ran.result)
    assert {"abi-import", "torch-device"} == set(result.probes)
    assert result.facts is not None


def test_an_image_without_python(engine: DockerEngine, run_name: str, root: Path, tmp_path: Path) -> None:
    from tiny_image import TINY, write_tiny

    engine.load(write_tiny(tmp_path))
    executor = DockerExecutor(engine)

    ran = executor.run(request(executor, TINY, run_name, root, "numa"))

    assert ("no_python", None) == (ran.ended, ran.result)
    assert "python3" in ran.message


def test_a_container_killed_from_outside_keeps_what_was_measured(
    engine: DockerEngine, python_image: str, run_name: str, root: Path
) -> None:
    import docker

    executor = DockerExecutor(engine)
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
    ran = executor.run(request(executor, python_image, run_name, root, "abi-import", "slow"))
    killer.join()
    client.close()

    assert "killed" == ran.ended
    assert ran.result is not None
    result = HarnessResult.model_validate_json(ran.result)
    assert ({"abi-import"}, False) == (set(result.probes), result.finished)


def test_a_run_that_is_told_to_stop_keeps_what_was_measured(
    engine: DockerEngine, python_image: str, run_name: str, root: Path
) -> None:
    executor = DockerExecutor(engine)
    stop = threading.Event()
    asked = replace(
        request(executor, python_image, run_name, root, "abi-import", "slow"),
        stop=stop,
        progress=lambda line: stop.set() if "abi-import" in line else None,
    )

    ran = executor.run(asked)

    assert "stopped" == ran.ended
    assert ran.result is not None
    result = HarnessResult.model_validate_json(ran.result)
    assert ({"abi-import"}, False) == (set(result.probes), result.finished)


def test_a_run_that_takes_too_long_is_stopped(
    engine: DockerEngine, python_image: str, run_name: str, root: Path
) -> None:
    executor = DockerExecutor(engine)

    ran = executor.run(request(executor, python_image, run_name, root, "slow", seconds=5))

    assert "timed_out" == ran.ended


def test_memory_used_up_is_inconclusive(engine: DockerEngine, python_image: str, run_name: str, root: Path) -> None:
    executor = DockerExecutor(engine)

    ran = executor.run(request(executor, python_image, run_name, root, "hungry", memory=512 << 20))

    assert ran.result is not None
    result = HarnessResult.model_validate_json(ran.result)
    ended = result.probes["hungry"]
    assert "inconclusive" == probes.judge(ended, timeout=60).outcome, ended


def test_an_unknown_image_offers_the_nearest(engine: DockerEngine, python_image: str) -> None:
    with pytest.raises(UsageError, match="did you mean"):
        DockerExecutor(engine).place(python_image[:-1])


def test_without_a_gpu_it_says_what_is_missing(engine: DockerEngine) -> None:
    if engine.info().gpu is not None:
        pytest.skip("this engine can give GPUs")

    with pytest.raises(GpuMissing, match="device request") as caught:
        DockerExecutor(engine).gpus()

    assert caught.value.hint is not None
    assert "nvidia-ctk" in caught.value.hint
