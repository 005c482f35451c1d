"""Small shared objects and GPU code that say more than they hold."""

from __future__ import annotations

import struct
from collections.abc import Callable

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
START = _HEADER.size + 2 * _PROGRAM.size


class Maker:
    """Puts tables behind each other; a place in the file is the address it is loaded at."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.tags: list[tuple[int, int]] = []

    def put(self, data: bytes) -> int:
        self.body += bytes(-len(self.body) % 16)
        place = START + len(self.body)
        self.body += data
        return place

    def file(self, sections: list[tuple[str, bytes]]) -> bytes:
        dynamic = b"".join(struct.pack("<qQ", *tag) for tag in (*self.tags, (0, 0)))
        place = self.put(dynamic)
        names, rows = bytearray(b"\0"), [bytes(_SECTION.size)]
        for name, data in sections:
            rows.append(_SECTION.pack(len(names), 1, 0, at := self.put(data), at, len(data), 0, 0, 1, 0))
            names += name.encode() + b"\0"
        own = len(names)
        names += b".shstrtab\0"
        rows.append(_SECTION.pack(own, 3, 0, at := self.put(bytes(names)), at, len(names), 0, 0, 1, 0))
        table = self.put(b"".join(rows))
        size = START + len(self.body)
        head = _HEADER.pack(
            b"\x7fELF\2\1\1".ljust(16, b"\0"), 3, 62, 1, 0, 64, table, 0, 64, 56, 2, 64, len(rows), len(rows) - 1
        )
        load = _PROGRAM.pack(1, 6, 0, 0, 0, size, size, 4096)
        return head + load + _PROGRAM.pack(2, 6, place, place, place, len(dynamic), len(dynamic), 8) + bytes(self.body)


def shared_object(
    strings: bytes = b"\0",
    *,
    symbols: tuple[int, ...] = (),
    needed: tuple[int, ...] = (),
    version_needs: Callable[[], bytes] | None = None,
    sections: list[tuple[str, bytes]] | None = None,
) -> bytes:
    """Return a shared object whose symbols and needed libraries have their names at these places of the strings."""
    maker = Maker()
    table = bytes(_SYMBOL.size) + b"".join(_SYMBOL.pack(at, 0x12, 0, 1, 0, 0) for at in symbols)
    maker.tags += [(1, at) for at in needed]
    maker.tags += [(5, maker.put(strings)), (10, len(strings)), (6, maker.put(table)), (11, 24)]
    maker.tags.append((4, maker.put(struct.pack("<II", 1, len(symbols) + 1) + bytes(64))))
    if version_needs is not None:
        maker.tags += [(0x6FFFFFFE, maker.put(version_needs())), (0x6FFFFFFF, 65_535)]
    return maker.file(sections or [])


def shared_needs(count: int, entries: int) -> bytes:
    """Return version requirements of `count` files that all have the same entries."""
    heads = b"".join(
        struct.pack("<HHIII", 1, entries, 1, 16 * (count - i), 16 if i < count - 1 else 0) for i in range(count)
    )
    return heads + struct.pack("<IHHII", 0, 0, 2, 1, 16) * entries


def fatbin(*entries: tuple[int, int, bytes]) -> bytes:
    """Return a container of (flags, bytes unpacked, stored bytes), all machine code for sm_90."""
    body = b""
    for flags, unpacked, data in entries:
        stored = data + bytes(-len(data) % 8)
        body += struct.pack("<HHIII8xHHI8xQ8xQ", 2, 0x101, 64, len(stored), 0, 0, 8, 90, flags, unpacked) + stored
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
