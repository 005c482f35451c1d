"""One pass over a log of any size: literals are searched in big blocks, expressions run only around what is found.

Memory is a block and its margins, whatever the log's size or the length of its lines (bench/diagnose.py).
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from assay.diagnose.library import Library
from assay.diagnose.model import Entry, Evidence, Signature
from assay.diagnose.text import ESCAPE, TRIED, Level, clean, level_of, peel, quoted

__all__ = ["SATURATED", "Found", "Hit", "Scanner"]

BLOCK: Final = 1 << 20
_PIECE: Final = 1 << 16
_AHEAD: Final = 32 << 10
"""Bytes kept after the searched part, so that every hit sees the lines that follow it."""
_BEHIND: Final = 16 << 10
_HALF_LINE: Final = 2048
"""Of a line longer than this on either side of a hit, only the part around the hit is looked at."""
_KEEP: Final = 6
SATURATED: Final = 300
"""So many lines say enough of an entry; further ones are not looked at."""

# What failures usually have in them; for the lines to show when nothing is recognised.
_TELLING: Final = (
    b"Error", b"error:", b"error :", b"error   :", b"errors.", b"E: ", b"dpkg: error", b"ERROR", b"Exception",
    b"Traceback", b"FAILED", b"fatal", b"Fatal", b"FATAL", b"CRITICAL", b"Segmentation", b"Aborted", b"Killed",
    b"panic", b"undefined reference", b"cannot ", b"not found", b"failed", b"core dumped",
)  # fmt: skip
_STRONGEST: Final = (b"Traceback", b"fatal", b"FAILED", b"CRITICAL", b"Segmentation", b"Killed")
_MOST_HEAD: Final = 60
_ALARMING: Final = 3.0
_EXCEPTION: Final = re.compile(
    # Names of exceptions, and any class of a module that is followed by words: triton.runtime.errors.OutOfResources.
    r"^(?:(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Expired)\b:?|(?:[a-z_]\w*\.)+[A-Z]\w+: \S)"
)
_STRONG: Final = re.compile(
    r"(?i:\bfatal\b|(?<![\"'`=])\berror\s*:|core dumped|undefined reference)|Segmentation fault|"
    r"\bKilled\b|\bpanic\b|FAILED|CRITICAL"
)
_SAYS_SO: Final = re.compile(r"^(?:#\d+ )?(?:\d+\.\d+ )?(?:(?:E|ERROR|Error): ?\S|dpkg: error processing )")
_MILD: Final = re.compile(
    r"\b(?:warning|WARN|deprecated|INFO|DEBUG|TRACE|note:)\b|0 errors?|no errors?|errors?=0", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One line that matches a signature."""

    entry: Entry
    line: int
    text: str
    level: Level
    quoted: bool
    captured: dict[str, str]


@dataclass(kw_only=True)
class Found:
    """Everything that one pass keeps: a few hits per entry, their number, and the telling lines."""

    hits: dict[str, list[Hit]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    telling: list[Evidence] = field(default_factory=list)
    alarming: bool = False
    """Whether a telling line is an exception or says that something is fatal."""
    lines: int = 0
    bytes: int = 0


@lru_cache(maxsize=2048)
def _bytes_regex(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode())


@lru_cache(maxsize=2048)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _several(signature: Signature) -> bool:
    return bool(signature.before or signature.after)


class _Decoder:
    """Bytes in, UTF-8-like bytes without escape sequences out; UTF-16 is told by its byte order mark or its NULs."""

    def __init__(self) -> None:
        self._wide: codecs.IncrementalDecoder | None = None
        self._begun = False
        self._rest = b""

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        if not self._begun and data:
            self._begun = True
            head = data[:512]
            if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                self._wide = codecs.getincrementaldecoder("utf-16")("replace")
            elif len(head) >= 16 and head[1::2].count(0) > len(head) * 0.4:
                self._wide = codecs.getincrementaldecoder("utf-16-le")("replace")
        if self._wide is not None:
            data = self._wide.decode(data, final).encode("utf-8", "replace")
        if b"\x1b" not in data and not self._rest:
            return data
        data = self._rest + data
        self._rest = b""
        if not final:
            # An escape sequence may be cut by the end of what was read.
            last = data.rfind(b"\x1b", max(0, len(data) - 128))
            if last >= 0 and not ESCAPE.match(data, last):
                data, self._rest = data[:last], data[last:]
        return ESCAPE.sub(b"", data)


class Scanner:
    """Feed it a log in pieces, then close it."""

    def __init__(self, library: Library) -> None:
        self._tries = {
            anchor: tuple(
                (entry.id, entry, signature, None if _several(signature) else _bytes_regex(signature.regex).search)
                for entry, signature in pairs
            )
            for anchor, pairs in library.anchors.items()
        }
        self._literals = library.literals
        self._by_index = [self._tries[literal] for literal in self._literals]
        self._automaton = library.automaton
        self._longest = max(map(len, self._literals), default=1)
        self._found = Found()
        self._decoder = _Decoder()
        self._pieces: list[bytes] = []
        self._pending = 0
        self._buffer = b""
        self._done = 0  # offset in the buffer up to which hits were looked for
        self._line = 1  # number of the line in which offset `_done` lies
        self._at: dict[str, int] = {}  # entry -> the last line that was kept for it
        self._saturated: set[str] = set()
        self._spent: set[bytes] = set()  # anchors whose entries are all saturated
        self._full: set[str] = set()  # entries whose kept lines no other line can push out
        self._head: list[Evidence] = []
        self._tail: deque[Evidence] = deque(maxlen=80)
        self._last: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece of the log, of any length."""
        self._found.bytes += len(data)
        self._pieces.append(data)
        self._pending += len(data)
        if self._pending >= BLOCK:
            self._take()
            while len(self._buffer) - self._done > BLOCK + _AHEAD:
                self._search(self._done + BLOCK)

    def close(self) -> Found:
        """Search what is left and return everything found."""
        self._take(final=True)
        while self._done < len(self._buffer):
            self._search(min(len(self._buffer), self._done + BLOCK))
        ends_open = self._found.bytes > 0 and not self._last.endswith(b"\n")
        self._found.lines = self._line if ends_open else self._line - 1
        self._found.telling, self._found.alarming = _most_telling(self._head, self._tail)
        return self._found

    def _take(self, *, final: bool = False) -> None:
        data = self._decoder.feed(b"".join(self._pieces), final=final)
        self._pieces, self._pending = [], 0
        self._last = data[-1:] or self._last
        self._buffer += data

    def _search(self, limit: int) -> None:
        buffer, begin = self._buffer, self._done
        literals = self._literals
        # Carriage returns are seldom: where there are none, no line has to be looked through for them.
        plain = buffer.find(b"\r", max(0, begin - _HALF_LINE), limit + _HALF_LINE) < 0
        rfind, find, count = buffer.rfind, buffer.find, buffer.count
        tries, kept_at, saturated = self._by_index, self._at, self._saturated
        offset, line = begin, self._line
        end = -1
        start = last = -1
        raw = b""
        for at, index in self._places(begin, limit):
            if at >= end:
                line += count(b"\n", offset, at)
                offset = at
                # `_segment`, without the call: in the worst of logs every line is looked at.
                if plain and at >= _HALF_LINE:
                    start = rfind(b"\n", at - _HALF_LINE, at) + 1 or at - _HALF_LINE
                    end = find(b"\n", at, at + _HALF_LINE)
                    if end < 0:
                        end = min(len(buffer), at + _HALF_LINE)
                else:
                    start, end = self._segment(at)
                raw = buffer[start:end]
                last, tried = index, {index}
            elif index == last or index in tried:
                # An expression sees the whole line: a literal that stands in it twice says nothing new.
                continue
            else:
                tried.add(index)
            for name, entry, signature, search in tries[index]:
                if name in saturated or kept_at.get(name) == line:
                    continue
                if search is None:
                    self._try_several(entry, signature, line, (start, end), literals[index])
                elif (match := search(raw)) is not None:
                    captured = {key: value.decode("utf-8", "replace") for key, value in match.groupdict(b"").items()}
                    self._keep(entry, line, raw, match.start(), captured)
        self._look_for_telling(begin, limit)
        self._line += buffer.count(b"\n", begin, limit)
        cut = max(0, limit - _BEHIND)
        self._buffer, self._done = buffer[cut:], limit - cut

    def _places(self, begin: int, limit: int) -> Iterator[tuple[int, int]]:
        """Yield where literals begin, and which; a piece at a time, for a log may be made of nothing else."""
        literals, spent, view = self._literals, self._spent, memoryview(self._buffer)
        for first in range(begin, limit, _PIECE):
            last = min(limit, first + _PIECE)
            found = self._automaton.find_matches_as_indexes(view[first : last + self._longest - 1], overlapping=True)
            if spent:
                found = [match for match in found if literals[match[0]] not in spent]
            yield from sorted((first + start, index) for index, start, _ in found if first + start < last)

    def _segment(self, at: int) -> tuple[int, int]:
        """Return where the line around `at` begins and ends; a carriage return ends a line as well."""
        buffer = self._buffer
        low, high = max(0, at - _HALF_LINE), at + _HALF_LINE
        start = buffer.rfind(b"\n", low, at) + 1 or low
        end = buffer.find(b"\n", at, high)
        end = end if end >= 0 else min(len(buffer), high)
        if buffer.find(b"\r", start, end) >= 0:
            start = buffer.rfind(b"\r", start, at) + 1 or start
            turn = buffer.find(b"\r", at, end)
            end = turn if turn >= 0 else end
        return start, end

    def _neighbours(self, start: int, end: int, signature: Signature) -> str:
        """Return the line with its neighbours, each without its prefix, joined by newlines."""
        buffer = self._buffer
        low, high = start, end
        for _ in range(signature.before):
            low = buffer.rfind(b"\n", max(0, low - _HALF_LINE), max(0, low - 1)) + 1
            if low <= max(0, start - _BEHIND):
                break
        for _ in range(signature.after):
            following = buffer.find(b"\n", high + 1, high + 1 + _HALF_LINE)
            if following < 0:
                high = min(len(buffer), high + _HALF_LINE)
                break
            high = following
        text = buffer[low:high].decode("utf-8", "replace")
        return "\n".join(peel(line).strip() for line in re.split(r"[\r\n]+", text))

    def _try_several(
        self, entry: Entry, signature: Signature, line: int, place: tuple[int, int], anchor: bytes
    ) -> None:
        start, end = place
        match = _regex(signature.regex).search(self._neighbours(start, end, signature))
        if match:
            # The literal's own place in the line is where the failure is told.
            raw = self._buffer[start:end]
            self._keep(entry, line, raw, raw.find(anchor), match.groupdict(""))

    def _keep(self, entry: Entry, line: int, raw: bytes, found_at: int, captured: dict[str, str]) -> None:
        text = raw.decode("utf-8", "replace")
        level = level_of(text, len(raw[:found_at].decode("utf-8", "replace")))
        quote = quoted(text, found_at)
        if quote == "command" or (level == "info" and entry.level != "info"):
            return
        self._at[entry.id] = line
        count = self._found.counts.get(entry.id, 0) + 1
        self._found.counts[entry.id] = count
        if entry.id in self._full:
            if count >= SATURATED:
                self._saturate(entry.id)
            return
        hits = self._found.hits.setdefault(entry.id, [])
        hit = Hit(
            entry=entry,
            line=line,
            text=_around(text, found_at),
            level=level,
            quoted=quote is not None,
            captured={name: clean(value) for name, value in captured.items()},
        )
        if len(hits) < _KEEP:
            hits.append(hit)
        elif weight(hit) > min(weight(kept) for kept in hits):
            # A line that reports the failure is worth more than early lines that only warn of it or quote it.
            hits.remove(min(hits, key=weight))
            hits.append(hit)
        if len(hits) == _KEEP and min(weight(kept) for kept in hits) == 1.0:
            self._full.add(entry.id)
        if count >= SATURATED and max(weight(kept) for kept in hits) == 1.0:
            self._saturate(entry.id)

    def _saturate(self, name: str) -> None:
        """Look no more for an entry that was found often enough, nor for literals that nothing else needs."""
        self._saturated.add(name)
        for anchor, tries in self._tries.items():
            if all(other in self._saturated for other, *_ in tries):
                self._spent.add(anchor)

    def _look_for_telling(self, begin: int, limit: int) -> None:
        """Keep lines that look like a failure: many of the log's head and tail, a few of each block between."""
        last = limit == len(self._buffer)
        words: tuple[bytes, ...]
        if len(self._head) < _MOST_HEAD:
            words, each = _TELLING, 4
        else:
            words, each = (_TELLING, 6) if last else (_STRONGEST, 2)
        buffer = self._buffer
        places: set[int] = set()
        for word in words:
            at = limit if last else begin
            for _ in range(each):
                at = buffer.rfind(word, begin, at) if last else buffer.find(word, at, limit)
                if at < 0:
                    break
                places.add(self._segment(at)[0])
                at += 0 if last else len(word)
        offset, line = begin, self._line
        for start in sorted(places):
            line += buffer.count(b"\n", offset, start) if start > offset else 0
            offset = max(offset, start)
            end = self._segment(start)[1]
            text = clean(buffer[start:end]).strip()
            if text:
                kept = self._head if len(self._head) < _MOST_HEAD else self._tail
                kept.append(Evidence(line=line, text=text))


def weight(hit: Hit) -> float:
    """Return how much a line counts: one that reports an error 1, one that warns or quotes less."""
    return {"error": 1.0, "warning": 0.7, "info": 0.4}[hit.level] * (0.5 if hit.quoted else 1.0)


def _around(text: str, at: int) -> str:
    """Cut a long line so that the matching place stays in sight."""
    return clean(text if len(text) <= 400 or at < 200 else "…" + text[at - 120 :]).strip()


def _most_telling(head: Iterable[Evidence], tail: Iterable[Evidence], *, most: int = 12) -> tuple[list[Evidence], bool]:
    best: dict[str, tuple[float, Evidence]] = {}
    for evidence in [*head, *tail]:
        text = peel(evidence.text)
        score = 1.0
        if _EXCEPTION.match(text):
            score += 4
        if _STRONG.search(text) or _SAYS_SO.search(evidence.text):
            score += 2
        if _MILD.search(evidence.text):
            score -= 2
        if TRIED.search(evidence.text):
            score -= 6
        if quoted(evidence.text, 0):
            score -= 2
        key = re.sub(r"\d+|0x[0-9a-f]+", "0", text)
        if key not in best or score > best[key][0]:
            best[key] = (score, evidence)
    chosen = sorted(best.values(), key=lambda pair: (-pair[0], -pair[1].line))[:most]
    telling = sorted((evidence for score, evidence in chosen if score > 0), key=lambda evidence: evidence.line)
    return telling, bool(chosen) and chosen[0][0] >= _ALARMING
