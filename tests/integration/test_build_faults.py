"""Builders that are missing, dead, cut off or full, and registries that fail: none is the cell's fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from project_tools import Project
from registry_tools import free_port, real_registry
from schema_tools import answers
from tiny_image import TINY, write_tiny

from assay.adapters.docker.buildx import Buildx
from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.retried import RetriedBuilder
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask, FaultKind

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def _own_builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    engine = DockerEngine()
    if engine.image(TINY) is None:
        engine.load(write_tiny(tmp_path))
    made = Project(tmp_path / "project", name=f"t{uuid4().hex[:8]}")
    yield made
    engine.remove_image(made.reference("1.0"), force=True)


def docker(*words: str) -> None:
    subprocess.run(["docker", *words], check=True, capture_output=True)


def build(folder: Path, dockerfile: str, *, builder: str | None = None, patience: float = 0.0) -> BuildOutcome:
    tag = f"assay/t{uuid4().hex[:8]}:1"
    task = BuildTask(dockerfile=dockerfile, tags=(tag,), log=folder / "build.log", timeout=200)
    outcome = RetriedBuilder(Buildx(builder=builder), patience=patience).build(task)
    if outcome.end is BuildEnd.BUILT:
        DockerEngine().remove_image(tag, force=True)
    return outcome


def kind_of(outcome: BuildOutcome) -> FaultKind | None:
    return outcome.fault.kind if outcome.fault else None


def status_of(project: Project, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = project.run("build", "--format", "json", *words, env=env)
    document = json.loads(done.stdout)
    answers(document, "build", *words)
    record = document["records"][0]
    return done.returncode, record["status"], record["reason"]


def test_an_unknown_builder_fails_the_engine_and_not_the_cell(project: Project) -> None:
    begun = time.monotonic()
    code, status, reason = status_of(project, "--builder", "nosuch")

    assert (code, status) == (4, "engine_failed")
    assert reason.startswith("not the cell's fault: buildx has no builder of that name (builder nosuch)")
    assert "try: `docker buildx ls`" in reason
    # Only a person can mend that: nothing is tried again.
    assert time.monotonic() - begun < 20


def test_a_dead_remote_builder_is_tried_again_until_the_deadline(project: Project) -> None:
    docker("buildx", "create", "--name", "dead", "--driver", "remote", "tcp://127.0.0.1:1")
    code, status, reason = status_of(project, "--builder", "dead", "--patience", "5")

    assert (code, status) == (4, "engine_failed")
    assert "the builder does not answer (builder dead): context deadline exceeded" in reason
    assert ["build-1.log", "build.log"] == sorted(path.name for path in project.root.glob("build_logs/*/*/build*.log"))


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({"DOCKER_CONTEXT": "nosuch"}, FaultKind.NO_CONTEXT),
        ({"DOCKER_HOST": "unix:///nonexistent/docker.sock"}, FaultKind.UNREACHABLE),
        ({"DOCKER_HOST": "tcp://127.0.0.1:1"}, FaultKind.UNREACHABLE),
        ({"DOCKER_HOST": "tcp://nosuch.invalid:2375"}, FaultKind.UNREACHABLE),
    ],
)
def test_missing_engine_is_distinguished_from_a_failed_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], kind: FaultKind
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert kind is kind_of(build(tmp_path, f"FROM {TINY}\n"))


def test_a_context_named_as_a_builder_is_explained(tmp_path: Path) -> None:
    docker("context", "create", "elsewhere", "--docker", "host=unix:///var/run/docker.sock")
    outcome = build(tmp_path, f"FROM {TINY}\n", builder="elsewhere")

    assert kind_of(outcome) is FaultKind.NO_CONTEXT
    assert "docker buildx create --name" in outcome.reason


def test_a_step_that_fails_is_the_cells_failure(tmp_path: Path) -> None:
    lie = "RUN echo connection reset by peer; cat /nosuch # no space left on device"
    outcome = build(tmp_path, f"FROM {TINY}\n{lie}\n", patience=60)

    assert (outcome.end, outcome.fault) == (BuildEnd.FAILED, None)


class Refusing(BaseHTTPRequestHandler):
    status = 500

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """Run a registry that answers everything with one status."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Refuses", (Refusing,), {"status": status}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_base_whose_registry_is_down_exits_with_5(project: Project) -> None:
    port = free_port()
    project.change("templates/tiny.Dockerfile.j2", "FROM {{ base.reference }}", f"FROM 127.0.0.1:{port}/x:1")
    code, status, reason = status_of(project, "--patience", "0")

    assert (code, status) == (5, "registry_failed")
    assert "a registry does not answer the builder" in reason
    assert "connection refused" in reason


# A BuildKit daemon of the test, which may be killed and filled; distributions do not package it.
BUILDKITD = os.environ.get("ASSAY_TEST_BUILDKITD") or shutil.which("buildkitd")
own_buildkit = pytest.mark.skipif(
    BUILDKITD is None or shutil.which("runc") is None or os.geteuid() != 0, reason="needs buildkitd, runc and root"
)


class BuildKit:
    """A buildkitd with a folder of its own, and a buildx builder of its name that reaches it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        (folder / "root").mkdir(parents=True, exist_ok=True)
        self.start()
        docker("buildx", "create", "--name", name, "--driver", "remote", f"unix://{folder}/socket")

    def start(self) -> None:
        assert BUILDKITD is not None
        config = self.folder / "buildkitd.toml"
        config.write_text(
            f'root = "{self.folder}/root"\n[grpc]\naddress = ["unix://{self.folder}/socket"]\n'
            '[worker.oci]\nenabled = true\nnetworkMode = "host"\n[worker.containerd]\nenabled = false\n'
        )
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen([BUILDKITD, "--config", config], stdout=log, stderr=log)
        until = time.monotonic() + 30
        while not (self.folder / "socket").exists() or b"running server" not in (self.folder / "log").read_bytes():
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.1)

    def kill(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(30)

    def remove(self) -> None:
        """End it, and unmount what a killed one leaves mounted."""
        self.kill(signal.SIGTERM)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((place for place in mounts if place.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def buildkit(tmp_path: Path) -> Iterator[BuildKit]:
    made = BuildKit(tmp_path / "buildkit", "b1")
    yield made
    made.remove()


@pytest.fixture
def base(tmp_path: Path, project: Project) -> Iterator[str]:
    """A registry with the tiny image, for builders that do not see the engine's images."""
    with real_registry(tmp_path / "registry") as host:
        docker("tag", TINY, f"{host}/tiny:1")
        docker("push", "--quiet", f"{host}/tiny:1")
        yield f"{host}/tiny:1"
        docker("rmi", f"{host}/tiny:1")


def sleepers(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == b"sleep\0" + mark.encode() + b"\0":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def when_it_sleeps(mark: str, *, seconds: float = 60) -> list[int]:
    until = time.monotonic() + seconds
    while not (found := sleepers(mark)):
        assert time.monotonic() < until, "the step never began"
        time.sleep(0.1)
    return found


class Building(Thread):
    """A build in a thread."""

    def __init__(self, folder: Path, dockerfile: str, *, patience: float) -> None:
        super().__init__(daemon=True)
        self.work = (folder, dockerfile, patience)
        self.outcome: BuildOutcome | None = None
        self.start()

    def run(self) -> None:
        folder, dockerfile, patience = self.work
        self.outcome = build(folder, dockerfile, builder="b1", patience=patience)

    def result(self) -> BuildOutcome:
        self.join(150)
        assert self.outcome is not None, "the build never ended"
        return self.outcome


@own_buildkit
@pytest.mark.registry
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_builder_that_dies_and_comes_back_builds_the_cell(
    tmp_path: Path, buildkit: BuildKit, base: str, number: signal.Signals
) -> None:
    mark = f"30.{uuid4().int % 10**6:06}"
    building = Building(tmp_path, f"FROM {base}\nRUN sleep {mark}; true\n", patience=60)
    when_it_sleeps(mark)
    buildkit.kill(number)
    for pid in sleepers(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    buildkit.start()
    outcome = building.result()

    assert (outcome.end, outcome.fault) == (BuildEnd.BUILT, None), outcome.reason
    assert (tmp_path / "build-1.log").is_file()


@own_buildkit
@pytest.mark.registry
def test_a_step_killed_from_outside_is_tried_once_more(tmp_path: Path, buildkit: BuildKit, base: str) -> None:
    mark = f"40.{uuid4().int % 10**6:06}"
    building = Building(tmp_path, f"FROM {base}\nRUN sleep {mark}; true\n", patience=60)
    for _ in range(2):
        for pid in when_it_sleeps(mark):
            parent = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)
        while sleepers(mark):
            time.sleep(0.1)
    outcome = building.result()

    assert (outcome.end, kind_of(outcome)) == (BuildEnd.ENGINE, FaultKind.KILLED)
    assert ["build-1.log", "build.log"] == sorted(path.name for path in tmp_path.glob("build*.log"))


@own_buildkit
@pytest.mark.registry
def test_a_full_disk_of_the_builder_is_not_the_cells(tmp_path: Path, base: str) -> None:
    root = tmp_path / "buildkit" / "root"
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", root], check=True)
    small = BuildKit(tmp_path / "buildkit", "b1")
    try:
        step = build(tmp_path, f"FROM {base}\nRUN head -c 200000000 /dev/zero > /big\n", builder="b1", patience=60)
    finally:
        small.remove()

    assert (step.end, kind_of(step)) == (BuildEnd.ENGINE, FaultKind.DISK_FULL)
    assert "docker buildx prune" in step.reason


@own_buildkit
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, FaultKind.REGISTRY_DENIED),
        (403, FaultKind.REGISTRY_DENIED),
        (404, FaultKind.REGISTRY_ABSENT),
        (429, FaultKind.REGISTRY_LIMITED),
        (503, FaultKind.REGISTRY_UNREACHABLE),
    ],
)
def test_registry_answers_are_distinguished(tmp_path: Path, buildkit: BuildKit, status: int, kind: FaultKind) -> None:
    with refusing(status) as host:
        outcome = build(tmp_path, f"FROM {host}/x:1\nRUN true\n", builder="b1")

    assert (outcome.end, kind_of(outcome)) == (BuildEnd.REGISTRY, kind)
