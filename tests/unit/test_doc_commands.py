"""Command lines in the documentation are of commands and options that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from doc_commands import LINE, wrong

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(assay [^`\n]+)`")


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
