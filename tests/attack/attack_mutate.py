"""Makes hostile input out of good input: bytes, text and JSON, always the same for the same random numbers."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = ["WEIRD", "hostile_json", "hostile_text", "mutated"]

_NUMBERS: Final = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
WEIRD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 1e300, 0.1, "", " ", "\0", "a" * 70_000, "../../../../tmp/x",
    "/etc/passwd", "\x1b[2J\x1b]0;x\x07", "\u202egnp.exe", "²³", "٣", "1" * 5000, "1e999", "NaN", "2026-01-01",
    "9999-12-31T23:59:59Z",
    "2026-11-20T12:00:00", "0001-01-01T00:00:00+00:00", "http://[::bad/", "file:///etc/passwd", "javascript:x",
    "sha256:" + "g" * 64,
    "sha256:" + "0" * 64, "{{ 7 * 7 }}", "%s%n", "$(id)", "a\nb: c", "\ud800", "é" * 300, [], {}, [[]], [None],
    {"": None}, {"a": {"a": {}}},
    list(range(2000)), {str(number): number for number in range(500)},
)  # fmt: skip
"""Values that are legal JSON, and that a reader may have thought of as something else."""
LARGEST: Final = 8 << 20
"""Bytes of an input: a reader of untrusted text reads at most this, or reads a stream."""
_BOMBS: Final = (
    b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 100_000, b"[" + b"[]," * 600_000 + b"[]]",
    b"1" * 2_000_000,
    b'"' + b"\\ud800" * 1000 + b'"', b'"' + b"a" * 4_000_000, b"NaN", b"-Infinity", b"1e99999", b"\xef\xbb\xbf{}",
    b"\xff\xfe{\0}\0", b"",
    b"null", b"{}", b"[]", b'""', b"0",
)  # fmt: skip


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random) -> None:
    size, form = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    if len(data) < size:
        return
    at = rng.randrange(len(data) - size + 1)
    if rng.random() < 0.7:
        at -= at % size
    value = rng.choice((*_NUMBERS, len(data), len(data) - 1, len(data) + 1)) % (1 << 8 * size)
    struct.pack_into(("<" if rng.random() < 0.9 else ">") + form, data, at, value)


def _add(data: bytearray, rng: random.Random) -> None:
    size, form = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    if len(data) < size:
        return
    at = rng.randrange(len(data) - size + 1)
    value = struct.unpack_from("<" + form, data, at)[0] + rng.choice((-64, -8, -1, 1, 8, 64, 4096))
    struct.pack_into("<" + form, data, at, value % (1 << 8 * size))


def _copy(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice((4, 16, 64, 1024))
    piece = bytes(data[at : at + length])
    to = rng.randrange(len(data))
    if rng.random() < 0.5:
        data[to : to + len(piece)] = piece
    else:
        data[to:to] = piece * rng.choice((1, 2, 50))


def _cut(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 256, len(data)))]


def _fill(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice((1, 4, 64, 4096))
    end = min(len(data), at + length)
    data[at:end] = (rng.randbytes(end - at), b"\0" * (end - at), b"\xff" * (end - at))[rng.randrange(3)]


_MUTATIONS: Final[Sequence[Callable[[bytearray, random.Random], None]]] = (
    _flip, _number, _number, _number, _add, _copy, _cut, _fill,
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that differ from `data` in one to six places."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        del result[2 * LARGEST :]
        if not result:
            break
        rng.choice(_MUTATIONS)(result, rng)
    return bytes(result[:LARGEST])


def hostile_text(data: bytes, rng: random.Random) -> bytes:
    """Return text that is damaged as text is: words swapped, lines repeated, values replaced, or bytes."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        weird = str(rng.choice(WEIRD)).encode(errors="surrogatepass")
        kind = rng.randrange(5)
        if kind == 0:
            head, mark, _ = lines[at].partition(rng.choice((b": ", b"=", b" ", b'"')))
            lines[at] = head + mark + weird
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            lines[at] = weird
        elif kind == 3:
            lines[at] = lines[at][: LARGEST // 300] * rng.choice((2, 300))
        else:
            del lines[at:]
            lines.append(weird)
    return b"\n".join(lines)[:LARGEST]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value[:50]):
            found += _places(inner, (*path, at))
    return found


def _changed(value: Any, path: tuple[Any, ...], rng: random.Random) -> Any:
    if not path:
        return copy.deepcopy(rng.choice(WEIRD))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    kind = rng.randrange(6)
    if kind == 0:
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", "", "__class__", "schema_version", "kind"))] = copy.deepcopy(rng.choice(WEIRD))
    elif kind == 2 and isinstance(holder[path[-1]], str):
        holder[path[-1]] += str(rng.choice(WEIRD))
    elif kind == 3 and isinstance(holder[path[-1]], list):
        holder[path[-1]] = holder[path[-1]] * rng.choice((2, 1000))
    else:
        holder[path[-1]] = copy.deepcopy(rng.choice(WEIRD))
    return value


def hostile_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON, mostly still valid, whose values are not what they should be; sometimes a bomb, sometimes bytes."""
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(_BOMBS)
    if kind < 0.2:
        return mutated(data, rng)
    try:
        value = json.loads(data)
    except ValueError:
        return mutated(data, rng)
    if kind < 0.27:
        bomb = rng.choice(_BOMBS)
        return json.dumps(_changed_to_mark(value, rng)).encode().replace(b'"@@"', bomb)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, rng.choice(_places(value)), rng)
    return json.dumps(value).encode()


def _changed_to_mark(value: Any, rng: random.Random) -> Any:
    path = rng.choice(_places(value))
    if not path:
        return "@@"
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = "@@"
    return value
