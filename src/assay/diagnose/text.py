"""Lines as people should read them: control characters, prefixes of tools and loggers, levels."""

from __future__ import annotations

import re
from typing import Final, Literal

from assay.diagnose.formats import ESCAPE

__all__ = ["TRIED", "Level", "clean", "level_of", "peel"]

Level = Literal["error", "warning", "info"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_MAX: Final = 400

_PREFIX: Final = re.compile(
    r"""(?:
      \#\d+\s(?:\d+\.\d+\s)?                                       # BuildKit, plain progress
    | \d+\.\d+\s(?=\s*\S)                                          # BuildKit, the excerpt under an error
    | \((?:[\w.]+\s)+pid=\d+(?:,\s*[\w.=]+)*\)\s                   # workers of engines, and Ray's
    | (?=[\w.-]*[A-Za-z])[\w.-]{2,60}\s*\|\s                       # compose
    | \[pod/[^\]\s]+\]\s                                           # kubectl logs --prefix
    | \[rank\d+\]:(?:\[[A-Z]\d+[^\]]*\])?\s?
    | \[\d{1,4}\]\s(?=\[\d|\S)                                     # torchrun
    | \[?\d{4}-\d\d-\d\d[T\s]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?:\s[A-Z]{2,3}\d+)*\]?\s+(?:--?\s+)?
      (?:(?:stdout|stderr)\s[FP]\s)?                               # a date, and the container runtime's mark
    | [A-Z][a-z]{2}\s+\d{1,2}\s\d\d:\d\d:\d\d\s[\w.-]+\s[\w./-]+(?:\[\d+\])?:\s(?:\[\s*\d+\.\d+\]\s)?   # syslog
    | \[\s*\d+\.\d{6}\]\s                                          # dmesg
    | (?:TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL):?\s+(?:\d\d-\d\d\s\d\d:\d\d:\d\d\s)?
      (?:\[[\w./]+:\d+\]\s|[\w./]+\.py:\d+\]\s)?
    | \|\s(?:TRACE|DEBUG|INFO|WARNING|ERROR|stderr|stdout)\s*\|\s
    | \{"log":"                                                    # Docker's json-file
    | [│|╰╭├]─?[─▶>]*\s+
    )""",
    re.VERBOSE,
)
_LEVEL: Final = re.compile(
    r"\b(?P<error>ERROR|CRITICAL|FATAL|E\d{3,4})\b|\b(?P<warning>WARNING|WARN|W\d{3,4})\b|"
    r"\b(?P<info>INFO|DEBUG|TRACE|NOTICE)\b|^\s*(?P<mild>warning:|WARN\b)|\bnvcc (?P<nvcc>warning)\b"
)
# Autotuners try candidates that this GPU cannot run, say so as an error, and take another one: FlashInfer's profiler
# (flashinfer-ai/flashinfer#2077) and Inductor's (pytorch/torchtitan#1437). Nothing has failed.
TRIED: Final = re.compile(r"\[Autotuner\]:? .*[Ss]kipping|\bSkipping tactic\b|\bfor benchmark choice\b")


def clean(data: bytes | str) -> str:
    """Return one line for showing: UTF-8 or replaced, no escapes, no controls, at most 400 characters."""
    text = (ESCAPE.sub(b"", data).decode("utf-8", "replace")) if isinstance(data, bytes) else data
    text = _CONTROL.sub("", text.replace("\t", " ")).rstrip()
    return text if len(text) <= _MAX else text[: _MAX - 1] + "…"


def peel(text: str) -> str:
    """Return the line without the prefixes of build tools and loggers."""
    for _ in range(6):
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
    if "NCCL WARN" in text:
        # NCCL has no level above this one: it is how it reports errors.
        return "error"
    found = _LEVEL.search(text[:match_start])
    if found is None:
        return "error"
    if found["error"]:
        return "error"
    return "info" if found["info"] else "warning"
