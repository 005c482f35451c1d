"""Command lines in the documentation are of commands and options that exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from assay.cli import COMMANDS

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(assay [^`\n]+)`")
# A command line ends where the shell begins another, or where a comment does.
LINE = re.compile(r"(?:^|[\s(])assay ([a-z][a-z-]*)((?:[^\n|&;#`)]|(?<=\S)[#])*)", re.MULTILINE)


def pages() -> list[Path]:
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def in_markdown(text: str) -> Iterator[str]:
    for block in FENCE.finditer(text):
        yield block[1].replace("\\\n", " ")
    for found in INLINE.finditer(text):
        yield found[1]


def in_workflow(text: str) -> Iterator[str]:
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            yield str(step.get("run", "")).replace("\\\n", " ")


def wrong(script: str) -> Iterator[str]:
    """Yield what is not there of the commands in a script."""
    for name, rest in LINE.findall(script):
        if name not in COMMANDS:
            yield f"assay {name}"
            continue
        command: click.Command = importlib.import_module(f"assay.cli.{COMMANDS[name][0]}").command
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*)", rest):
            if option not in known | {"--help"}:
                yield f"assay {name} {option}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_in_a_page_exist(page: Path) -> None:
    assert [] == [one for script in in_markdown(page.read_text()) for one in wrong(script)]


def test_the_workflow_runs_what_exists() -> None:
    text = (ROOT / "docs" / "examples" / "github-actions.yml").read_text()
    scripts = list(in_workflow(text))

    assert [] == [one for script in scripts for one in wrong(script)]
    assert {"plan", "audit", "build", "publish", "probe"} <= {
        name for script in scripts for name, _ in LINE.findall(script)
    }


def test_unknown_commands_and_options_are_found() -> None:
    assert ["assay verify --no-such", "assay fly"] == list(wrong("assay verify X --no-such\nassay fly"))
