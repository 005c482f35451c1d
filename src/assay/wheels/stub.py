"""A shared object that holds nothing but its name: what a linker needs of a library that comes later. Pure.

`gcc -shared -Wl,-soname,NAME` makes the same with what else a compiler adds. Layout: System V ABI, ELF-64.
"""

from __future__ import annotations

import struct
from typing import Final

from assay.foundation.platforms import Platform

__all__ = ["stub"]

_EHDR, _PHDR, _SHDR = 64, 56, 64
_PAGE: Final = 0x10000
"""Segments are aligned to the largest page size of all machines."""


def stub(soname: str, machine: str) -> bytes:
    """Return a shared object with a name and no symbols.

    Args:
        soname: its DT_SONAME.
        machine: of a platform, `aarch64`.
    """
    strings = b"\0" + soname.encode() + b"\0"
    symbols = bytes(24)
    hashes = struct.pack("<4I", 1, 1, 0, 0)
    names = b"\0.dynsym\0.dynstr\0.hash\0.dynamic\0.shstrtab\0"
    dynsym = _EHDR + 2 * _PHDR
    dynstr = dynsym + len(symbols)
    hash_at = -(-(dynstr + len(strings)) // 8) * 8
    dynamic_at = hash_at + len(hashes)
    dynamic = b"".join(
        struct.pack("<qQ", tag, value)
        for tag, value in ((14, 1), (4, hash_at), (5, dynstr), (6, dynsym), (10, len(strings)), (11, 24), (0, 0))
    )
    names_at = dynamic_at + len(dynamic)
    sections_at = -(-(names_at + len(names)) // 8) * 8

    def section(name: bytes, kind: int, flags: int, at: int, size: int, *more: int) -> bytes:
        """Return a section header; `more`: the section it refers to, its info, its alignment, the size of an entry."""
        address = at if flags else 0
        return struct.pack("<IIQQQQIIQQ", names.find(b"\0" + name) + 1, kind, flags, address, at, size, *more)

    sections = b"".join(
        (
            bytes(_SHDR),
            section(b".dynsym", 11, 2, dynsym, len(symbols), 2, 1, 8, 24),
            section(b".dynstr", 3, 2, dynstr, len(strings), 0, 0, 1, 0),
            section(b".hash", 5, 2, hash_at, len(hashes), 1, 0, 8, 4),
            section(b".dynamic", 6, 3, dynamic_at, len(dynamic), 2, 0, 8, 16),
            section(b".shstrtab", 3, 0, names_at, len(names), 0, 0, 1, 0),
        )
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1",
        3,
        Platform.of(machine).elf_machine,
        1,
        0,
        _EHDR,
        sections_at,
        0,
        _EHDR,
        _PHDR,
        2,
        _SHDR,
        6,
        5,
    )
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, names_at, names_at, _PAGE)
    dynamic_header = struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8)
    body = header + load + dynamic_header + symbols + strings
    body = body.ljust(hash_at, b"\0") + hashes + dynamic + names
    return body.ljust(sections_at, b"\0") + sections
