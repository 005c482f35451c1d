"""From the bytes of a log to plain lines: encodings, escape sequences, and lines that a container runtime cut."""

from __future__ import annotations

import codecs
import re
from typing import Final

__all__ = ["ESCAPE", "Decoder", "unwrapped"]

# CSI, OSC and the two-byte escapes of ECMA-48; also what is left of them where a log tool dropped the ESC byte.
ESCAPE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[@-Z\\^_])")

# The log format of the container runtime interface: `TIME stdout|stderr P|F text`; P is a part, F the full or last
# part. https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
_PARTIAL: Final = re.compile(rb" (?:stderr|stdout) P ")
_CRI: Final = re.compile(rb"^(\S+ (stdout|stderr) )([PF]) ")
_MOST_HELD: Final = 1 << 20


class Decoder:
    """Bytes in, UTF-8-like bytes without escape sequences out; UTF-16 is detected by its BOM or NULs."""

    def __init__(self) -> None:
        self._wide: codecs.IncrementalDecoder | None = None
        self._begun = False
        self._rest = b""
        self._held = b""
        self._cut = False  # whether the log has lines in parts

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        if not self._begun and data:
            self._begun = True
            head = data[:512]
            if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                self._wide = codecs.getincrementaldecoder("utf-16")("replace")
            elif len(head) >= 16 and head[1::2].count(0) > len(head) * 0.4:
                self._wide = codecs.getincrementaldecoder("utf-16-le")("replace")
            self._cut = _CRI.match(head) is not None
        if self._wide is not None:
            data = self._wide.decode(data, final).encode("utf-8", "replace")
        if b"\x1b" in data or self._rest:
            data = self._without_escapes(self._rest + data, final=final)
        self._cut = self._cut or _PARTIAL.search(data) is not None
        if self._cut:
            data = self._joined(self._held + data, final=final)
        return data

    def _without_escapes(self, data: bytes, *, final: bool) -> bytes:
        self._rest = b""
        if not final:
            # An escape sequence may be cut by the end of what was read.
            last = data.rfind(b"\x1b", max(0, len(data) - 128))
            if last >= 0 and not ESCAPE.match(data, last):
                data, self._rest = data[:last], data[last:]
        return ESCAPE.sub(b"", data)

    def _joined(self, data: bytes, *, final: bool) -> bytes:
        """Join the parts of lines; the newlines taken out follow the joined line, so that later numbers stay right."""
        self._held = b""
        if not final and len(data) < 4 * _MOST_HELD:
            # The last line may be a part whose rest is still to come: wait for a line that ends.
            cut = data.rfind(b"\n") + 1
            while cut:
                start = data.rfind(b"\n", 0, cut - 1) + 1
                if not _PARTIAL.search(data, start, cut):
                    break
                cut = start
            data, self._held = data[:cut], data[cut:]
        return b"\n".join(_join(data.split(b"\n")))


def _join(lines: list[bytes]) -> list[bytes]:
    """Put the parts of a line together where the first part stands; the places of the others become empty lines."""
    owed: dict[bytes, tuple[int, list[bytes]]] = {}
    for number, line in enumerate(lines):
        match = _CRI.match(line)
        if match is None:
            continue
        head, stream, tag = match.groups()
        place, parts = owed.pop(stream, (number, []))
        parts.append(line[match.end() :])
        if place != number:
            lines[number] = b""
        if tag == b"P":
            owed[stream] = (place, parts)
        elif len(parts) > 1:
            lines[place] = head + b"F " + b"".join(parts)
    for stream, (place, parts) in owed.items():
        lines[place] = b"- " + stream + b" F " + b"".join(parts)
    return lines


_LEAST_WRAPPED: Final = 40
_MOST_JOINED: Final = 4
# What begins a line of its own: a prefix of a logger, a date, a traceback's frame, a mark of a build tool.
_OWN: Final = re.compile(
    r"(?:\s*(?:File \"|Traceback |[~^]+\s*$|[-*•×╰├│]|\d+ \|)|[\[(#]|\d+[.:-]\d|"
    r"(?:[\w.-]+\s*\|)|(?:ERROR|WARN|INFO|DEBUG|CRITICAL|error|warning|note|hint)\b|[\w.]*(?:Error|Exception)\b)"
)


def unwrapped(text: str) -> str:
    """Return a log in which each line that a terminal or a mail program cut is followed by its continuation.

    A line stays at its place and the continuation stands there as well, so that line numbers stay right.
    """
    lines = text.split("\n")
    made: list[str] = []
    for number, line in enumerate(lines):
        whole = line.rstrip("\r")
        for following in lines[number + 1 : number + _MOST_JOINED]:
            rest = following.strip()
            if len(whole) < _LEAST_WRAPPED or not rest or _OWN.match(following):
                break
            # Text that is set by words is indented; text that is cut at a column goes on at once.
            whole += (" " if following[:1].isspace() or whole[-1:] in ",;:" else "") + rest
        made.append(whole)
    return "\n".join(made)
