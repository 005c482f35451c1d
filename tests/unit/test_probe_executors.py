"""Executors over a fake engine, and leases of GPUs."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.docker.fake_container import Process
from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.gpu_leases import FileLeases
from assay.adapters.executors.probe_executor import ProbeExecutor
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite
from assay.adapters.executors.this_machine import visible_gpus
from assay.errors import EngineMissing, GpuMissing, StoreError, UsageError
from assay.evidence.suite import HarnessResult
from assay.ports.executor import JobListener
from assay.ports.jobs import DevicesWanted, ProbeJob

RESULT = "/assay/work/result.json"
SUITE = {"harness.py": b"program"}
DOCUMENT = {"schema_version": 1, "suite_digest": "", "python": "3", "executable": "", "finished": True}


def document(**more: Any) -> bytes:
    return json.dumps({**DOCUMENT, **more}).encode()


def harness(process: Process) -> int:
    job = json.loads(process.files["/assay/work/job.json"])
    assert process.files["/assay/work/probes/harness.py"] == b"program"
    process.print("probe: one: works", error=True)
    process.files[RESULT] = document(executable=job["cache"])
    return 0


def executor(fake: FakeEngine, **options: Any) -> ProbeExecutor:
    return ProbeExecutor(DockerTaskHost(fake, **options), ProbeSuites(SUITE))


def job(runs: ProbeExecutor, image: str = "image:1", **options: Any) -> ProbeJob:
    return ProbeJob(place=runs.place(image), run="run-1", suite=digest_of_suite(SUITE), features=(), **options)


def engine(*, python: str = "python3") -> FakeEngine:
    return FakeEngine({"image:1": FakeImage(programs={python: harness})})


def test_the_container_gets_as_little_as_works() -> None:
    fake = engine()
    runs = executor(fake)

    ran = runs.run(job(runs))

    (spec,) = fake.specs
    assert ran.harness is not None
    assert ("finished", "/assay/work/cache") == (ran.ended, ran.harness.executable)
    assert ("none", True, True, True) == (spec.network, spec.read_only, spec.drop_capabilities, spec.no_new_privileges)
    assert spec.pids
    assert [] == fake.containers


def test_a_cache_is_given_to_an_engine_of_this_machine(tmp_path: Path) -> None:
    fake = engine()
    runs = executor(fake, cache=tmp_path)

    ran = runs.run(job(runs))

    assert ran.harness is not None
    assert "/assay-cache" == ran.harness.executable
    assert ["/assay-cache"] == [bind.target for bind in fake.specs[0].binds]


def test_every_usual_place_of_python_is_tried() -> None:
    fake = engine(python="/opt/venv/bin/python3")
    runs = executor(fake)

    ran = runs.run(job(runs))

    assert "finished" == ran.ended


def test_an_image_without_python_is_reported() -> None:
    fake = engine(python="perl")
    runs = executor(fake)

    ran = runs.run(job(runs))

    assert ("no_python", None) == (ran.ended, ran.harness)
    assert [] == fake.containers


def test_an_engine_that_dies_during_a_run_is_an_outcome() -> None:
    fake = FakeEngine()

    def die(process: Process) -> int:
        harness(process)
        fake.alive = False
        return 0

    fake.held["image:1"] = FakeImage(programs={"python3": die})
    runs = executor(fake)
    asked = job(runs)

    ran = runs.run(asked)

    assert "engine_lost" == ran.ended
    assert ran.message


def test_harness_output_is_streamed() -> None:
    shown = threading.Event()

    def slow(process: Process) -> int:
        process.files[RESULT] = document(python="1")
        process.print("probe: one: works", error=True)
        assert shown.wait(30)
        process.files[RESULT] = document(python="2")
        return 0

    kept: list[str] = []

    def keep(found: HarnessResult) -> None:
        kept.append(found.python)
        shown.set()

    runs = executor(FakeEngine({"image:1": FakeImage(programs={"python3": slow})}))

    ran = runs.run(job(runs), listener=JobListener(measured=keep))

    assert ran.harness is not None
    assert (["1"], "2") == (kept, ran.harness.python)


@pytest.mark.parametrize("written", [b"", b"\x00\xff", b"[]", b'{"schema_version": 1}'])
def test_a_document_that_cannot_be_read_is_kept_in_the_log(written: bytes) -> None:
    def garble(process: Process) -> int:
        process.files[RESULT] = written
        process.print("probe: one: works", error=True)
        return 0

    logs: list[bytes] = []
    runs = executor(FakeEngine({"image:1": FakeImage(programs={"python3": garble})}))

    ran = runs.run(job(runs), listener=JobListener(log=logs.append))

    assert (None, "finished") == (ran.harness, ran.ended)
    assert ran.unreadable.startswith("the result document cannot be read: ") or not written
    assert [written in log for log in logs] == [True]


def test_job_gets_its_leased_gpus_or_the_requested_number() -> None:
    info = replace(FakeEngine().info(), gpu="cdi", local=False)
    fake = FakeEngine({"image:1": FakeImage(programs={"python3": harness})}, info=info)
    runs = executor(fake)

    for wanted in (DevicesWanted(), DevicesWanted(count=1), DevicesWanted(count=1, names=("7",))):
        runs.run(job(runs, devices=wanted))

    assert [(), ("0",), ("7",)] == [spec.gpus for spec in fake.specs]
    with pytest.raises(GpuMissing, match="2 GPUs are requested, but 1 can be given"):
        runs.run(job(runs, devices=DevicesWanted(count=2)))


def test_no_engine_from_the_start_is_an_error() -> None:
    fake = engine()
    runs = executor(fake)
    asked = job(runs)
    fake.alive = False

    with pytest.raises(EngineMissing):
        runs.run(asked)


def test_an_unknown_image_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="image:1"):
        executor(engine()).place("imag:1")


def test_users_of_one_machine_share_the_leases(tmp_path: Path) -> None:
    """Whoever came first made the folder and the files: the others must be able to lock them."""
    folder = tmp_path / "leases"
    before = os.umask(0o077)
    try:
        with FileLeases(folder).take(("0",), 1, wait_seconds=0):
            pass
    finally:
        os.umask(before)

    assert 0o1777 == stat.S_IMODE(folder.stat().st_mode)
    (lock,) = folder.iterdir()
    assert 0o644 == stat.S_IMODE(lock.stat().st_mode)
    lock.chmod(0o444)
    with FileLeases(folder).take(("0",), 1, wait_seconds=0) as held:
        assert ("0",) == held


def test_leases_that_cannot_be_kept_are_reported(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file")

    with (
        pytest.raises(StoreError, match="cannot be written") as told,
        FileLeases(tmp_path / "leases").take(("0",), 1, wait_seconds=0),
    ):
        pass
    assert "TMPDIR" in str(told.value.hint)


@pytest.mark.parametrize(
    ("said", "names"),
    [("", ("0", "1")), ("3,2", ("3", "2")), (" 1 , GPU-5f, 7", ("1", "GPU-5f")), (",", ("0", "1"))],
)
def test_the_gpus_are_those_that_the_user_leaves_visible(
    monkeypatch: pytest.MonkeyPatch, said: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)

    assert names == visible_gpus(2)
