"""Words of a log that are quoted and not reported: commands, program text in tracebacks, and what users and models say.

A log is written by programs, and programs show other texts: the command that a build runs, the source line of a
traceback's frame, the prompt of a request. A failure that is named there has not happened there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from assay.diagnose.text import peel

__all__ = ["FRAMES_BEFORE", "Quote", "quoted"]

Quote = Literal["command", "source", "data"]

FRAMES_BEFORE: Final = 8
"""So many lines before a line tell whether it belongs to a traceback's frame."""

_COMMAND: Final = re.compile(
    r"(?:\+{1,5} (?![\w.-]+==)|\$ |>>> |\#(?!\d+\s|error)|//|/\*|echo |printf |grep |RUN |COPY |CMD |"
    r"ENTRYPOINT |LABEL |ENV |> \[|"
    r"\d+ \|\s+(?:>>>\s+)?[A-Z]{3,10} |\[(?:[\w.-]+\s+)?\d+/\d+\]\s+(?:RUN|COPY|ADD|FROM) )"
)
_SOURCE: Final = re.compile(
    r"(?:raise |assert |if |elif |print\(|logger\.|logging\.|log\.|pytest\.raises|match=|\"\"\"|'''|\d+ \| )"
)
_FRAME: Final = re.compile(r'(\s*)File "[^"]*", line \d+')
_MARKS: Final = re.compile(r"\s+[~^]+\s*$")
_PROCESS: Final = re.compile(r'process ".*?" did not complete')

# A string that is the value of a name, as `repr` and JSON write objects: text='...', "content": "...".
_VALUE: Final = re.compile(r"""(?<![\w'"])(['"]?)([A-Za-z_]\w*)\1\s*[=:]\s*\[?(['"])""")
# Names under which programs report what happened to themselves; strings under all other names are data that passes
# through: prompts, answers, options.
_REPORTS: Final = re.compile(
    r"(?i:\w*(?:error|exception)|log|msg|message|err\w*|exc\w*|reason|detail\w*|cause|description|stack\w*|traceback|stderr|stdout|"
    r"event|status|last_error|caused_by|warning|output|what)$"
)
_END: Final = {quote: re.compile(rf"(?:[^\\{quote}]|\\.)*?{quote}", re.DOTALL) for quote in "'\""}


def _in_value(text: str, at: int) -> bool:
    """Return whether the place stands in a string that is data: the value of a name that does not report."""
    start = 0
    while (value := _VALUE.search(text, start, at)) is not None:
        end = _END[value[3]].match(text, value.end())
        if end is None or end.end() > at:
            if not _REPORTS.match(value[2]):
                return True
            # The words of a report may hold names and strings of their own.
            start = value.end()
        else:
            start = end.end()
    return False


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _in_frame(inner: str, before: Sequence[str]) -> bool:
    """Return whether a line is the program text below a `File "...", line N` of a traceback."""
    if _FRAME.match(inner):
        return True
    depth = _indent(inner)
    for line in reversed(before):
        above = peel(line)
        if frame := _FRAME.match(above):
            return depth > len(frame[1])
        if not _MARKS.match(above) and _indent(above) < min(depth, 2):
            return False
    return False


def quoted(text: str, at: int, before: Sequence[str] = ()) -> Quote | None:
    """Return whether the words at `at` are quoted and not reported; `before` are the lines above.

    `command`: part of a shell command, an instruction of a Dockerfile or a comment; `source`: program text, as
    tracebacks and compilers show it (the message itself usually follows); `data`: what a program handles, for example
    a user's prompt in a server's log.
    """
    peeled = peel(text)
    inner = peeled.lstrip()
    if _COMMAND.match(inner):
        return "command"
    process = _PROCESS.search(text)
    if process and process.start() + len('process "') <= at < process.end() - len('" did not complete'):
        return "command"
    if before and peeled[:1] in " \t" and _in_frame(peeled, before):
        return "command"
    if _in_value(text, at):
        return "data"
    return "source" if _SOURCE.match(inner) else None
