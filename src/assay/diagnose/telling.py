"""The lines of a log that look most like a failure; shown if no known cause is found."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Final

from assay.diagnose.authors import Ledger, author_of, moment_of
from assay.diagnose.model import Evidence
from assay.diagnose.quotes import FRAMES_BEFORE, quoted
from assay.diagnose.text import TRIED, clean, peel

__all__ = ["Telling", "first_error"]

_TELLING: Final = (
    b"Error", b"error:", b"error :", b"error   :", b"errors.", b"E: ", b"dpkg: error", b"ERROR", b"Exception",
    b"Traceback", b"FAILED", b"fatal", b"Fatal", b"FATAL", b"CRITICAL", b"Segmentation", b"Aborted", b"Killed",
    b"panic", b"undefined reference", b"cannot ", b"not found", b"failed", b"core dumped", b"Interrupt",
    b"Xid (", b"eartbeat timed out", b"nhealthy", b"ack-off", b"BackOff", b"OOMKilled", b"Evicted",
    b"FailedScheduling", b"exited", b"exit code", b"exit status", b"robably locked", b"NV_ERR_", b"oom-kill",
    b"rror response from daemon", b"imed out", b"denied", b"terminate called", b"NCCL WARN",
    "× ".encode(),
)  # fmt: skip
_STRONGEST: Final = (b"Traceback", b"fatal", b"FAILED", b"CRITICAL", b"Segmentation", b"Killed", b"Xid (", b"exit code")
_MOST_HEAD: Final = 80
_ALARMING: Final = 3.0
_EXCEPTION: Final = re.compile(
    # Names of exceptions, and any class of a module that is followed by words: triton.runtime.errors.OutOfResources.
    r"^(?:(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Expired)\b:?|(?:[a-z_]\w*\.)+[A-Z]\w+: \S)"
)
_STRONG: Final = re.compile(
    r"(?i:\bfatal\b(?![.(])|(?<![\"'`=])\berror\s*:|core dumped|undefined reference)|Segmentation fault|"
    r"\bKilled\b|\bpanic\b|FAILED|CRITICAL"
)
# What engines, kernels and orchestrators write when something ended or has to be ended; their words are their own.
_ENDED: Final = re.compile(
    r"NVRM: (?:Xid|.*eartbeat timed out|.*GPU is probably locked|.*NV_ERR_)|is unhealthy|\bUnhealthy\b|"
    r"\b(?:Liveness|Readiness|Startup) probe failed|failed (?:liveness|startup) probe|CrashLoopBackOff|"
    r"Back-off restarting|ImagePullBackOff|ErrImagePull|\bOOMKilled\b(?!\W+false)|\bEvicted\b|FailedScheduling|"
    r"exited with code [1-9]|exit(?:ed with)? (?:code|status)[:= ]+[1-9]|status=(?:[1-9]\d*)\b|"
    r"^(?:\S+\s+)?× \w|^terminate called (?:after throwing|without an active)|NCCL WARN (?!MSCCL|.*tuner)|"
    r"code=(?:killed|dumped)|oom-kill:|Out of memory: Killed|[Ee]rror response from daemon"
)
_SAYS_SO: Final = re.compile(r"^(?:#\d+ )?(?:\d+\.\d+ )?(?:(?:E|ERROR|Error): ?\S|dpkg: error processing )")
_MILD: Final = re.compile(
    r"\b(?:warning|WARN|deprecated|INFO|DEBUG|TRACE|note:)\b|0 errors?|no errors?|errors?=0", re.IGNORECASE
)

_GOES_ON: Final = re.compile(rb"\b(?:[Cc]ontinuing (?:without|with|anyway)|[Ff]alling back to|[Rr]etrying in)\b")
_NEXT_LINE: Final = 120


class Telling:
    """Collects such lines while a log goes by: many of its head and tail, a few of each block between."""

    def __init__(self) -> None:
        self._head: list[Evidence] = []
        self._tail: deque[Evidence] = deque(maxlen=80)

    def look(
        self, buffer: bytes, begin: int, limit: int, *, line: int, segment: Callable[[int], tuple[int, int]]
    ) -> None:
        """Look through a block; `line` is the number of the line at `begin`, `segment` gives the line of a place."""
        last = limit == len(buffer)
        words: tuple[bytes, ...]
        if len(self._head) < _MOST_HEAD:
            words, each = _TELLING, 4
        else:
            words, each = (_TELLING, 6) if last else (_STRONGEST, 2)
        places: dict[int, int] = {}
        for word in words:
            at = limit if last else begin
            for _ in range(each):
                at = buffer.rfind(word, begin, at) if last else buffer.find(word, at, limit)
                if at < 0:
                    break
                places.setdefault(segment(at)[0], at)
                at += 0 if last else len(word)
        offset = begin
        for start, at in sorted(places.items()):
            line += buffer.count(b"\n", offset, start) if start > offset else 0
            offset = max(offset, start)
            end = segment(start)[1]
            text = clean(buffer[start:end]).strip()
            if text and not _passes_through(buffer, start, end, at):
                kept = self._head if len(self._head) < _MOST_HEAD else self._tail
                kept.append(Evidence(line=line, text=text))

    def result(self, ledger: Ledger, *, most: int = 12) -> tuple[list[Evidence], bool]:
        """Return the most telling lines in the order of the log, and whether one of them is certainly a failure."""
        best: dict[str, tuple[float, Evidence]] = {}
        for evidence in [*self._head, *self._tail]:
            score = _score(evidence, ledger)
            key = re.sub(r"\d+|0x[0-9a-f]+", "0", peel(evidence.text))
            if key not in best or score > best[key][0]:
                best[key] = (score, evidence)
        chosen = sorted(best.values(), key=lambda pair: (-pair[0], -pair[1].line))[:most]
        telling = sorted((evidence for score, evidence in chosen if score > 0), key=lambda evidence: evidence.line)
        return telling, bool(chosen) and chosen[0][0] >= _ALARMING


def _passes_through(buffer: bytes, start: int, end: int, at: int) -> bool:
    """Return whether a line reports no failure: it is quoted, or its program says, there or next, that it goes on."""
    above = buffer[max(0, start - 800) : max(0, start - 1)].decode("utf-8", "replace").split("\n")[-FRAMES_BEFORE:]
    if _GOES_ON.search(buffer, start, min(end + _NEXT_LINE, len(buffer))):
        return True
    raw = buffer[start:end].decode("utf-8", "replace")
    return quoted(raw, at - start, above if start else ()) in {"command", "data"}


def _score(evidence: Evidence, ledger: Ledger) -> float:
    text = peel(evidence.text).strip()
    score = 1.0
    if _EXCEPTION.match(text):
        score += 4
    if _STRONG.search(text) or _SAYS_SO.search(evidence.text):
        score += 2
    if _ENDED.search(evidence.text):
        score += 3
    if _MILD.search(evidence.text) and not _ENDED.search(evidence.text):
        score -= 2
    if TRIED.search(evidence.text) or ledger.survived(evidence.line, author_of(evidence.text)):
        score -= 6
    if quoted(evidence.text, 0):
        score -= 2
    return score


def first_error(telling: list[Evidence], consequences: frozenset[int]) -> Evidence | None:
    """Return the first error in time, of the innermost process: lines that only follow from others do not count."""
    moment, timed = "", []
    for evidence in telling:
        moment = moment_of(evidence.text) or moment
        timed.append((moment, evidence))
    certain = [(at, e) for at, e in timed if e.line not in consequences and _is_error(e)]
    if not certain:
        return None
    return min(certain, key=lambda pair: (pair[0], pair[1].line))[1]


def _is_error(evidence: Evidence) -> bool:
    """Return whether a line reports an error by itself, and not that something inside failed."""
    text = peel(evidence.text).strip()
    says = _EXCEPTION.match(text) or _ENDED.search(evidence.text) or _STRONG.search(text)
    return bool(says) and not text.startswith(("Traceback", "FAILED:"))
