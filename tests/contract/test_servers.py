"""What every host does with the document of a server: this machine, containers, the engine in memory, and those kept.

The document is written to JSON and read back before each start, as if another machine had sent it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tiny_image import TINY, write_tiny

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.fake_engine import FakeEngine, FakeImage, Process
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.local import LocalTaskHost
from assay.adapters.executors.services import DockerServices
from assay.adapters.executors.this_machine import free_port
from assay.errors import EngineError, StoreError, UsageError
from assay.foundation.digest import sha256_of
from assay.ports.jobs import MAX_BYTES, Place, ProbeJob, seal, unseal
from assay.ports.server import RunningServer, ServerDeadlines, ServerJob, ServerLimits, read_output, running_server
from assay.ports.task import TaskHost

OTHER = f"sha256:{'0' * 64}"
SAY = 'echo "at $0 $1 with $EXTRA"; trap "echo bye; exit 7" TERM; while true; do sleep 0.1; done'
STUBBORN = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
END = "echo so; exit 3"


def say(process: Process) -> int:
    process.print(f"at {process.argv[3]} {process.argv[4]} with {process.env['EXTRA']}")
    process.sleep(60)
    return 0


def stubborn(process: Process) -> int:
    process.print("ready")
    process.ignores_term = True
    process.sleep(60)
    return 0


def end(process: Process) -> int:
    process.print("so")
    return 3


# Each script twice: for a shell, and for the engine in memory.
SCRIPTS: dict[str, Callable[[Process], int]] = {SAY: say, STUBBORN: stubborn, END: end}


@dataclass(frozen=True)
class Scene:
    """A host, and how a job is started on it."""

    host: TaskHost
    start: Callable[[ServerJob], AbstractContextManager[RunningServer]]
    reference: str
    run: str
    kept: bool = False

    def job(self, script: str, **more: Any) -> ServerJob:
        name = {"name": self.run, "port": free_port()} if self.kept else {}
        return ServerJob(**{
            "run": self.run, "place": Place(reference=self.reference), "gpus": (), "env": {"EXTRA": "more"},
            "argv": ("sh", "-c", script, "{host}", "{port}"), **name, **more,
        })  # fmt: skip

    @contextmanager
    def sent(self, job: ServerJob) -> Iterator[RunningServer]:
        """Start what came out of the document."""
        with self.start(unseal(seal(job), ServerJob, source="job.json")) as server:
            yield server


@pytest.fixture(params=[
    "local", "fake", pytest.param("docker", marks=pytest.mark.engine), pytest.param("kept", marks=pytest.mark.engine),
])  # fmt: skip
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    run = f"contract-{uuid4().hex[:8]}"
    if request.param == "local":
        host: TaskHost = LocalTaskHost()
        yield Scene(host, lambda job: running_server(host, job), "local", run)
        return
    if request.param == "fake":
        engine: Any = FakeEngine({TINY: FakeImage(programs={"sh": lambda process: SCRIPTS[process.argv[2]](process)})})
    else:
        engine = DockerEngine()
        if engine.image(TINY) is None:
            engine.load(write_tiny(tmp_path))
    host = DockerTaskHost(engine)
    if request.param != "kept":
        yield Scene(host, lambda job: running_server(host, job), TINY, run)
        assert not engine.sweep(run), "something was left behind"
        return
    services = DockerServices(engine)

    @contextmanager
    def kept(job: ServerJob) -> Iterator[RunningServer]:
        server = services.start(job)
        try:
            yield server
        finally:
            (mine,) = [one for one in services.servers() if one.name == job.name]
            services.remove(mine, grace=1)

    yield Scene(host, kept, TINY, run, kept=True)
    assert run not in {one.name for one in services.servers()}


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_a_server_is_started_from_its_document(scene: Scene) -> None:
    with scene.sent(scene.job(SAY)) as server:
        until(lambda: "with more" in server.log())
        running, base, log = server.running(), server.base, server.log()

    assert running
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", base)
    assert re.search(r"at (127\.0\.0\.1|0\.0\.0\.0) \d+ with more", log)


def test_a_port_that_is_named_is_that_of_the_server(scene: Scene) -> None:
    port = free_port()

    with scene.sent(scene.job(SAY, port=port)) as server:
        assert f"http://127.0.0.1:{port}" == server.base


def test_a_stopped_server_says_how_it_ended(scene: Scene) -> None:
    job = scene.job(STUBBORN, deadlines=ServerDeadlines(stop_seconds=0.5))

    with scene.sent(job) as server:
        until(lambda: "ready" in server.log())
        ended = server.stop(grace=job.deadlines.stop_seconds)

        assert (True, 9) == (ended.forced, ended.signal)
        assert not server.running()
        assert ended == server.stop(grace=0)


def test_a_server_that_ended_by_itself_is_not_killed(scene: Scene) -> None:
    with scene.sent(scene.job(END)) as server:
        until(lambda: not server.running())
        ended = server.stop(grace=5)

        assert (3, None, False, 0.0) == (ended.code, ended.signal, ended.forced, ended.seconds)
        assert "so" in server.log()


def test_a_program_runs_in_the_place_of_a_server(scene: Scene) -> None:
    found = read_output(scene.host, scene.job(SAY), ["sh", "-c", END], env={}, timeout=60)

    assert (3, "so") == (found.code, found.text.strip())


def test_only_the_image_of_the_job_is_started(scene: Scene) -> None:
    if scene.reference == "local":
        pytest.skip("an environment has no manifest")
    here = scene.host.manifest(scene.reference)
    wrong = scene.job(SAY, place=Place(reference=scene.reference, digest=OTHER))
    right = scene.job(SAY, place=Place(reference=scene.reference, digest=here))

    with pytest.raises(UsageError, match=f"{OTHER} in the job"), _left_alone(scene, wrong):
        pass
    with scene.sent(right) as server:
        assert server.base


@contextmanager
def _left_alone(scene: Scene, job: ServerJob) -> Iterator[None]:
    with running_server(scene.host, job) if scene.kept else scene.sent(job):
        yield


def test_an_image_that_is_missing_is_reported(scene: Scene) -> None:
    if scene.reference == "local":
        pytest.skip("there is no image")
    job = scene.job(SAY, place=Place(reference="assay/no-such:1"))

    with pytest.raises(EngineError, match="does not hold the image"), _left_alone(scene, job):
        pass


def full() -> ServerJob:
    """A document in which every field has a value of its own."""
    return ServerJob.model_validate({
        "run": "r", "name": "chat", "place": {"reference": "image:1", "digest": OTHER}, "argv": ["serve", "{port}"],
        "env": {"A": "1"}, "user": "1000:1000", "gpus": ["0", "1"], "network": "host", "port": 8000,
        "ports_beside": [1], "health": "/ready", "labels": {"a": "b"},
        "mounts": [{"source": "/a", "target": "/b", "read_only": False}],
        "limits": {"memory_bytes": 1 << 30, "pids": 100, "shm_bytes": 1 << 20},
        "deadlines": {"start_seconds": 5.0, "stop_seconds": 1.0},
    })  # fmt: skip


def test_the_document_comes_back_as_it_was() -> None:
    sealed = seal(full())
    again = unseal(sealed, ServerJob, source="job.json")

    assert full().model_dump(exclude={"checksum"}) == again.model_dump(exclude={"checksum"})
    assert set(ServerJob.model_fields) == set(full().model_fields_set) | {"checksum", "schema_version", "kind"}


def resealed(**change: Any) -> bytes:
    """Return a changed document whose checksum is right."""
    rest = json.dumps(full().model_dump(mode="json", exclude={"checksum"}) | change).encode()[1:]
    return b'{"checksum":"' + sha256_of(rest).encode() + b'",' + rest


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1}, {"port": 0}, {"port": "8000"[:0]}, {"gpus": "some"}, {"network": "none"}, {"kind": "probe"},
        {"schema_version": 2}, {"deadlines": {"start_seconds": -1}}, {"limits": {"pids": 0}}, {"env": {"A": None}},
        {"place": {"reference": "x", "digest": 3}}, {"health": "x" * (MAX_BYTES + 1)},
    ],
    ids=str,
)  # fmt: skip
def test_a_document_that_is_wrong_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        unseal(resealed(**change), ServerJob, source="job.json")


def test_a_document_of_another_kind_is_refused() -> None:
    probe = ProbeJob(run="r", place=Place(reference="local"), suite=OTHER, features=())

    with pytest.raises(StoreError):
        unseal(seal(probe), ServerJob, source="job.json")


def test_limits_and_folders_reach_the_host() -> None:
    spec = full().task()

    assert (1 << 30, 100, 1 << 20) == (spec.memory_bytes, spec.pids, spec.shm_bytes)
    assert ("host", 8000, (1,), ("0", "1")) == (spec.network, spec.port, spec.ports_beside, spec.gpus)
    assert (1 << 15, 64 << 20) == (ServerLimits().pids, ServerLimits().shm_bytes)
    assert "/b" == spec.mounts[0].target
