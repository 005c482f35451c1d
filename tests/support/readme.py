"""The commands that the README tells a reader to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["typed"]

README = Path(__file__).parents[2] / "README.md"


def typed(heading: str) -> list[list[str]]:
    """Return the commands below a heading, as words; comments and prompts are left out."""
    section = README.read_text().split(f"### {heading}\n", 1)[1].split("\n##", 1)[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
