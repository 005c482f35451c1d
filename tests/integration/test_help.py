"""The help loads no client, no template engine and no model, and takes the CPU for less than a blink."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from assay.cli import COMMANDS

HEAVY = {
    "docker",
    "httptools",
    "jinja2",
    "packaging",
    "pydantic",
    "requests",
    "rich",
    "securesystemslib",
    "urllib3",
    "yaml",
}
PROGRAM_SECONDS, COMMAND_SECONDS = 0.15, 0.25
"""CPU time: what other processes take meanwhile does not count."""
PROGRAM = """
import contextlib, io, json, sys
from assay.cli import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    try:
        main(sys.argv[1:])
    except SystemExit:
        pass
assert "Usage: assay" in said.getvalue()
print(json.dumps(sorted({*sys.modules})))
"""


def loaded(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def cpu_seconds(words: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_of_the_program_loads_no_command() -> None:
    modules = loaded("--help")

    assert set() == modules & (HEAVY | {f"assay.cli.{module}" for module, _ in COMMANDS.values()})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    modules = loaded(command, "--help")

    assert set() == modules & HEAVY


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_fast(command: str) -> None:
    words = [sys.executable, "-m", "assay", *filter(None, [command]), "--help"]
    limit = PROGRAM_SECONDS if not command else COMMAND_SECONDS

    assert min(cpu_seconds(words) for _ in range(3)) < limit
