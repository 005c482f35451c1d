"""The server's own help, and what tells the same where there is no CUDA driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from assay.adapters.files.serving import load_server_flags
from assay.pipeline.serve import server_help
from assay.ports.server import Output, RunningServer, ServerFacts, ServerSpec

ROOT = Path(__file__).parents[2]
KNOWLEDGE = load_server_flags(ROOT / "knowledge" / "server_flags.yaml")
NO_DRIVER = "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"
HELP = "usage: x [-h]\n\noptions:\n  --dtype {auto,half}  The type.\n"


class _Host:
    """An image whose server tells its help only with a driver, and whose other program does what it is told to."""

    executor: Literal["docker", "local"] = "docker"
    reference = "image:1"

    def __init__(self, other: str) -> None:
        self.asked: list[Sequence[str]] = []
        self._other = other

    def facts(self) -> ServerFacts:
        raise NotImplementedError

    def output(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Output:
        self.asked.append(argv)
        return Output(code=1, text=NO_DRIVER) if len(self.asked) == 1 else Output(code=0, text=self._other)

    @contextmanager
    def start(self, spec: ServerSpec) -> Iterator[RunningServer]:
        raise NotImplementedError
        yield

    def gpu_memory_bytes(self) -> int | None:
        return None


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_without_a_driver_flags_come_from_the_argument_parser(engine: str) -> None:
    host = _Host(HELP)

    options, text = server_help(host, KNOWLEDGE.engines[engine], (), env={})

    assert ({"dtype"}, HELP) == (set(options), text)
    assert list(KNOWLEDGE.engines[engine].help_without_driver) == list(host.asked[1])
    compile(host.asked[1][-1], "help_without_driver", "exec")


def test_missing_help_is_explained_by_the_servers_output() -> None:
    host = _Host("ModuleNotFoundError: No module named 'vllm'")

    options, text = server_help(host, KNOWLEDGE.engines["vllm"], (), env={})

    assert ({}, NO_DRIVER) == (dict(options), text)


def test_a_program_of_the_users_own_is_not_taken_for_the_engine() -> None:
    host = _Host(HELP)

    options, _ = server_help(host, KNOWLEDGE.engines["vllm"], ("my-server",), env={})

    assert {} == dict(options)
    assert 1 == len(host.asked)
