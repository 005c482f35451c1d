"""All printing: data to stdout, messages to stderr; NO_COLOR, CI and pipes are honoured.

Every text passes `assay.foundation.printable` on its way, so that no foreign text can command the terminal. Rich is
imported where something is coloured: a plain line needs none of it. What cannot be written to stderr is lost, and so
is what a reader of stdout has hung up on; any other failure to write stdout is an error.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, TextIO, cast

from assay.errors import OutputError
from assay.foundation.printable import json_text, one_line, printable, wrapped
from assay.foundation.secret import hide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from assay.foundation.strict import Value

__all__ = [
    "STYLES",
    "abandon",
    "answered",
    "at_terminal",
    "begin",
    "data",
    "data_table",
    "document",
    "err",
    "fail",
    "flush",
    "json_data",
    "out",
    "paragraphs",
    "say",
    "shows_progress",
    "status",
    "talk",
    "warn",
    "width",
]

_LEAST_LAST: Final = 30
"""Characters that the last column of a table needs at least, if it has them."""

STYLES: Final = {
    "works": "green", "ok": "green", "built": "green", "cached": "green",
    "degraded": "yellow", "warn": "yellow", "warning": "yellow", "inconclusive": "yellow", "timed_out": "yellow",
    "wrong": "red bold", "broken": "red", "fail": "red", "failed": "red", "error": "red", "refused": "magenta",
    "unsupported": "blue", "not_run": "dim", "aborted": "dim", "engine_failed": "yellow", "registry_failed": "yellow",
}  # fmt: skip


_NARROWEST: Final = 20
"""Columns below which text is not wrapped further: a character per line is nothing to read, and takes minutes."""
_PIPED_WIDTH: Final = 500
"""Columns of piped output: a table that is cut to 80 columns is useless to grep."""


class _Sink(io.TextIOBase):
    """A standard stream for rich and for plain lines alike; looked up at each write, as tests and pipes replace it."""

    def __init__(self, *, stderr: bool, direct: bool = False) -> None:
        self._stderr = stderr
        self._direct = direct
        """Past what a live table puts in the stream's place: for rich itself."""

    @property
    def _stream(self) -> TextIO | None:
        stream = sys.stderr if self._stderr else sys.stdout
        return getattr(stream, "rich_proxied_file", stream) if self._direct else stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return at_terminal(self._stream)

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, "the stream is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._guarded(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._guarded(lambda stream: stream.flush())

    def _guarded(self, action: Callable[[TextIO], object]) -> None:
        stream = self._stream
        try:
            if stream is not None:
                action(stream)
            elif not self._stderr:
                raise OutputError("standard output is closed", hint=_REDIRECT)
        except (OSError, ValueError) as error:
            if self._stderr or isinstance(error, BrokenPipeError):
                # Nobody can be told; what is left in the buffer must not fail again when Python ends. A reader that
                # has read enough (head, less) is not a failure, and a command's exit code is still its answer.
                abandon(stream)
                return
            why = error.strerror if isinstance(error, OSError) else "it is closed"
            raise OutputError(f"standard output cannot be written: {why}", hint=_REDIRECT) from error


def abandon(stream: TextIO | None) -> None:
    """Discard the rest of a stream that cannot be written, so that Python exits without a message."""
    with suppress(AttributeError, OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(null)


_REDIRECT: Final = "write to a file on a disk with space: > FILE"
_OUT: Final = _Sink(stderr=False)
_ERR: Final = _Sink(stderr=True)


def _sensible(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6 and _NARROWEST <= int(text) <= 10_000


def _environment() -> dict[str, str]:
    """Return the environment without sizes of a terminal that are no sensible numbers, and without empty wishes.

    rich before 13.9.3 takes an empty FORCE_COLOR for a wish.
    """
    sizes, wishes = {"COLUMNS", "LINES"}, {"FORCE_COLOR", "TTY_COMPATIBLE"}
    return {
        name: value
        for name, value in os.environ.items()
        if (name not in sizes or _sensible(value)) and (name not in wishes or value)
    }


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    sink = _Sink(stderr=stderr, direct=True)
    environment = _environment()
    width = None if sink.isatty() else int(environment.get("COLUMNS", _PIPED_WIDTH))
    console = Console(file=cast("IO[str]", sink), width=width, soft_wrap=False, highlight=False, _environ=environment)
    console.width = max(_NARROWEST, console.width)
    return console


def out() -> Console:
    """The console for data (stdout)."""
    return _console(stderr=False)


def err() -> Console:
    """The console for people (stderr)."""
    return _console(stderr=True)


_TALK: Final = {"quiet": False, "progress": True, "answered": False}


def talk(*, quiet: bool, progress: bool) -> None:
    """Set whether messages and progress are printed; warnings and errors always are."""
    _TALK.update(quiet=quiet, progress=progress and not quiet)


def begin() -> None:
    """Forget that an earlier command line of this process wrote data."""
    _TALK["answered"] = False


def answered() -> bool:
    """Return whether the command line wrote data."""
    return _TALK["answered"]


def shows_progress() -> bool:
    """Return whether progress is printed."""
    return _TALK["progress"]


def say(text: str = "", *, hang: int | None = None) -> None:
    """Print a message to stderr; the text is taken literally.

    Args:
        hang: wrap it at spaces to the width of the terminal, and indent its further lines by so many columns.
    """
    if _TALK["quiet"]:
        return
    shown = printable(text)
    _ERR.write((shown if hang is None else "\n".join(wrapped(shown, width(), hang=" " * hang))) + "\n")


def fail(text: str, *, hint: str | None = None) -> None:
    """Print an error and a hint to stderr."""
    _headed("error:", "red", text)
    if hint:
        _headed("  try:", "bold", hint)


def warn(text: str) -> None:
    """Warn a person, on stderr."""
    _headed("warning:", "yellow", text)


def status(word: str, text: str, *, width: int = 9, style: str | None = None) -> None:
    """Print a status word in its colour and a text to stderr."""
    if _TALK["quiet"] and word not in {"fail", "failed", "warn", "refused"}:
        return
    from rich.text import Text

    chosen = STYLES.get(word, "") if style is None else style
    shown = Text.assemble((f"{one_line(word):{width}}", chosen), f" {one_line(text)}")
    err().print(shown, soft_wrap=True)


def _headed(head: str, style: str, text: str) -> None:
    from rich.text import Text

    # A text of several lines stays below its head, so that none of them reads as a message of its own.
    lines = [line if line.startswith(" ") or number == 0 else f"  {line}" for number, line in _numbered(text)]
    err().print(Text.assemble((head, style), f" {chr(10).join(lines)}"), soft_wrap=True)


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    return enumerate(printable(hide(text)).split("\n"))


def data(text: str) -> None:
    """Write data to stdout; control characters are made visible."""
    _TALK["answered"] = True
    shown = printable(text)
    _OUT.write(shown if shown.endswith("\n") else shown + "\n")


def width() -> int | None:
    """Return the columns that text on stdout may take; None for a pipe, whose lines are whole."""
    columns = _environment().get("COLUMNS")
    if columns is None and _OUT.isatty():
        with suppress(OSError):
            size = os.get_terminal_size(_OUT.fileno()).columns
            return max(_NARROWEST, size) if size else None
    return int(columns) if columns else None


def paragraphs(text: str, *, hang: int = 2) -> None:
    """Write text to stdout, each of its lines wrapped at spaces to the width of the terminal.

    Args:
        text: its lines are paragraphs.
        hang: by how much more than its first line the rest of a paragraph is indented.
    """
    columns = width()
    for line in printable(text).removesuffix("\n").split("\n"):
        space = len(line) - len(line.lstrip(" ")) + hang
        data("\n".join(wrapped(line, columns, hang=" " * space)))


def document(value: Value, *, sparse: bool = False) -> None:
    """Write what a command answers to stdout as JSON; its type is in `assay.pipeline.schema`, with a JSON Schema.

    Args:
        sparse: leave out fields that have their default.
    """
    json_data(value.model_dump(mode="json", by_alias=True, exclude_defaults=sparse))


def json_data(value: Any) -> None:
    """Write JSON of a foreign format to stdout; documents of our own are written by `document`."""
    data(json_text(value))


def at_terminal(*streams: TextIO | None) -> bool:
    """Return whether all of these standard streams are open, and a person is at them; a closed one is None."""
    return all(stream is not None and stream.isatty() for stream in streams)


def flush() -> None:
    """Write out what is buffered for stdout.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout is not None:
        _OUT.flush()


def styled(word: str) -> Text:
    """Return a word in the colour of its meaning."""
    from rich.text import Text

    return Text(one_line(word), style=STYLES.get(word.rsplit(maxsplit=1)[-1] if word else "", ""))


def data_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table to stdout; words with a meaning (outcomes, verdicts) are coloured.

    The last column may wrap at spaces. Where the others do not fit into the terminal beside it, each row becomes a
    block: its first value on a line of its own, the rest below it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table

    columns = [one_line(column) for column in columns]
    table_rows = [tuple(map(one_line, row)) for row in rows]
    console = out()
    if title:
        _lines(console, one_line(title), style="italic")
    widths = [max(map(cell_len, values)) for values in zip(columns, *table_rows, strict=True)]
    word = max(
        cell_len(word) for text in (columns[-1], *(row[-1] for row in table_rows)) for word in (text.split() or [""])
    )
    if sum(widths[:-1]) + 3 * len(widths) - 1 + max(word, min(widths[-1], _LEAST_LAST)) > console.width:
        _blocks(console, columns, table_rows)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position < len(columns) - 1)
    for row in table_rows:
        table.add_row(*(styled(value) for value in row))
    console.print(table)


def _blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.text import Text

    space = " " * 4
    for row in rows:
        _lines(console, row[0], style="bold")
        line = Text()
        for column, value in zip(columns[1:], row[1:], strict=True):
            piece = Text.assemble((f"{column}: " if column else "", "dim"), styled(value))
            if not value:
                continue
            if line and len(space) + len(line) + 2 + len(piece) <= console.width:
                line.append("  ").append_text(piece)
                continue
            if line:
                console.print(space, line, sep="", soft_wrap=True)
            line = piece
            if len(space) + len(piece) > console.width:
                parts = wrapped(piece.plain, console.width, first=space, hang=f"{space}  ")
                console.print(*map(Text, parts), sep="\n", soft_wrap=True)
                line = Text()
        if line:
            console.print(space, line, sep="", soft_wrap=True)


def _lines(console: Console, text: str, *, style: str) -> None:
    from rich.text import Text

    for line in wrapped(text, console.width):
        console.print(Text(line, style=style), soft_wrap=True)
