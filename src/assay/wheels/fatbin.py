"""Walks NVIDIA fatbin containers as bytes stream by; headers are never compressed, so nothing is unpacked for targets.

The layout is not documented by NVIDIA. The fields used here were established by compiling every suffix with nvcc 13.0
and comparing with cuobjdump; both remain the test oracles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from ahocorasick_rs import BytesAhoCorasick

from assay.foundation.budget import LIBRARY, Budget

__all__ = ["FatbinContainer", "FatbinEntry", "FatbinWalker", "cubin_target", "walk"]

_CONTAINER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIII8xHHI8xQ8xQ")
"""Kind, a mark, bytes of the header, of the code, of its compressed stream; PTX ISA; target; flags; bytes unpacked."""
_MAGIC: Final = struct.pack("<I", 0xBA55ED50)
_FINDER: Final = BytesAhoCorasick([_MAGIC])
"""Finds it with the processor's vector instructions: 14 GB/s, where `in` has 1.7."""
_ENTRY_MIN: Final = 64
_ENTRY_MAX: Final = 4096
_PTX, _ELF = 1, 2
FLAG_LZ4: Final = 0x2000
FLAG_ZSTD: Final = 0x8000
_FLAG_A: Final = 0x100000
_FLAG_F: Final = 0x200000
_MAX_CONTAINER: Final = 4 << 30
_MAX_CONTAINERS: Final = 200_000
_MAX_ENTRIES: Final = 4096


class FatbinEntry(NamedTuple):
    """One cubin or PTX text inside a container."""

    kind: str
    """`sass` or `ptx`."""
    target: str
    """`120`, `90a`, `120f`: major, minor and suffix, without `sm_`."""
    isa: str | None
    """PTX ISA of a PTX entry: `8.7`."""
    size: int
    """Bytes as stored, padding included."""
    uncompressed: int
    """Bytes when unpacked; 0 when stored as it is."""
    compression: str | None
    """`lz4`, `zstd`, or None."""
    compressed: int
    """Bytes of the compressed stream; 0 when stored as it is."""


class FatbinContainer(NamedTuple):
    """One container: normally the GPU code of one translation unit."""

    offset: int
    """Where it begins in the file."""
    size: int
    """With its header."""
    entries: tuple[FatbinEntry, ...]
    sample: tuple[FatbinEntry, bytes] | None
    """The smallest cubin (else PTX) with its stored bytes, from which kernels can be named."""
    damage: str | None = None
    """Why the walk of this container stopped before its end."""


def _entry(data: bytes, at: int) -> tuple[FatbinEntry, int] | str:
    """Read an entry header; returns the entry and the header's size, or what is wrong with it."""
    kind, mark, header_size, size, compressed, minor, major, arch, flags, uncompressed = _ENTRY.unpack_from(data, at)
    if kind not in {_PTX, _ELF} or not _ENTRY_MIN <= header_size <= _ENTRY_MAX or header_size % 8:
        return f"entry of kind {kind}, mark {mark:#x}, header of {header_size} bytes"
    if not 10 <= arch <= 999:
        return f"entry for architecture {arch}"
    suffix = "f" if flags & _FLAG_F else "a" if flags & _FLAG_A else ""
    return (
        FatbinEntry(
            "ptx" if kind == _PTX else "sass",
            f"{arch}{suffix}",
            f"{major}.{minor}" if kind == _PTX else None,
            size,
            uncompressed,
            "zstd" if flags & FLAG_ZSTD else "lz4" if flags & FLAG_LZ4 else None,
            compressed,
        ),
        header_size,
    )


class FatbinWalker:
    """Fed with a file's bytes in order, it finds containers and reads the headers in them.

    Memory: one entry header; while a container passes, the chunks in which two entries of at most `keep` bytes stand;
    and of each container the stored bytes of one entry. A container that lies outside `.nv_fatbin` is found as well
    (relocatable device code leaves some in `__nv_relfatbin`): the caller, who learns of sections at the end of a file,
    drops those.
    """

    def __init__(self, *, keep: int = 8 << 20, budget: Budget | None = None) -> None:
        self.containers: list[FatbinContainer] = []
        self._budget = budget or Budget("the file", LIBRARY)
        self._keep = keep
        self._carry = b""  # of the chunks before: a header or a magic number cut in two
        self._data = b""  # what is being looked at
        self._pos = 0  # how far in it
        self._base = 0  # place in the file of its first byte; between chunks, of the first byte of `_carry`
        self._skip = 0
        self._end = 0  # end of the container being walked; 0 while searching
        self._start = 0
        self._entries: list[FatbinEntry] = []
        self._sample: tuple[FatbinEntry, list[memoryview]] | None = None
        self._taking: tuple[FatbinEntry, list[memoryview], int] | None = None

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes of the file; returns whether some of them lie outside of containers."""
        outside = self._base + len(self._carry) + len(chunk) > self._end
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            self._base += len(chunk)
            return outside
        if self._end == 0 and self._barren(chunk):
            return True
        # Gigabytes pass here: nothing is copied but what was cut in two.
        self._data = self._carry + chunk if self._carry else chunk
        self._pos, self._skip = self._skip, 0
        while self._step():
            pass
        self._base += self._pos
        self._carry = self._data[self._pos :]
        self._data, self._pos = b"", 0
        return outside

    def pass_over(self, count: int) -> bool:
        """Pass over bytes in which no container begins; False in or behind a container, where they have to be fed."""
        if self._end or self._skip:
            return False
        self._base += len(self._carry) + count
        self._carry = b""
        return True

    def _barren(self, chunk: bytes) -> bool:
        """Pass over a chunk without a container's beginning: most of a file."""
        edge = len(_MAGIC) - 1
        rest = memoryview(chunk)[self._skip :]
        if len(self._carry) > edge or len(rest) < edge or _FINDER.find_matches_as_indexes(rest):
            return False
        if _MAGIC in self._carry + rest[:edge]:
            return False
        self._base += len(self._carry) + len(chunk) - edge
        self._skip = 0
        self._carry = bytes(rest[-edge:])
        return True

    def finish(self) -> list[FatbinContainer]:
        """End of file: returns all containers, the last one perhaps damaged."""
        if self._end:
            at = self._base + len(self._carry)
            self._close(f"the file ends {self._end - at} bytes before the container does")
        return self.containers

    def _advance(self, count: int) -> bool:
        """Pass over `count` bytes, those not here yet as well; returns whether bytes are left."""
        self._pos += count
        if self._pos < len(self._data):
            return True
        self._skip = self._pos - len(self._data)
        self._pos = len(self._data)
        return False

    def _step(self) -> bool:
        if self._end == 0:
            return self._search()
        if self._taking is not None:
            return self._take(*self._taking)
        left = self._end - self._base - self._pos
        if left < _ENTRY_MIN:
            # Fewer bytes than a header has are padding.
            self._close(None)
            return self._advance(left)
        if len(self._data) - self._pos < _ENTRY_MIN:
            return False
        read = _entry(self._data, self._pos)
        if isinstance(read, str) or len(self._entries) >= _MAX_ENTRIES:
            self._close(read if isinstance(read, str) else "too many entries")
            return self._advance(left)
        entry, header = read
        if header + entry.size > left:
            self._close(f"an entry of {entry.size} bytes with {left - header} left")
            return self._advance(left)
        self._budget.take(items=1, steps=1)
        self._entries.append(entry)
        if self._better(entry):
            self._taking = (entry, [], entry.size)
            return self._advance(header)
        return self._advance(header + entry.size)

    def _better(self, entry: FatbinEntry) -> bool:
        if entry.size > self._keep:
            return False
        if self._sample is None:
            return True
        best = self._sample[0]
        return (entry.kind == "ptx", entry.size) < (best.kind == "ptx", best.size)

    def _take(self, entry: FatbinEntry, parts: list[memoryview], missing: int) -> bool:
        part = memoryview(self._data)[self._pos : self._pos + missing]
        parts.append(part)
        if len(part) < missing:
            self._taking = (entry, parts, missing - len(part))
        else:
            self._sample = (entry, parts)
            self._taking = None
        return self._advance(len(part))

    def _close(self, damage: str | None) -> None:
        sample = (self._sample[0], b"".join(self._sample[1])) if self._sample else None
        self._budget.take(items=1, steps=1)
        self.containers.append(
            FatbinContainer(self._start, self._end - self._start, tuple(self._entries), sample, damage)
        )
        self._end = 0
        self._entries = []
        self._sample = None
        self._taking = None

    def _search(self) -> bool:
        """Look for the next container header at a multiple of eight."""
        data = self._data
        found = data.find(_MAGIC, self._pos)
        while found >= 0:
            self._budget.take(steps=1)
            if (self._base + found) % 8:
                found = data.find(_MAGIC, found + 1)
                continue
            if len(data) - found < _CONTAINER.size + _ENTRY_MIN:
                self._pos = found
                return False
            if self._plausible(found):
                self._start = self._base + found
                self._end = self._start + _CONTAINER.size + _CONTAINER.unpack_from(data, found)[3]
                self._pos = found
                return self._advance(_CONTAINER.size)
            found = data.find(_MAGIC, found + 1)
        self._pos = max(self._pos, len(data) - (len(_MAGIC) - 1))
        return False

    def _plausible(self, at: int) -> bool:
        """A magic number may also stand in code that looks for it: the first entry must read well too."""
        _, version, header, size = _CONTAINER.unpack_from(self._data, at)
        if version != 1 or header != _CONTAINER.size or not 0 <= size <= _MAX_CONTAINER:
            return False
        if len(self.containers) >= _MAX_CONTAINERS:
            return False
        if size == 0:
            return True
        read = _entry(self._data, at + header)
        return not isinstance(read, str) and read[1] + read[0].size <= size


def walk(chunks: Iterable[bytes], *, budget: Budget | None = None) -> list[FatbinContainer]:
    """Walk a whole file given in chunks."""
    walker = FatbinWalker(budget=budget)
    for chunk in chunks:
        walker.feed(chunk)
    return walker.finish()


def cubin_target(start: bytes) -> str | None:
    """Return `120` for a cubin kept as a file of its own, from its first 64 bytes; None if it is not a cubin.

    The number stands in the first byte of e_flags for the old OS ABI (51) and in the second for the new one (65).
    The suffix cannot be read from there reliably.
    """
    if len(start) < 64 or start[:4] != b"\x7fELF" or struct.unpack_from("<H", start, 18)[0] != 190:
        return None
    flags: int = struct.unpack_from("<I", start, 48)[0]
    arch = flags >> 8 & 0xFF if start[7] >= 65 else flags & 0xFF
    return str(arch) if arch else None
