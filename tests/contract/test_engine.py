"""What every engine does: one suite for the fake and for Docker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from tiny_image import TINY, write_tiny

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.fake_engine import FakeEngine, FakeImage, Process
from assay.errors import EngineError, EngineMissing, GpuMissing, RegistryError
from assay.ports.engine import ContainerSpec, Engine, run

WORK = "/assay/work"


def echo(process: Process) -> int:
    process.print("out")
    process.print("err", error=True)
    return 3


def sleep(process: Process) -> int:
    process.print("started")
    process.sleep(60)
    return 0


def copy(process: Process) -> int:
    process.files[f"{WORK}/out/result"] = process.files[f"{WORK}/in/x.txt"] + process.env["EXTRA"].encode()
    return 0


def greet(process: Process) -> int:
    process.print(process.env["GREETING"])
    return 0


def much(process: Process) -> int:
    process.print("x" * 100_000)
    process.print("last")
    return 0


def hog(process: Process) -> int:
    process.run_out_of_memory()
    return 0


# Each script twice: for a shell, and for the fake.
SCRIPTS: dict[str, Callable[[Process], int]] = {
    "echo out; echo err >&2; exit 3": echo,
    "echo started; exec sleep 60": sleep,
    f'mkdir -p {WORK}/out; cat {WORK}/in/x.txt > {WORK}/out/result; echo -n "$EXTRA" >> {WORK}/out/result': copy,
    'echo "$GREETING"': greet,
    "head -c 100000 /dev/zero | tr '\\0' x; echo; echo last": much,
    # tail keeps a line without an end in memory.
    "head -c 400000000 /dev/zero | tail; exit $?": hog,
}
ECHO, SLEEP, COPY, GREET, MUCH, HOG = SCRIPTS


def shell(process: Process) -> int:
    return SCRIPTS[process.argv[2]](process)


@dataclass(frozen=True)
class World:
    engine: Engine
    run: str

    def spec(self, script: str, **options: object) -> ContainerSpec:
        return ContainerSpec(**{"image": TINY, "run": self.run, "command": ("/bin/sh", "-c", script), **options})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> DockerEngine:
    engine = DockerEngine()
    if engine.image(TINY) is None:
        engine.load(write_tiny(tmp_path_factory.mktemp("tiny")))
    return engine


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.engine)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    engine: Engine
    if request.param == "docker":
        engine = request.getfixturevalue("docker")
    else:
        image = FakeImage(
            files={"/bin/sh": b"\x7fELF", "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\n", "/etc/.hidden": b"hidden\n"},
            links={"/etc/link": "passwd"},
            programs={"sh": shell},
            labels={"org.example.size": "tiny"},
            env={"PATH": "/bin", "GREETING": "hello=you"},
            command=("/bin/sh", "-c", "echo hello"),
        )
        engine = FakeEngine({TINY: image})
    name = f"contract-{uuid4().hex[:8]}"
    yield World(engine, name)
    assert not engine.sweep(name), "a container or volume was left behind"


def test_engine_info_has_the_facts_that_builds_depend_on(world: World) -> None:
    info = world.engine.info()

    assert info.version
    assert info.image_store in {"containerd", "graphdriver"}
    assert info.architecture in {"amd64", "arm64"}
    assert info.cpus > 0
    assert info.memory_bytes > 1 << 20


def test_image_labels_describe_the_cell(world: World) -> None:
    image = world.engine.image(TINY)

    assert image is not None
    assert TINY in image.tags
    assert image.id.startswith("sha256:")
    assert {"org.example.size": "tiny"} == image.labels
    assert "hello=you" == image.env["GREETING"]
    assert ("/bin/sh", "-c", "echo hello") == image.command
    assert 1 == len(image.layers)
    assert image.layers[0].bytes


def test_an_image_is_found_by_its_id_and_label(world: World) -> None:
    image = world.engine.image(TINY)
    assert image is not None
    again = world.engine.image(image.id)

    assert again is not None
    assert image.id == again.id
    assert image.id in {one.id for one in world.engine.images(label="org.example.size=tiny")}
    assert [] == list(world.engine.images(label="org.example.size=huge"))


def test_labels_are_returned_for_existing_images(world: World) -> None:
    assert {TINY: {"org.example.size": "tiny"}} == world.engine.labels([TINY, "assay/test-nowhere:1"])


def test_an_image_that_is_missing_is_none(world: World) -> None:
    assert world.engine.image("assay/nothing-of-the-kind:1") is None
    assert not world.engine.remove_image("assay/nothing-of-the-kind:1")


def test_tag_and_remove(world: World) -> None:
    name = f"assay/test-{world.run}:2"
    world.engine.tag(TINY, name)
    tagged, tiny = world.engine.image(name), world.engine.image(TINY)

    assert tagged is not None
    assert tiny is not None
    assert tiny.id == tagged.id
    assert world.engine.remove_image(name)
    assert world.engine.image(name) is None
    assert world.engine.image(TINY) is not None


def test_tagging_nothing_is_an_error(world: World) -> None:
    with pytest.raises(EngineError, match="nothing-of-the-kind"):
        world.engine.tag("assay/nothing-of-the-kind:1", "assay/other:1")


def test_output_and_code_come_back(world: World) -> None:
    result = run(world.engine, world.spec(ECHO), timeout=30)

    assert 3 == result.exit.code
    assert not result.exit.ok
    assert result.exit.signal is None
    assert b"out\n" == result.logs.stdout
    assert b"err\n" == result.logs.stderr
    assert not result.logs.truncated


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("user", [None, "65534:65534"])
def test_files_go_in_and_come_out(world: World, read_only: bool, user: str | None, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"content ")
    spec = world.spec(COPY, workspace=WORK, read_only=read_only, user=user, env={"EXTRA": "and more"})

    result = run(
        world.engine,
        spec,
        timeout=30,
        files={"in/x.txt": tmp_path / "x.txt", "in/deep/er/y": b"y"},
        collect=["out/result", "out/missing"],
    )

    assert (0, "") == (result.exit.code, result.logs.text)
    assert {"out/result": b"content and more"} == result.files


def test_get_reads_folders_files_and_nothing(world: World) -> None:
    with world.engine.container(world.spec(ECHO, workspace=WORK)) as container:
        container.put(WORK, {"a/b": b"1", "a/c/d": b"22"})

        assert {"b": b"1", "c/d": b"22"} == container.get(f"{WORK}/a")
        assert {"b": b"1"} == container.get(f"{WORK}/a/b")
        assert {} == container.get(f"{WORK}/nothing")
        assert b"hidden\n" == container.get("/etc/.hidden")[".hidden"]
        with pytest.raises(EngineError, match="more than 2 bytes"):
            container.get(f"{WORK}/a", limit=2)


def test_put_refuses_invalid_manifests(world: World) -> None:
    with world.engine.container(world.spec(ECHO, read_only=True, workspace=WORK)) as container:
        with pytest.raises(EngineError, match="read-only"):
            container.put("/etc", {"x": b""})
        with pytest.raises(EngineError, match="cannot be named"):
            container.put(WORK, {"../x": b""})
        with pytest.raises(EngineError):
            container.put(f"{WORK}/nothing", {"x": b""})


def test_a_workspace_at_the_top_is_refused(world: World) -> None:
    with (
        pytest.raises(EngineError, match="/assay/work"),
        world.engine.container(world.spec(ECHO, workspace="/work")),
    ):
        pass


def test_time_runs_out(world: World) -> None:
    started = time.monotonic()
    result = run(world.engine, world.spec(SLEEP), timeout=1)

    assert result.exit.timed_out
    assert (137, 9) == (result.exit.code, result.exit.signal)
    assert not result.exit.oom_killed
    assert b"started\n" == result.logs.stdout
    assert time.monotonic() - started < 20


def test_memory_runs_out(world: World) -> None:
    result = run(world.engine, world.spec(HOG, memory_bytes=64 << 20), timeout=60)

    assert result.exit.oom_killed
    assert not result.exit.timed_out
    assert not result.exit.ok


def test_a_program_that_is_missing_is_the_images_fault(world: World) -> None:
    result = run(world.engine, world.spec("", command=("/no/such/program",)), timeout=10)

    assert 127 == result.exit.code
    assert "/no/such/program" in result.exit.error


def test_the_image_s_own_command_and_environment_hold(world: World) -> None:
    result = run(world.engine, world.spec(GREET), timeout=10)

    assert b"hello=you\n" == result.logs.stdout


def test_long_output_loses_its_middle(world: World) -> None:
    result = run(world.engine, world.spec(MUCH), timeout=30, log_limit=1000)

    assert result.logs.truncated
    assert len(result.logs.stdout) < 1100
    assert result.logs.stdout.endswith(b"last\n")
    assert b"bytes left out" in result.logs.stdout


def test_another_thread_kills_and_follows(world: World) -> None:
    with world.engine.container(world.spec(SLEEP)) as container:
        container.start()
        lines = container.follow()

        assert b"started\n" == next(lines)
        assert container.running()
        killer = threading.Timer(0.2, container.kill, args=("SIGKILL",))
        killer.start()
        end = container.wait(30)
        killer.join()

        assert (137, False) == (end.code, end.timed_out)
        assert [] == list(lines)
        assert not container.running()
        container.kill()  # of something that ended: nothing happens


def test_a_container_goes_even_when_its_user_fails(world: World) -> None:
    def fail() -> None:
        with world.engine.container(world.spec(SLEEP, workspace=WORK)) as container:
            container.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert [] == list(world.engine.sweep(world.run))


def test_sweep_takes_only_its_own_run(world: World) -> None:
    with world.engine.container(world.spec(SLEEP, run=f"{world.run}-other")) as other:
        other.start()

        assert [] == list(world.engine.sweep(world.run))
        assert [] == list(world.engine.sweep())
        assert other.running()


def test_no_gpu_is_reported_before_anything_runs(world: World) -> None:
    if world.engine.info().gpu is not None:
        pytest.skip("this engine has a GPU")

    with (
        pytest.raises(GpuMissing) as raised,
        world.engine.container(world.spec(ECHO, gpus="all")),
    ):
        pass

    assert 4 == raised.value.exit_code


def test_a_missing_image_is_named(world: World) -> None:
    with (
        pytest.raises(EngineError, match="assay/nothing-of-the-kind:1"),
        world.engine.container(world.spec(ECHO, image="assay/nothing-of-the-kind:1")),
    ):
        pass


def test_image_files_are_read_in_one_pass(world: World) -> None:
    with world.engine.image_files(TINY) as entries:
        found = {
            entry.path: (entry.kind, entry.target, entry.open().read(4) if entry.kind == "file" else b"")
            for entry in entries
        }

    assert ("file", "", b"\x7fELF") == found["/bin/sh"]
    assert ("symlink", "passwd", b"") == found["/etc/link"]
    assert ("file", "", b"hidd") == found["/etc/.hidden"]
    assert "directory" == found["/etc"][0]


def test_image_files_may_be_left_early(world: World) -> None:
    with world.engine.image_files(TINY) as entries:
        assert next(entries).path.startswith("/")


def test_pushing_a_missing_image_is_an_error_although_the_sdk_reports_none(world: World) -> None:
    with pytest.raises(RegistryError, match="pushing"):
        world.engine.push(f"localhost:1/assay/{world.run}:1")


def test_missing_registry_is_an_error_although_the_sdk_reports_none(world: World) -> None:
    name = f"localhost:1/assay/{world.run}:1"
    if isinstance(world.engine, FakeEngine):
        world.engine.refuse[name] = "connection refused"
    world.engine.tag(TINY, name)
    try:
        with pytest.raises(RegistryError, match="refused"):
            world.engine.push(name)
        with pytest.raises(RegistryError):
            world.engine.pull(name)
    finally:
        world.engine.remove_image(name)


@pytest.mark.parametrize("kind", ["fake", "docker"])
def test_missing_engine_error_suggests_a_fix(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nothing/here.sock")
    engine: Engine = DockerEngine() if kind == "docker" else FakeEngine(alive=False)

    with pytest.raises(EngineMissing) as raised:
        engine.info()

    assert raised.value.hint
    assert 4 == raised.value.exit_code
