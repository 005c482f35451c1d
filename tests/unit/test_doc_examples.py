"""Python in the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{page.read_text()[: block.start()].count(chr(10)) + 1}")
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for block in re.finditer(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_docs_examples_run(code: str) -> None:
    exec(compile(code, "<example>", "exec"), {"__name__": "example"})
