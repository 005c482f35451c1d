"""Executors over a fake engine, and leases of GPUs."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from assay.adapters.docker.fake_container import Process
from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.executors.docker import DockerExecutor
from assay.adapters.executors.gpu_leases import FileLeases
from assay.adapters.executors.local import visible_gpus
from assay.errors import EngineMissing, GpuMissing, StoreError, UsageError
from assay.ports.executor import ProbeRequest

RESULT = "/assay/work/result.json"


def harness(process: Process) -> int:
    job = json.loads(process.files["/assay/work/job.json"])
    assert process.files["/assay/work/probes/harness.py"] == b"program"
    process.print("probe: one: works", error=True)
    process.files[RESULT] = json.dumps({"cache": job["cache"]}).encode()
    return 0


def request(executor: DockerExecutor, image: str) -> ProbeRequest:
    suite = {"harness.py": b"program"}
    return ProbeRequest(place=executor.place(image), run="run-1", job={"probes": []}, suite=suite, gpus=())


def engine(*, python: str = "python3") -> FakeEngine:
    return FakeEngine({"image:1": FakeImage(programs={python: harness})})


def test_the_container_gets_as_little_as_works() -> None:
    fake = engine()

    ran = DockerExecutor(fake).run(request(DockerExecutor(fake), "image:1"))

    (spec,) = fake.specs
    assert ("finished", b'{"cache": "/assay/work/cache"}') == (ran.ended, ran.result)
    assert ("none", True, True, True) == (spec.network, spec.read_only, spec.drop_capabilities, spec.no_new_privileges)
    assert spec.pids
    assert [] == fake.containers


def test_a_cache_is_given_to_an_engine_of_this_machine(tmp_path: Path) -> None:
    fake = engine()
    executor = DockerExecutor(fake, cache=tmp_path)

    ran = executor.run(request(executor, "image:1"))

    assert b'{"cache": "/assay-cache"}' == ran.result
    assert ["/assay-cache"] == [bind.target for bind in fake.specs[0].binds]


def test_every_usual_place_of_python_is_tried() -> None:
    fake = engine(python="/opt/venv/bin/python3")

    ran = DockerExecutor(fake).run(request(DockerExecutor(fake), "image:1"))

    assert "finished" == ran.ended


def test_an_image_without_python_says_so() -> None:
    fake = engine(python="perl")

    ran = DockerExecutor(fake).run(request(DockerExecutor(fake), "image:1"))

    assert ("no_python", None) == (ran.ended, ran.result)
    assert [] == fake.containers


def test_an_engine_that_dies_during_a_run_is_an_outcome() -> None:
    fake = FakeEngine()

    def die(process: Process) -> int:
        harness(process)
        fake.alive = False
        return 0

    fake.held["image:1"] = FakeImage(programs={"python3": die})
    executor = DockerExecutor(fake)
    asked = request(executor, "image:1")

    ran = executor.run(asked)

    assert "engine_lost" == ran.ended
    assert ran.message


def test_what_the_harness_wrote_is_given_out_while_it_runs() -> None:
    shown = threading.Event()

    def slow(process: Process) -> int:
        process.files[RESULT] = b"1"
        process.print("probe: one: works", error=True)
        assert shown.wait(30)
        process.files[RESULT] = b"2"
        return 0

    kept: list[bytes] = []

    def keep(document: bytes) -> None:
        kept.append(document)
        shown.set()

    executor = DockerExecutor(FakeEngine({"image:1": FakeImage(programs={"python3": slow})}))

    ran = executor.run(replace(request(executor, "image:1"), keep=keep))

    assert ([b"1"], b"2") == (kept, ran.result)


def test_no_engine_from_the_start_is_an_error() -> None:
    fake = engine()
    executor = DockerExecutor(fake)
    asked = request(executor, "image:1")
    fake.alive = False

    with pytest.raises(EngineMissing):
        executor.run(asked)


def test_an_unknown_image_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="image:1"):
        DockerExecutor(engine()).place("imag:1")


def test_one_gpu_has_one_user(tmp_path: Path) -> None:
    first, second = FileLeases(tmp_path), FileLeases(tmp_path)

    with first.take(("0", "1"), 1, wait_seconds=0) as held, second.take(("0", "1"), 1, wait_seconds=0) as other:
        assert {"0", "1"} == {*held, *other}
        with pytest.raises(GpuMissing, match="became free"), first.take(("0", "1"), 1, wait_seconds=0):
            pass
    with first.take(("0", "1"), 2, wait_seconds=0) as both:
        assert ("0", "1") == both


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


def test_leases_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file")

    with (
        pytest.raises(StoreError, match="cannot be written") as told,
        FileLeases(tmp_path / "leases").take(("0",), 1, wait_seconds=0),
    ):
        pass
    assert "TMPDIR" in str(told.value.hint)


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(GpuMissing, match="3 GPUs"), FileLeases(tmp_path).take(("0",), 3, wait_seconds=0):
        pass


@pytest.mark.parametrize(
    ("said", "names"),
    [("", ("0", "1")), ("3,2", ("3", "2")), (" 1 , GPU-5f, 7", ("1", "GPU-5f")), (",", ("0", "1"))],
)
def test_the_gpus_are_those_that_the_user_leaves_visible(
    monkeypatch: pytest.MonkeyPatch, said: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)

    assert names == visible_gpus(2)
