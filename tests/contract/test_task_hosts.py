"""What every place does with a program: one suite for this machine, for containers and for the engine in memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from assay.errors import EngineError
from assay.ports.task import Task, TaskHost, TaskSpec, run_task


def echo(process: Process) -> int:
    process.print("out")
    process.print("err", error=True)
    return 3


def sleep(process: Process) -> int:
    process.print("started")
    process.sleep(60)
    return 0


def copy(process: Process) -> int:
    work = process.argv[3]
    process.files[f"{work}/out/result"] = process.files[f"{work}/in/x.txt"] + process.env["EXTRA"].encode()
    return 0


def much(process: Process) -> int:
    process.print("x" * 100_000)
    process.print("last")
    return 0


# Each script twice: for a shell, and for the engine in memory.
SCRIPTS: dict[str, Callable[[Process], int]] = {
    "echo out; echo err >&2; exit 3": echo,
    "echo started; exec sleep 60": sleep,
    'mkdir -p "$0/out"; cat "$0/in/x.txt" > "$0/out/result"; echo -n "$EXTRA" >> "$0/out/result"': copy,
    "head -c 100000 /dev/zero | tr '\\0' x; echo; echo last": much,
    "trap '' TERM; echo started; while true; do sleep 1; done": sleep,
}
ECHO, SLEEP, COPY, MUCH, STUBBORN = SCRIPTS


@dataclass(frozen=True)
class Scene:
    host: TaskHost
    reference: str
    run: str

    def spec(self, *argv: str, **more: Any) -> TaskSpec:
        return TaskSpec(run=self.run, reference=self.reference, argv=argv, **more)

    def shell(self, script: str, **more: Any) -> TaskSpec:
        return self.spec("sh", "-c", script, "{work}", **more)


@pytest.fixture(params=["local", "fake", pytest.param("docker", marks=pytest.mark.engine)])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    run = f"contract-{uuid4().hex[:8]}"
    if request.param == "local":
        yield Scene(LocalTaskHost(), "local", run)
        return
    if request.param == "fake":
        image = FakeImage(programs={"sh": lambda process: SCRIPTS[process.argv[2]](process)})
        engine: Any = FakeEngine({TINY: image})
    else:
        engine = DockerEngine()
        if engine.image(TINY) is None:
            engine.load(write_tiny(tmp_path))
    yield Scene(DockerTaskHost(engine), TINY, run)
    assert not engine.sweep(run), "something was left behind"


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def started(task: Task) -> None:
    task.start()
    until(lambda: b"started" in task.log())


def test_output_and_exit_code(scene: Scene) -> None:
    end = run_task(scene.host, scene.shell(ECHO), timeout=60)

    assert (3, None, False) == (end.exit.code, end.exit.signal, end.exit.timed_out)
    assert {b"out", b"err"} == set(end.log.split())


def test_files_go_in_and_come_out(scene: Scene) -> None:
    spec = scene.shell(COPY, env={"EXTRA": "!"})
    end = run_task(scene.host, spec, timeout=60, files={"in/x.txt": b"hello"}, file="out/result")

    assert (0, b"hello!") == (end.exit.code, end.file)


def test_a_file_that_is_missing_is_none(scene: Scene) -> None:
    assert None is run_task(scene.host, scene.shell(ECHO), timeout=60, file="nothing").file


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_files_stay_in_the_work_folder(scene: Scene, name: str) -> None:
    with scene.host.task(scene.shell(ECHO)) as task, pytest.raises(EngineError):
        task.put({name: b""})


def test_a_program_that_is_missing_gives_127(scene: Scene) -> None:
    end = run_task(scene.host, scene.spec("assay-no-such-program"), timeout=60)

    assert 127 == end.exit.code
    assert "assay-no-such-program" in end.exit.error


def test_a_program_runs_until_it_is_killed(scene: Scene) -> None:
    with scene.host.task(scene.shell(SLEEP)) as task:
        assert not task.running()
        started(task)
        running = task.running()
        task.kill("SIGTERM")
        # Process 1 of a container does not die of a signal that it does not handle.
        task.kill()
        end = task.wait(30)

        assert running
        assert end.signal in {9, 15}
        assert end.code == 128 + end.signal
        assert not task.running()
        task.kill()


@pytest.mark.parametrize("script", [SLEEP, STUBBORN], ids=["plain", "ignores-SIGTERM"])
def test_what_takes_too_long_is_ended(scene: Scene, script: str) -> None:
    with scene.host.task(scene.shell(script)) as task:
        started(task)
        end = task.wait(0.5)

        assert end.timed_out
        assert not task.running()


def test_what_still_runs_goes_with_its_context(scene: Scene) -> None:
    with scene.host.task(scene.shell(STUBBORN)) as task:
        started(task)
        work = task.work

    if scene.reference == "local":
        assert not Path(work).exists()
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if work in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_an_error_in_its_context_ends_it_too(scene: Scene) -> None:
    def fail(task: Task) -> None:
        started(task)
        raise KeyError

    with pytest.raises(KeyError), scene.host.task(scene.shell(SLEEP)) as task:
        fail(task)


def test_of_long_output_the_middle_is_left_out(scene: Scene) -> None:
    with scene.host.task(scene.shell(MUCH)) as task:
        task.start()
        task.wait(60)
        log = task.log(limit=1000)

        assert 3000 > len(log)
        assert log.startswith(b"xxx")
        assert log.rstrip().endswith(b"last")
        assert re.search(rb"\[\.\.\. \d+ bytes left out \.\.\.\]", log)
        assert 100_000 < len(task.log())


def test_output_is_reported_as_it_comes_and_ends_with_the_program(scene: Scene) -> None:
    with scene.host.task(scene.shell(SLEEP)) as task:
        task.start()
        coming = task.follow()

        assert b"started\n" == next(coming)
        task.kill()
        assert [] == list(coming)


def test_a_server_is_reported_where_to_listen(scene: Scene) -> None:
    spec = scene.shell(SLEEP, network="auto").model_copy(update={"argv": ("sh", "-c", SLEEP, "{host}", "{port}")})

    with scene.host.task(spec) as task:
        started(task)

        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", task.base)


def test_an_image_that_is_missing_is_reported(scene: Scene) -> None:
    if scene.reference == "local":
        pytest.skip("there is no image")

    spec = scene.shell(ECHO).model_copy(update={"reference": "assay/no-such:1"})
    with pytest.raises(EngineError, match="does not hold the image"), scene.host.task(spec):
        pass


def test_what_is_to_run_can_be_sent_elsewhere(scene: Scene) -> None:
    spec = scene.shell(ECHO, gpus=("0", "1"), network="host", port=8000)

    assert spec == TaskSpec.model_validate_json(spec.model_dump_json())
    assert scene.shell(ECHO, gpus="all") == TaskSpec.model_validate_json(
        scene.shell(ECHO, gpus="all").model_dump_json()
    )


PARENT = """
import time
from assay.adapters.executors.local import LocalTaskHost
from assay.ports.task import TaskSpec

argv = ("sh", "-c", "echo started; exec sleep 300", "{work}")
with LocalTaskHost().task(TaskSpec(run="r", reference="local", argv=argv, network="auto")) as task:
    task.start()
    while not task.log():
        time.sleep(0.05)
    print(task.work, flush=True)
    time.sleep(300)
"""


def test_a_local_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Killed as by the kernel: nobody is left to end a server, which would keep the GPU's memory."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(str(tmp_path))
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
        parent.wait(30)

    assert children
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
