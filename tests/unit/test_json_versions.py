"""Every document of `--format json` has a version, and fits the schema that is published for it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import jsonschema
import pytest
from json_cases import CASES
from schema_tools import ANSWERS, answers, fits
from terminal_tools import OTHER, project

from assay.cli import COMMANDS, main
from assay.cli import root as root_command
from assay.pipeline.schema import OUTPUTS
from assay.ports.pools import PoolItem

__all__ = ["project"]

CLI: Final = Path(__file__).parents[2] / "src/assay/cli"
FOREIGN: Final = {"audit.py": "SARIF", "outermost.py": "errors, which no model may hinder"}
"""Modules that write JSON without a model, and what it is."""


def with_json() -> Iterator[str]:
    """Yield the commands that write JSON where an option says so."""
    context = click.Context(root_command)
    for name in COMMANDS:
        command = root_command.get_command(context, name)
        assert command is not None
        parts = {name: command}
        if isinstance(command, click.Group):
            parts = {f"{name} {part}": one for part, one in command.commands.items()}
        for whole, one in parts.items():
            if any("json" in getattr(option.type, "choices", ()) for option in one.params):
                yield whole


def test_every_command_with_json_has_a_schema() -> None:
    described = {words.partition(" --")[0].removesuffix(" FILE").removesuffix(" RUN") for words in ANSWERS.values()}

    assert described == set(with_json())
    assert set(CASES) == set(ANSWERS), "every document is written by a test"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_json_document_fits_its_schema(
    name: str, case: str | Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(case, str):
        main([*case.split(), "--format", "json"])
    else:
        case()
    written = json.loads(capsys.readouterr().out)
    fits(written, name)
    version = "schema_version" if "schema_version" in written else "version"

    assert 1 == written[version]
    for other in ({**written, version: 2}, {**written, "unknown": 1}, {"version": 1}):
        with pytest.raises(jsonschema.ValidationError):
            fits(other, name)


@pytest.mark.usefixtures("project")
def test_json_document_of_pools_fits_its_schema(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = (
        PoolItem(name="login", ok=False, found="no answer", mend="ssh login"),
        PoolItem(name="x", ok=None, found=""),
    )
    monkeypatch.setattr("assay.cli.pool_composition.pool_inventories", lambda *_: [("lab", items)])

    assert 1 == main(["doctor", "--pools", "--format", "json"])

    written = json.loads(capsys.readouterr().out)
    answers(written, "doctor", "--pools")
    assert ["lab", "lab"] == [one["pool"] for one in written["pools"]]


@pytest.mark.usefixtures("project")
def test_json_plan_names_the_values_of_a_point_and_the_tag(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", OTHER, "--format", "json"])
    (cell,) = json.loads(capsys.readouterr().out)["cells"]

    assert {"cuda": "13.0", "torch": "2.14.0"}.items() <= cell["point"].items()
    assert OTHER == cell["tag"]


def test_every_schema_is_named_in_the_reference(root: Path) -> None:
    page = (root / "docs/reference/json.md").read_text()

    assert [] == [name for name in OUTPUTS if f"../../schemas/{name}" not in page]


def test_commands_write_typed_documents() -> None:
    callers = {
        path.name
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "console.json_data"
    }

    assert set(FOREIGN) == callers, "write a model with console.document, so that it has a schema"
