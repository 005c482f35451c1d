"""What every builder does: one suite for the fake and for BuildKit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from tiny_image import TINY, write_tiny

from assay.adapters.docker.buildx import Buildx
from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.fake_builder import FakeBuilder
from assay.errors import EngineMissing, StoreError
from assay.ports.builder import BuildEnd, Builder, BuildFault, BuildOutcome, BuildTask, FaultKind

FINE = f"FROM {TINY} AS image\nRUN echo hello > /hello\n"
FAILS = f"FROM {TINY} AS image\nRUN echo what went wrong >&2; exit 7\n"
HANGS = f"FROM {TINY} AS image\nRUN sleep 100\n"
FAULT = BuildFault(kind=FaultKind.NO_BUILDER, said='no builder "assay-no-such" found')


@dataclass(frozen=True)
class Scene:
    make: Callable[[str], Builder]
    """Dockerfile -> a builder; the fake ends as BuildKit does with it."""
    unknown: Builder
    """A builder that buildx does not know."""
    folder: Path
    tag: str

    def task(self, dockerfile: str, **more: object) -> BuildTask:
        given = {"tags": (self.tag,), "log": self.folder / "build.log", "timeout": 200.0, **more}
        return BuildTask(dockerfile=dockerfile, **given)  # type: ignore[arg-type]

    def build(self, dockerfile: str, **more: object) -> BuildOutcome:
        return self.make(dockerfile).build(self.task(dockerfile, **more))


@pytest.fixture(params=["fake", pytest.param("buildx", marks=pytest.mark.engine)])
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    tag = f"assay/t{uuid4().hex[:8]}:1"
    if request.param == "fake":
        failed = BuildOutcome(end=BuildEnd.FAILED, reason="ERROR: exit code: 7\nwhat went wrong")
        lost = BuildOutcome(end=BuildEnd.ENGINE, reason="there is no builder assay-no-such", fault=FAULT)

        def make(dockerfile: str) -> Builder:
            return FakeBuilder({FAILS: {tag: failed}, HANGS: {tag: "hangs"}}.get(dockerfile, {}))  # type: ignore[arg-type]

        yield Scene(make, FakeBuilder({tag: lost}), tmp_path, tag)
        return
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    engine = DockerEngine()
    if engine.image(TINY) is None:
        engine.load(write_tiny(tmp_path))
    yield Scene(lambda _: Buildx(), Buildx(builder="assay-no-such"), tmp_path, tag)
    engine.remove_image(tag, force=True)


def test_a_build_gives_a_digest_and_a_log(scene: Scene) -> None:
    said: list[str] = []
    outcome = scene.build(FINE, progress=said.append)

    assert (BuildEnd.BUILT, None) == (outcome.end, outcome.fault)
    assert outcome.digest is not None
    assert outcome.digest.startswith("sha256:")
    assert outcome.seconds > 0
    assert (scene.folder / "build.log").stat().st_size
    assert said


def test_failed_step_is_reported_with_its_own_message(scene: Scene) -> None:
    outcome = scene.build(FAILS)

    assert (BuildEnd.FAILED, None, None) == (outcome.end, outcome.digest, outcome.fault)
    assert "what went wrong" in outcome.reason
    assert "what went wrong" in (scene.folder / "build.log").read_text()


def test_a_build_that_takes_too_long_is_ended(scene: Scene) -> None:
    began = time.monotonic()
    outcome = scene.build(HANGS, timeout=4.0)

    assert BuildEnd.TIMED_OUT is outcome.end
    assert "4 s" in outcome.reason
    assert 60 > time.monotonic() - began


def test_build_that_is_asked_to_stop_ends(scene: Scene) -> None:
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()

    assert BuildEnd.STOPPED is scene.build(HANGS, stop=stop).end


def test_a_log_that_cannot_be_written_is_an_error(scene: Scene) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        scene.build(FINE, log=scene.folder / "nowhere" / "build.log")


def test_a_builder_that_is_missing_is_not_a_failure_of_what_is_built(scene: Scene) -> None:
    outcome = scene.unknown.build(scene.task(FINE))

    assert BuildEnd.ENGINE is outcome.end
    assert outcome.fault is not None
    assert FaultKind.NO_BUILDER is outcome.fault.kind
    assert "assay-no-such" in outcome.reason


def test_the_command_line_names_the_tags_and_the_file(scene: Scene) -> None:
    words = scene.make(FINE).command(scene.task(FINE), dockerfile="/some/Dockerfile")

    assert ["docker", "buildx", "build"] == words[:3]
    assert ["--file", "/some/Dockerfile"] == words[-2:]
    assert any(scene.tag in word for word in words)


def test_without_an_engine_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake raises what it is told to raise; the real one when there is no docker on PATH."""
    task = BuildTask(dockerfile=FINE, tags=("t:1",), log=tmp_path / "log")
    monkeypatch.setenv("PATH", str(tmp_path))

    for builder in (Buildx(), FakeBuilder({"t:1": EngineMissing("no engine")})):
        with pytest.raises(EngineMissing):
            builder.build(task)
