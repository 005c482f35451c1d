"""All printing: data to stdout, everything said to people to stderr; NO_COLOR, CI and pipes are honoured.

Rich is imported where something is coloured: a plain line needs none of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["STYLES", "data", "data_table", "err", "fail", "json_data", "out", "say", "warn"]

_LEAST_LAST: Final = 30
"""Characters that the last column of a table needs at least, if it has them."""

STYLES: Final = {
    "works": "green", "ok": "green", "built": "green", "cached": "green",
    "degraded": "yellow", "warn": "yellow", "warning": "yellow", "inconclusive": "yellow", "timed_out": "yellow",
    "wrong": "red bold", "broken": "red", "fail": "red", "failed": "red", "error": "red", "refused": "magenta",
    "unsupported": "blue", "not_run": "dim", "aborted": "dim", "engine_failed": "yellow",
}  # fmt: skip


_CONTROL: Final = dict.fromkeys(map(ord, "\a\b\v\f\r"))
"""What a terminal would obey, and a text that is taken literally must not say."""


def _console(*, stderr: bool) -> Console:
    from rich.console import Console  # noqa: PLC0415

    stream = sys.stderr if stderr else sys.stdout
    # Piped output keeps whole lines: a table that is cut to 80 columns is useless to grep.
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "500"))
    return Console(stderr=stderr, width=width, soft_wrap=False, highlight=False)


def out() -> Console:
    """The console for data (stdout)."""
    return _console(stderr=False)


def err() -> Console:
    """The console for people (stderr)."""
    return _console(stderr=True)


def say(text: str = "") -> None:
    """Tell a person something, on stderr; the text is taken literally."""
    sys.stderr.write(text.translate(_CONTROL) + "\n")


def fail(text: str, *, hint: str | None = None) -> None:
    """Tell a person of an error and what to try, on stderr."""
    from rich.markup import escape  # noqa: PLC0415

    err().print(f"[red]error:[/] {escape(text)}", soft_wrap=True)
    if hint:
        err().print(f"  [bold]try:[/] {escape(hint)}", soft_wrap=True)


def warn(text: str) -> None:
    """Warn a person, on stderr."""
    from rich.markup import escape  # noqa: PLC0415

    err().print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def data(text: str) -> None:
    """Write data to stdout exactly as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def json_data(value: Any) -> None:
    """Write one JSON document to stdout."""
    data(json.dumps(value, indent=1, ensure_ascii=False))


def styled(word: str) -> Text:
    """Return a word in the colour of its meaning."""
    from rich.text import Text  # noqa: PLC0415

    return Text(word, style=STYLES.get(word.rsplit(maxsplit=1)[-1] if word else "", ""))


def data_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table to stdout; words with a meaning (outcomes, verdicts) are coloured.

    The last column may wrap. Where the others alone do not fit into the terminal, each row becomes a block: its first
    value on a line of its own, the rest below it.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table_rows = [tuple(row) for row in rows]
    console = out()
    widths = [max((len(row[n]) for row in table_rows), default=0) for n in range(len(columns))]
    fixed = [max(width, len(column)) + 3 for width, column in zip(widths[:-1], columns[:-1], strict=True)]
    if sum(fixed) + min(widths[-1], _LEAST_LAST) > console.width:
        _blocks(console, columns, table_rows, title)
        return
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position < len(columns) - 1)
    for row in table_rows:
        table.add_row(*(styled(value) for value in row))
    console.print(table)


def _blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    from rich.text import Text  # noqa: PLC0415

    if title:
        console.print(Text(title, style="italic"))
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        line = Text("  ")
        for column, value in zip(columns[1:], row[1:], strict=True):
            if value:
                line.append(f"  {column}: ", style="dim")
                line.append_text(styled(value))
        console.print(line, soft_wrap=True)
