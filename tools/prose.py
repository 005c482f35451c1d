"""Checks the project's English: `python tools/prose.py [FILE...]`, by default all docs, sources and tests.

The rules are small: words that this project once used in place of the field's terms, sentences that are too long to
follow, and lines that are too long to read. Code blocks, inline code and link targets are not checked.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
MOST_WORDS: Final = 40
"""Words in a sentence of the documentation."""
MOST_CHARACTERS: Final = 300
"""Characters in a line of the documentation."""
INSTEAD: Final[dict[str, str]] = {
    # what not to write (a regular expression): what to write
    r"for want of": "because ... is missing",
    r"as (it|they) must( be)?(?! not)": "failing, as expected",
    r"(is|are|was|were) meant(?! (for|to)\b)": "selected, intended",
    r"who(ever)? has this": "name the component",
    r"(is|are|be) let be": "is left unchanged",
    r"mends?|mended|mending": "fix, fixed",
    r"(is|are|was|were) passed over|passed over for": "skipped, ignored",
    r"cannot be had": "is not available",
    r"(was|is|were|are) learnt": "cached, read",
    r"not to know": "unknown",
    r"in slow hours": "(leave it out)",
    r"(much|little|nothing|what) is known of": "the facts of, recorded for",
    r"a stranger|strangers": "untrusted, third party",
    r"reckon(s|ed|ing)?": "calculate",
    r"be it said|it is said of": "(leave it out)",
    r"to and fro": "between",
    r"looks? over this": "check this",
    r"before a byte is": "before",
    r"is what it would be|are what they would be": "is up to date",
    r"(have|has|had) to be true on": "targets",
    r"weighs more": "outranks",
    r"(?<!there )is no (wheel|record|version|number|size|day|document|ELF file|platform|distribution)": "is not a ...",
    r"exist already|has (this|that|it) already|is up already": "already exist, already has",
    r"(does|do|is|has) not [a-z]+ any more": "no longer",
    r"(jobs|workers|runs) (that [a-z ]+ )?go on": "continue",
    r"(was|were) put (at|to)": "was pushed to, was set to",
    r"is (said|told|asked) of": "(leave it out)",
    r"(says?|tells?|told) nothing of": "says nothing about, gives no result for",
    r"(that|which) (is|are) none (is|are)": "that is invalid",
    r"stands? twice": "occurs twice",
    r"nothing is said": "nothing is known, nothing is recorded",
    r"bugs? of assay": "bug in assay",
    r"(may|must|can) (also )?stand (after|before)": "works after, precedes",
    r"was sought|is sought": "find",
}
_WORDS: Final = {re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE): advice for pattern, advice in INSTEAD.items()}
_CODE: Final = re.compile(r"`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>|https?://\S+")
_BLOCK: Final = re.compile(r"\s*([-*+]|\d+\.|#+|>)\s|\s*\|")
_SENTENCE: Final = re.compile(r"(?<=[.!?;:])[)\"'*]*\s+")


class Problem(NamedTuple):
    """A place where the text breaks a rule."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def dialect(path: Path, line: int, text: str) -> Iterator[Problem]:
    """Yield the words of a text that have a plain replacement."""
    for pattern, advice in _WORDS.items():
        for found in pattern.finditer(text):
            yield Problem(path, line + text.count("\n", 0, found.start()), f"{found[0]!r}; write: {advice}")


def markdown(path: Path, text: str) -> Iterator[Problem]:
    """Yield the problems of a page of documentation."""
    for line, block in _blocks(text):
        yield from dialect(path, line, block)
        for sentence in _SENTENCE.split(" ".join(block.split())):
            for part in sentence.split(" | "):
                if (words := len(part.split())) > MOST_WORDS:
                    yield Problem(path, line, f"a sentence of {words} words: {part[:60]}...")
    for number, line_text in enumerate(text.splitlines(), 1):
        if len(line_text) > MOST_CHARACTERS:
            yield Problem(path, number, f"a line of {len(line_text)} characters")


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield paragraphs, items of lists and rows of tables with their first line, without code."""
    fenced = False
    start = 1
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        if fenced or fence or not line.strip() or _BLOCK.match(line):
            if lines:
                yield start, "\n".join(lines)
            start, lines = number, []
        if fence:
            fenced = not fenced
        elif not fenced and line.strip():
            lines.append(_CODE.sub("`", line))


def python(path: Path, text: str) -> Iterator[Problem]:
    """Yield the problems of a module: in its strings, docstrings and the names of its tests."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from dialect(path, node.lineno, _CODE.sub("`", node.value))
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield from dialect(path, node.lineno, node.name.replace("_", " "))


def problems(paths: Sequence[Path]) -> Iterator[Problem]:
    """Yield the problems of Markdown files and Python modules."""
    for path in paths:
        check = markdown if path.suffix == ".md" else python
        yield from check(path, path.read_text(encoding="utf-8"))


def everything() -> list[Path]:
    """Return the files that are checked by default; records describe what was measured and are not edited."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    modules = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "noxfile.py"]
    skipped = {ROOT / "docs" / "records", ROOT / "tests" / "data", ROOT / "tests" / "unit" / "test_prose.py"}
    return sorted(path for path in [*pages, *modules] if not skipped & {path, *path.parents})


def main(arguments: Sequence[str]) -> int:
    """Print the problems of the named files, or of all; return 1 if there are any."""
    found = list(problems([Path(word) for word in arguments] or everything()))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
