"""Lines as people should read them: colours, control characters, logger prefixes and levels."""

from __future__ import annotations

import re
from typing import Final, Literal

__all__ = ["ESCAPE", "TRIED", "Level", "Quote", "clean", "level_of", "peel", "quoted"]

Level = Literal["error", "warning", "info"]
Quote = Literal["command", "source"]

# CSI, OSC and the two-byte escapes of ECMA-48; also what is left of them where a log tool dropped the ESC byte.
ESCAPE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_MAX: Final = 400

_PREFIX: Final = re.compile(
    r"""(?:
      \#\d+\s(?:\d+\.\d+\s)?                                       # BuildKit, plain progress
    | \d+\.\d+\s(?=\S)                                             # BuildKit, the excerpt under an error
    | \((?:[\w.]+\s)+pid=\d+(?:,\s*[\w.=]+)*\)\s                   # vLLM and Ray workers
    | [\w.-]+-\d+\s+\|\s                                           # compose
    | \[rank\d+\]:(?:\[[A-Z]\d+[^\]]*\])?\s?
    | \[?\d{4}-\d\d-\d\d[T\s]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?:\s[A-Z]{2,3}\d+)*\]?\s+(?:--\s*)?
    | (?:TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL):?\s+(?:\d\d-\d\d\s\d\d:\d\d:\d\d\s)?
      (?:\[[\w./]+:\d+\]\s|[\w./]+\.py:\d+\]\s)?
    | \|\s(?:TRACE|DEBUG|INFO|WARNING|ERROR|stderr|stdout)\s*\|\s
    | [│|╰╭]─?[─▶>]*\s+
    )""",
    re.VERBOSE,
)
_LEVEL: Final = re.compile(
    r"\b(?P<error>ERROR|CRITICAL|FATAL|E\d{4})\b|\b(?P<warning>WARNING|WARN|W\d{4})\b|"
    r"\b(?P<info>INFO|DEBUG|TRACE|NOTICE)\b|^\s*(?P<mild>warning:|WARN\b)|\bnvcc (?P<nvcc>warning)\b"
)
_COMMAND: Final = re.compile(
    r"(?:\+{1,5} (?![\w.-]+==)|\$ |>>> |\#(?!\d+\s|error)|//|/\*|echo |printf |grep |RUN |COPY |CMD |"
    r"ENTRYPOINT |LABEL |ENV |> \[|\d+ \| (?:>>> )?[A-Z]{3,10} |\[(?:[\w.-]+\s+)?\d+/\d+\]\s+(?:RUN|COPY|ADD|FROM) )"
)
_SOURCE: Final = re.compile(
    r"(?:raise |assert |if |elif |print\(|logger\.|logging\.|log\.|pytest\.raises|match=|\"\"\"|''')"
)
# Autotuners try candidates that this GPU cannot run, say so as an error, and take another one: FlashInfer's profiler
# (flashinfer-ai/flashinfer#2077) and Inductor's (pytorch/torchtitan#1437). Nothing has failed.
TRIED: Final = re.compile(r"\[Autotuner\]:? .*[Ss]kipping|\bSkipping tactic\b|\bfor benchmark choice\b")
_PROCESS: Final = re.compile(r'process ".*?" did not complete')


def clean(data: bytes | str) -> str:
    """Return one line for showing: UTF-8 or replaced, no escapes, no controls, at most 400 characters."""
    text = (ESCAPE.sub(b"", data).decode("utf-8", "replace")) if isinstance(data, bytes) else data
    text = _CONTROL.sub("", text.replace("\t", " ")).rstrip()
    return text if len(text) <= _MAX else text[: _MAX - 1] + "…"


def peel(text: str) -> str:
    """Return the line without the prefixes of build tools and loggers."""
    for _ in range(5):
        match = _PREFIX.match(text.lstrip() if text[:1] in " \t" and _PREFIX.match(text.lstrip()) else text)
        if not match or not match.end():
            break
        text = text.lstrip()[match.end() :] if text[:1] in " \t" else text[match.end() :]
    return text


def level_of(text: str, match_start: int) -> Level:
    """Return the log level that a line gives itself before the place that matched; no level counts as error.

    What an autotuner says of a candidate that it drops is information, whatever the line calls itself.
    """
    if TRIED.search(text):
        return "info"
    found = _LEVEL.search(text[:match_start])
    if found is None:
        return "error"
    if found["error"]:
        return "error"
    return "info" if found["info"] else "warning"


def quoted(text: str, at: int) -> Quote | None:
    """Tell whether the words at `at` are quoted and not reported.

    `command`: part of a shell command, an instruction of a Dockerfile or a comment; `source`: a line of program text,
    as tracebacks show it (the message itself usually follows).
    """
    inner = peel(text).lstrip()
    if _COMMAND.match(inner):
        return "command"
    process = _PROCESS.search(text)
    if process and process.start() + len('process "') <= at < process.end() - len('" did not complete'):
        return "command"
    return "source" if _SOURCE.match(inner) else None
