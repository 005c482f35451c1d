"""One pass over a log of any size: search literals in large blocks, run expressions only around hits.

Memory is a block and its margins, whatever the log's size or the length of its lines (bench/diagnose.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from assay.diagnose.authors import MARKS, Author, Ledger, author_of
from assay.diagnose.formats import Decoder
from assay.diagnose.library import FailureLibrary
from assay.diagnose.model import Evidence, FailureEntry, Signature
from assay.diagnose.quotes import FRAMES_BEFORE, quoted
from assay.diagnose.telling import Telling
from assay.diagnose.text import Level, clean, level_of, peel

__all__ = ["BLOCK", "SAMPLE", "SATURATED", "FoundSignature", "Hit", "Scanner"]

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

SAMPLE: Final = 256 << 10
_DROPPED: Final = 3000
"""So many lines that only quote or inform of an entry are looked at."""
_DROPPED_IN_LINE: Final = 4
"""So often may one line quote an entry before the rest of the line is skipped for it: data of megabytes in one line
may quote them all, a thousand times."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One line that matches a signature."""

    entry: FailureEntry
    line: int
    text: str
    level: Level
    quoted: bool
    author: Author
    captured: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A line that matches a signature, before it is known whether it counts."""

    entry: FailureEntry
    line: int
    raw: bytes
    above: bytes
    at: int
    captured: dict[str, str]


@dataclass(kw_only=True)
class FoundSignature:
    """Everything that one pass keeps: a few hits per entry, their number, and the telling lines."""

    hits: dict[str, list[Hit]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    telling: list[Evidence] = field(default_factory=list)
    alarming: bool = False
    """Whether a telling line is an exception or says that something is fatal."""
    ledger: Ledger = field(default_factory=Ledger)
    sample: str = ""
    """The log's head and tail; kept where something failed for no known reason."""
    told: dict[str, set[int]] = field(default_factory=dict)
    """Entry -> its lines of which a more specific entry says more; worked out when it is judged."""
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


class Scanner:
    """Feed it a log in pieces, then close it."""

    def __init__(self, library: FailureLibrary) -> None:
        self._entries = library.entries
        self._tries = {
            anchor: tuple(
                (entry.id, entry, signature, None if _several(signature) else _bytes_regex(signature.regex).search)
                for entry, signature in pairs
            )
            for anchor, pairs in library.anchors.items()
        }
        self._literals = library.literals
        self._by_index = [
            (*self._tries.get(literal, ()), *((("", None, None, None),) if literal in MARKS else ()))
            for literal in self._literals
        ]
        self._automaton = library.automaton
        self._longest = max(map(len, self._literals), default=1)
        self._found = FoundSignature()
        self._decoder = Decoder()
        self._pieces: list[bytes] = []
        self._pending = 0
        self._buffer = b""
        self._done = 0  # offset in the buffer up to which hits were looked for
        self._line = 1  # number of the line in which offset `_done` lies
        self._at: dict[str, int] = {}  # entry -> the last line that was kept for it
        self._saturated: set[str] = set()
        self._spent: set[bytes] = set()  # anchors whose entries are all saturated
        self._full: set[str] = set()  # entries whose kept lines no other line can push out
        self._dropped: dict[str, int] = {}
        self._dropped_in: dict[str, tuple[int, int]] = {}  # entry -> the line that quoted it last, and how often
        self._latest: dict[str, _Place] = {}
        self._telling = Telling()
        self._last: bytes = b""
        self._sample = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece of the log, of any length."""
        self._found.bytes += len(data)
        self._pieces.append(data)
        self._pending += len(data)
        if self._pending >= BLOCK:
            self._take()
            while len(self._buffer) - self._done > BLOCK + _AHEAD:
                self._search(self._done + BLOCK)

    def close(self) -> FoundSignature:
        """Search the remaining bytes and return all hits."""
        self._take(final=True)
        while self._done < len(self._buffer):
            self._search(min(len(self._buffer), self._done + BLOCK))
        for place in self._latest.values():
            self._weigh(place)
        ends_open = self._found.bytes > 0 and not self._last.endswith(b"\n")
        self._found.lines = self._line if ends_open else self._line - 1
        self._found.telling, self._found.alarming = self._telling.result(self._found.ledger)
        if self._found.alarming or self._found.hits:
            tail = self._buffer[-SAMPLE:] if self._found.bytes > SAMPLE else b""
            self._found.sample = (self._sample + b"\n" + tail).decode("utf-8", "replace")
        return self._found

    def _take(self, *, final: bool = False) -> None:
        data = self._decoder.feed(b"".join(self._pieces), final=final)
        self._pieces, self._pending = [], 0
        self._last = data[-1:] or self._last
        self._buffer += data
        if len(self._sample) < SAMPLE:
            self._sample += data[: SAMPLE - len(self._sample)]

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
                if entry is None or signature is None:
                    self._found.ledger.note(line, raw, literals[index])
                elif search is None:
                    self._try_several(entry, signature, line, (start, end), literals[index])
                elif (match := search(raw)) is not None:
                    captured = {key: value.decode("utf-8", "replace") for key, value in match.groupdict(b"").items()}
                    self._keep(entry, line, (start, end), match.start(), captured)
        self._telling.look(buffer, begin, limit, line=self._line, segment=self._segment)
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
        self, entry: FailureEntry, signature: Signature, line: int, place: tuple[int, int], anchor: bytes
    ) -> None:
        start, end = place
        match = _regex(signature.regex).search(self._neighbours(start, end, signature))
        if match:
            # The literal's own place in the line is where the failure is told.
            self._keep(entry, line, place, self._buffer[start:end].find(anchor), match.groupdict(""))

    def _keep(
        self, entry: FailureEntry, line: int, place: tuple[int, int], found_at: int, captured: dict[str, str]
    ) -> None:
        start, end = place
        found = _Place(
            entry=entry,
            line=line,
            raw=self._buffer[start:end],
            above=self._buffer[max(0, start - _HALF_LINE) : max(0, start - 1)],
            at=found_at,
            captured=captured,
        )
        if entry.id in self._full:
            # Enough is kept. The latest is looked at when the log ends: what was written before a server came up may
            # have failed nothing, and this one stands after it.
            self._latest[entry.id] = found
            self._count(entry.id, line)
        else:
            self._weigh(found)

    def _weigh(self, found: _Place) -> None:
        """Keep a hit unless its line only quotes or informs."""
        entry, line = found.entry, found.line
        text = found.raw.decode("utf-8", "replace")
        at = len(found.raw[: found.at].decode("utf-8", "replace"))
        level = level_of(text, at)
        informs = level == "info" and entry.level != "info"
        above = found.above.decode("utf-8", "replace").split("\n")[-FRAMES_BEFORE:] if found.above else []
        quote = None if informs else quoted(text, at, above)
        if informs or quote in {"command", "data"}:
            self._dropped[entry.id] = self._dropped.get(entry.id, 0) + 1
            where, times = self._dropped_in.get(entry.id, (line, 0))
            times = times + 1 if where == line else 1
            self._dropped_in[entry.id] = line, times
            if times >= _DROPPED_IN_LINE:
                self._at[entry.id] = line
            if self._dropped[entry.id] >= _DROPPED:
                self._saturate(entry.id)
            return
        self._count(entry.id, line)
        hit = Hit(
            entry=entry,
            line=line,
            text=_around(text, at),
            level=level,
            quoted=quote is not None,
            author=author_of(text),
            captured={name: clean(value) for name, value in found.captured.items()},
        )
        self._put(hit)

    def _count(self, name: str, line: int) -> None:
        self._at[name] = line
        count = self._found.counts.get(name, 0) + 1
        self._found.counts[name] = count
        if count >= (SATURATED if name in self._full else 10 * SATURATED):
            self._saturate(name)

    def _put(self, hit: Hit) -> None:
        """Keep a few hits of an entry, the weightiest and among equals the first."""
        name = hit.entry.id
        hits = self._found.hits.setdefault(name, [])
        if len(hits) < _KEEP:
            hits.append(hit)
        elif weight(hit) > min(weight(kept) for kept in hits):
            # A line that reports the failure is worth more than early lines that only warn of it or quote it.
            hits.remove(min(hits, key=weight))
            hits.append(hit)
        elif hit.line > hits[-1].line and weight(hit) == weight(hits[-1]):
            hits[-1] = hit
        if len(hits) == _KEEP and min(weight(kept) for kept in hits) == 1.0:
            self._full.add(name)

    def _saturate(self, name: str) -> None:
        """Look no more for an entry that was found often enough, nor for literals that nothing else needs."""
        self._saturated.add(name)
        for signature in self._entries[name].signatures:
            for anchor in map(str.encode, signature.anchors):
                if all(other in self._saturated for other, *_ in self._tries[anchor]):
                    self._spent.add(anchor)


def weight(hit: Hit) -> float:
    """Return how much a line counts: one that reports an error 1, one that warns or quotes less."""
    return {"error": 1.0, "warning": 0.7, "info": 0.4}[hit.level] * (0.5 if hit.quoted else 1.0)


def _around(text: str, at: int) -> str:
    """Cut a long line so that the matching place stays in sight."""
    return clean(text if len(text) <= 400 or at < 200 else "…" + text[at - 120 :]).strip()
