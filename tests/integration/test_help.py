"""A verb's --help loads no client, no template engine and, where its options need none, no model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from assay.cli import COMMANDS

HEAVY = {"docker", "httptools", "jinja2", "packaging", "requests", "rich", "securesystemslib", "urllib3", "yaml"}
# The choices of their options are those of an engine, an executor, a stage or a kind of change.
WITH_MODELS = {"bench", "diagnose", "diff", "launch", "probe", "serve-check", "up"}
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


def test_help_of_the_program_loads_no_command() -> None:
    modules = loaded("--help")

    assert set() == modules & (HEAVY | {"pydantic"} | {f"assay.cli.{module}" for module, _ in COMMANDS.values()})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    modules = loaded(command, "--help")

    assert set() == modules & HEAVY - ({"packaging", "yaml", "urllib3"} if command in WITH_MODELS else set())
    assert command in WITH_MODELS or "pydantic" not in modules
