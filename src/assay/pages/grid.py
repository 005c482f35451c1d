"""Format a grid as text of any width, Markdown, a web page or a badge. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from assay.audit.grid import Column, Grid, GridCell, GridRow
from assay.foundation.printable import wrapped
from assay.pages.badge import badge

__all__ = ["grid_badge", "grid_html", "grid_markdown", "grid_text"]

_WORD: Final = {
    "native": "native",
    "ptx": "PTX",
    "fails": "fails",
    "loads": "loads",
    "unread": "not read",
    "unanswered": "no answer",
}
_MEANING: Final = {
    "native": "machine code for the card",
    "ptx": "the driver compiles its code at first start",
    "fails": "it cannot work",
    "loads": "no GPU code was found; all requirements are present",
    "unread": "it may have GPU code, which was not read",
    "unanswered": "there is no such wheel",
}
_HEAD: Final = 18
"""Most characters of a column's name on one line."""


class _Notes:
    """Reasons, each told once, with a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, cell: GridCell) -> str:
        """Return a cell's word, with the number of its reason."""
        said = [text for text in (cell.reason, *cell.trouble) if text]
        text = "; ".join(said) + (f" -> {cell.fix}" if cell.fix else "")
        word = _WORD[cell.state]
        if cell.trouble:
            word += " (!)"
        return f"{word} {self._numbers.setdefault(text, len(self._numbers) + 1)}" if text else word

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return ((number, text) for text, number in self._numbers.items())


def _row_names(grid: Grid) -> list[str]:
    several = len({row.python for row in grid.rows if row.python}) > 1
    return [(row.torch or "no torch") + (f" / {row.python}" if several and row.python else "") for row in grid.rows]


def _about(grid: Grid) -> str:
    pythons = list(dict.fromkeys(row.python for row in grid.rows if row.python))
    platforms = sorted({column.platform for column in grid.columns})
    python = f"Python {pythons[0]}, " if len(pythons) == 1 else ""
    return f"{python}Linux {' and '.join(platforms)}"


def _heads(column: Column, mixed: bool) -> list[str]:
    title = wrapped(column.title, _HEAD, hang="") if column.title else []
    return [*title, column.target + (f" {column.platform}" if mixed else "")]


def grid_text(grid: Grid, width: int) -> Iterator[str]:
    """Yield the lines of a grid, at most as wide as a terminal; wide grids are split."""
    width = max(width, 40)
    notes = _Notes()
    yield from wrapped(f"{', '.join(grid.wheels)}: {grid.summary}  ({_about(grid)})", width)
    for line in grid.assumed:
        yield from wrapped(line, width, first="  ")
    yield ""
    mixed = len({column.platform for column in grid.columns}) > 1
    names = _row_names(grid)
    heads = [_heads(column, mixed) for column in grid.columns]
    marks = [[notes.mark(cell) for cell in row.cells] for row in grid.rows]
    first = max(map(len, ("torch", *names)))
    widths = [max(map(len, (*head, *(row[number] for row in marks)))) for number, head in enumerate(heads)]
    for piece in _pieces(widths, width - first):
        yield from _table(names, [heads[n] for n in piece], [[row[n] for n in piece] for row in marks], first)
        yield ""
    used = dict.fromkeys(cell.state for row in grid.rows for cell in row.cells)
    for number, text in notes:
        yield from wrapped(text, width, first=f"{number:3}  ", hang=" " * 5)
    meaning = "; ".join(f"{_WORD[state]}: {_MEANING[state]}" for state in used)
    yield from wrapped(meaning, width, hang="")


def _pieces(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield the columns that fit beside each other, two spaces before each."""
    piece: list[int] = []
    for number, one in enumerate(widths):
        if piece and sum(widths[n] + 2 for n in piece) + one + 2 > room:
            yield piece
            piece = []
        piece.append(number)
    if piece:
        yield piece


def _table(
    names: Sequence[str], heads: Sequence[Sequence[str]], marks: Sequence[Sequence[str]], first: int
) -> Iterator[str]:
    depth = max(map(len, heads))
    widths = [max(map(len, (*head, *(row[number] for row in marks)))) for number, head in enumerate(heads)]
    lines = [["", *(([""] * (depth - len(head)) + list(head))[level] for head in heads)] for level in range(depth)]
    lines[-1][0] = "torch"
    lines += [[name, *row] for name, row in zip(names, marks, strict=True)]
    for line in lines:
        yield "  ".join(text.ljust(size) for text, size in zip(line, (first, *widths), strict=True)).rstrip()


_MARKDOWN: Final = str.maketrans({**{char: f"\\{char}" for char in "\\|`*_["}, "<": "&lt;", ">": "&gt;", "@": "&#64;"})
"""GitHub's Markdown obeys these; `@name` would call somebody."""


def _md(text: str) -> str:
    """Make text harmless inside GitHub's Markdown."""
    return " ".join(text.translate(_MARKDOWN).split())


def grid_markdown(grid: Grid) -> Iterator[str]:
    """Yield the lines of a grid as GitHub shows them in a summary or a comment."""
    notes = _Notes()
    mixed = len({column.platform for column in grid.columns}) > 1
    yield f"### {_md(', '.join(grid.wheels))}: {grid.summary}"
    yield ""
    yield f"{_about(grid)}." + "".join(f" {_md(line)}." for line in grid.assumed)
    yield ""
    heads = [" <br> ".join(_md(line) for line in _heads(column, mixed)) for column in grid.columns]
    yield "| torch | " + " | ".join(heads) + " |"
    yield "| --- |" + " --- |" * len(heads)
    for name, row in zip(_row_names(grid), grid.rows, strict=True):
        marks = [_bold(cell, notes.mark(cell)) for cell in row.cells]
        yield f"| {_md(name)} | " + " | ".join(marks) + " |"
    yield ""
    for number, text in notes:
        yield f"{number}. {_md(text)}"


def _bold(cell: GridCell, mark: str) -> str:
    word, _, number = mark.rpartition(" ") if mark[-1].isdigit() else (mark, "", "")
    word = f"**{word}**" if cell.state == "fails" or cell.trouble else word
    return f"{word} ({number})" if number else word


_STYLE: Final = """
:root{color-scheme:light dark;--ok:#1a7f37;--ptx:#8a6100;--no:#b3202a;--un:#5c6670}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
div{overflow-x:auto}table{border-collapse:collapse}
th,td{padding:.4rem .8rem;text-align:left;border-bottom:1px solid #8886}
th small{display:block;font-weight:400}td b{border-radius:.3rem;padding:.1rem .5rem;color:#fff;font-weight:600}
.native b,.loads b{background:var(--ok)}.ptx b{background:var(--ptx)}.fails b{background:var(--no)}
.unread b,.unanswered b{background:var(--un)}li{margin:.3rem 0;overflow-wrap:anywhere}
"""


def grid_html(grids: Sequence[Grid]) -> str:
    """Return a page with grids: nothing is loaded, nothing runs."""
    title = "; ".join(f"{', '.join(grid.wheels)}: {grid.summary}" for grid in grids)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
    ]
    for grid in grids:
        parts += _section(grid)
    return "\n".join([*parts, "</body></html>"])


def _section(grid: Grid) -> Iterator[str]:
    notes = _Notes()
    yield f"<h1>{escape(', '.join(grid.wheels))}: {escape(grid.summary)}</h1>"
    yield "<p>" + escape(". ".join((_about(grid), *grid.assumed))) + ".</p>"
    heads = "".join(
        f'<th scope="col">{escape(column.title or column.target)}'
        f"<small>{escape(f'{column.target} {column.platform}')}</small></th>"
        for column in grid.columns
    )
    yield f'<div><table><thead><tr><th scope="col">torch</th>{heads}</tr></thead><tbody>'
    for name, row in zip(_row_names(grid), grid.rows, strict=True):
        yield f'<tr><th scope="row">{escape(name)}</th>' + _cells(row, notes) + "</tr>"
    yield "</tbody></table></div><ol>"
    for _, text in notes:
        yield f"<li>{escape(text)}</li>"
    yield "</ol>"


def _cells(row: GridRow, notes: _Notes) -> str:
    found = []
    for cell in row.cells:
        word, _, number = notes.mark(cell).rpartition(" ") if _noted(cell) else (_WORD[cell.state], "", "")
        sup = f" <sup>{number}</sup>" if number else ""
        found.append(f'<td class="{cell.state}"><b>{escape(word)}</b>{sup}</td>')
    return "".join(found)


def _noted(cell: GridCell) -> bool:
    return bool(cell.reason or cell.trouble or cell.fix)


_COLOUR: Final = {"ok": "#1a7f37", "warn": "#8a6100", "fail": "#b3202a"}


def grid_badge(grids: Sequence[Grid]) -> str:
    """Return a badge with the number of working combinations."""
    worst = next((grid for verdict in ("fail", "warn") for grid in grids if grid.verdict.value == verdict), grids[0])
    label = ", ".join(dict.fromkeys(name.partition(" ")[0] for grid in grids for name in grid.wheels))
    return badge(label, worst.summary, _COLOUR[worst.verdict.value]).decode()
