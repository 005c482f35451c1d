"""The server's own help, and what tells the same where there is no CUDA driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.docker.fake_engine import FakeEngine, FakeImage, Process
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.files.serving import load_server_flags
from assay.pipeline.serve import container_job, server_help

ROOT = Path(__file__).parents[2]
KNOWLEDGE = load_server_flags(ROOT / "knowledge" / "server_flags.yaml")
JOB = container_job("image:1", run="r", gpus=())
NO_DRIVER = "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"
HELP = "usage: x [-h]\n\noptions:\n  --dtype {auto,half}  The type.\n"


class _Image:
    """An image whose server tells its help only with a driver, and whose other program does what it is told to."""

    def __init__(self, other: str) -> None:
        self.asked: list[list[str]] = []
        self._other = other
        programs = dict.fromkeys(("python3", "python", "vllm", "sglang", "my-server"), self._run)
        self.host = DockerTaskHost(FakeEngine({"image:1": FakeImage(programs=programs)}))

    def _run(self, process: Process) -> int:
        self.asked.append(list(process.argv))
        process.print(NO_DRIVER if len(self.asked) == 1 else self._other)
        return 1 if len(self.asked) == 1 else 0

    def help_of(self, engine: str, program: tuple[str, ...] = ()) -> tuple[set[str], str]:
        options, text = server_help(self.host, JOB, KNOWLEDGE.engines[engine], program, env={})
        return set(options), text.strip()


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_without_a_driver_flags_come_from_the_argument_parser(engine: str) -> None:
    image = _Image(HELP)

    assert ({"dtype"}, HELP.strip()) == image.help_of(engine)
    assert list(KNOWLEDGE.engines[engine].help_without_driver) == image.asked[1]
    compile(image.asked[1][-1], "help_without_driver", "exec")


def test_missing_help_is_explained_by_the_servers_output() -> None:
    assert (set(), NO_DRIVER) == _Image("ModuleNotFoundError: No module named 'vllm'").help_of("vllm")


def test_a_program_of_the_users_own_is_not_taken_for_the_engine() -> None:
    image = _Image(HELP)

    assert set() == image.help_of("vllm", ("my-server",))[0]
    assert 1 == len(image.asked)
