"""ELF headers, segments, sections and string tables: what reading symbols and dynamic tags starts from.

Layouts: System V ABI and GNU extensions (`man 5 elf`, LSB "Symbol Versioning").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.foundation.platforms import Platform
from assay.wheels.bytes_at import BudgetedImage, FileBytes

__all__ = [
    "AT_ONCE",
    "BOUND",
    "GNU_HASH",
    "HASH",
    "MAX_HEADERS",
    "MAX_NAME",
    "MAX_STRINGS",
    "MAX_SYMBOLS",
    "NEEDED",
    "PF_W",
    "PF_X",
    "PHDR",
    "PT_DYNAMIC",
    "PT_LOAD",
    "RPATH",
    "RUNPATH",
    "SHDR",
    "SHT_DYNSYM",
    "SONAME",
    "STRSZ",
    "STRTAB",
    "SYM",
    "SYMTAB",
    "SYM_WORDS",
    "VERDEF",
    "VERDEFNUM",
    "VERNEED",
    "VERNEEDNUM",
    "VERSYM",
    "VISIBILITIES",
    "ElfHeader",
    "ElfLibrary",
    "Layout",
    "Section",
    "Strings",
    "Symbol",
    "SymbolGroup",
    "gnu_hash_symbols",
    "is_elf",
    "read_header",
    "section_headers",
    "section_name_table",
    "section_names",
    "segments",
]

MACHINES: Final = {**{one.elf_machine: one.machine for one in Platform}, 190: "cuda"}
BINDINGS: Final = {0: "local", 1: "global", 2: "weak", 10: "unique"}
BOUND: Final = tuple(BINDINGS.get(number, "other") for number in range(16))
VISIBILITIES: Final = ("default", "internal", "hidden", "protected")
MAX_SYMBOLS: Final = LIBRARY.items
MAX_STRINGS: Final = 64 << 20
MAX_HEADERS: Final = 65_535
MAX_NAME: Final = 1 << 16
AT_ONCE: Final = 1024
"""Names cut out before the budget is asked again: each may have `MAX_NAME` characters."""

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR: Final = struct.Struct("<IIQQQQQQ")
SHDR: Final = struct.Struct("<IIQQQQIIQQ")
SYM: Final = struct.Struct("<IBBHQQ")
SYM_WORDS: Final = SYM.size // 4
_DYN: Final = struct.Struct("<qQ")

PT_LOAD, PT_DYNAMIC, _PT_NOTE = 1, 2, 4
PF_X, PF_W = 1, 2
SHT_DYNSYM, _SHT_NOBITS = 11, 8
NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SONAME, RPATH, RUNPATH = 1, 4, 5, 6, 10, 14, 15, 29
GNU_HASH, VERSYM, VERDEF, VERDEFNUM, VERNEED, VERNEEDNUM = (
    0x6FFFFEF5,
    0x6FFFFFF0,
    0x6FFFFFFC,
    0x6FFFFFFD,
    0x6FFFFFFE,
    0x6FFFFFFF,
)


class Symbol(NamedTuple):
    """One entry of the dynamic symbol table that has a name."""

    name: str
    binding: str
    """`global`, `weak`, `unique` (STB_GNU_UNIQUE), `local`, or `other`."""
    visibility: str
    defined: bool
    version: str | None
    """For a reference the version asked for; for a definition the version it belongs to."""
    default: bool
    """For a versioned definition: whether an unversioned reference finds it first (`@@`)."""

    @property
    def exported(self) -> bool:
        """Whether another object can bind to it."""
        return self.defined and self.binding in {"global", "weak", "unique"} and self.visibility in _EXPORTED


_EXPORTED: Final = frozenset({"default", "protected"})


class SymbolGroup(NamedTuple):
    """Names of the dynamic symbol table that have everything else in common; see `Symbol`."""

    binding: str
    visibility: str
    defined: bool
    version: str | None
    default: bool
    names: tuple[str, ...]


class Section(NamedTuple):
    """Where a section lies in the file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class ElfHeader:
    """What the first 64 bytes say."""

    machine: str
    type: int
    osabi: int
    flags: int
    phoff: int
    phentsize: int
    phnum: int
    shoff: int
    shentsize: int
    shnum: int
    shstrndx: int


@dataclass(frozen=True, kw_only=True)
class ElfLibrary:
    """What the dynamic linker would see of one shared object."""

    machine: str
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    groups: tuple[SymbolGroup, ...] = ()
    """The dynamic symbol table; locals and what has no name left out."""
    needed_versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """File -> versions it must define, weak requirements left out (`.gnu.version_r`)."""
    defined_versions: tuple[str, ...] = ()
    """Versions this object defines, its base version left out (`.gnu.version_d`)."""
    sections: tuple[Section, ...] = ()

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """All symbols, one by one."""
        return tuple(
            Symbol(name, binding, visibility, defined, version, default)
            for binding, visibility, defined, version, default, names in self.groups
            for name in names
        )


def is_elf(start: bytes) -> bool:
    """Tell whether a file that begins so is an ELF file."""
    return start[:4] == b"\x7fELF"


def read_header(start: bytes) -> ElfHeader:
    """Read the ELF header from the first 64 bytes.

    Raises:
        WheelError: not a 64-bit little-endian ELF file.
    """
    if len(start) < _EHDR.size or not is_elf(start):
        raise WheelError("not an ELF file")
    ident, kind, machine, _, _, phoff, shoff, flags, _, phentsize, phnum, shentsize, shnum, shstrndx = (
        _EHDR.unpack_from(start)
    )
    if ident[4] != 2 or ident[5] != 1:
        raise WheelError("not a 64-bit little-endian ELF file")
    return ElfHeader(
        machine=MACHINES.get(machine, f"machine {machine}"),
        type=kind,
        osabi=ident[7],
        flags=flags,
        phoff=phoff,
        phentsize=phentsize,
        phnum=phnum,
        shoff=shoff,
        shentsize=shentsize,
        shnum=shnum,
        shstrndx=shstrndx,
    )


class Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    address: int
    size: int


def segments(image: FileBytes, header: ElfHeader) -> list[Segment]:
    if header.phnum and header.phentsize != PHDR.size:
        raise WheelError(f"program headers of {header.phentsize} bytes; 64-bit ELF has {PHDR.size}")
    raw = image.read(header.phoff, header.phnum * PHDR.size) if header.phnum else b""
    return [Segment(p[0], p[1], p[2], p[3], p[5]) for p in PHDR.iter_unpack(raw)]


class Layout:
    """Segments and dynamic tags: what the linker starts from."""

    def __init__(self, image: FileBytes, header: ElfHeader) -> None:
        self.segments = segments(image, header)
        self.tags: dict[int, int] = {}
        self.lists: dict[int, list[int]] = {NEEDED: []}
        dynamic = next((s for s in self.segments if s.type == PT_DYNAMIC), None)
        self.dynamic = dynamic is not None and dynamic.size > 0
        if dynamic is None:
            return
        if dynamic.size > 1 << 20:
            raise WheelError(f"a dynamic section of {dynamic.size} bytes")
        raw = image.read(dynamic.offset, dynamic.size // _DYN.size * _DYN.size)
        for tag, value in _DYN.iter_unpack(raw):
            if tag == 0:
                break
            if tag in self.lists:
                self.lists[tag].append(value)
            else:
                self.tags.setdefault(tag, value)

    def offset(self, address: int) -> int:
        """Return the place in the file of a virtual address."""
        for segment in self.segments:
            if segment.type == PT_LOAD and segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        raise WheelError(f"address {address:#x} is in no loaded segment")


class Strings:
    """A string table; names are read where they are asked for, and asked-for places are checked."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        self._data = data
        self._budget = budget

    def at(self, offset: int) -> str:
        end = self._data.find(b"\0", offset)
        if offset >= len(self._data) or end < 0 or end - offset > MAX_NAME:
            raise WheelError(f"a name at {offset} of a string table of {len(self._data)} bytes")
        name = self._data[offset:end]
        self._budget.take(kept=len(name) if name.isascii() else 4 * len(name), steps=1, items=1)
        return name.decode("utf-8", "backslashreplace")


def gnu_hash_symbols(image: FileBytes, offset: int) -> int:
    """Count symbols through `.gnu.hash`: one more than the last index of the last chain."""
    buckets, first, bloom, _ = struct.unpack("<IIII", image.read(offset, 16))
    if buckets > MAX_SYMBOLS or bloom > MAX_SYMBOLS:
        raise WheelError(f"a symbol hash of {buckets} buckets")
    at = offset + 16 + bloom * 8
    last = max(struct.unpack(f"<{buckets}I", image.read(at, buckets * 4)), default=0)
    if last < first:
        return int(first)
    chains = at + buckets * 4
    while True:
        if last > MAX_SYMBOLS:
            raise WheelError("a symbol hash without end")
        count = min(256, (image.size - chains) // 4 - (last - first))
        if count <= 0:
            raise WheelError("a symbol hash that runs out of the file")
        for value in struct.unpack(f"<{count}I", image.read(chains + (last - first) * 4, count * 4)):
            last += 1
            if value & 1:
                return int(last)


def _sections_count(image: FileBytes, header: ElfHeader) -> int:
    if header.shoff == 0:
        return 0
    if header.shentsize != SHDR.size:
        raise WheelError(f"section headers of {header.shentsize} bytes; 64-bit ELF has {SHDR.size}")
    if header.shnum:
        return header.shnum
    # More sections than the header can say: the number stands in the first one.
    count: int = SHDR.unpack(image.read(header.shoff, SHDR.size))[5]
    if count > MAX_HEADERS * 4:
        raise WheelError(f"{count} sections")
    return count


def section_headers(image: FileBytes, header: ElfHeader) -> list[tuple[int, int, int, int, int, int]]:
    """Return (name, type, address, offset, size, link) of each section."""
    raw = image.read(header.shoff, _sections_count(image, header) * SHDR.size)
    return [(s[0], s[1], s[3], s[4], s[5], s[6]) for s in SHDR.iter_unpack(raw)]


def _name_table(image: FileBytes, header: ElfHeader) -> bytes | None:
    """Return the bytes in which the names of sections stand, each ended by a zero; None where there are none."""
    count = _sections_count(image, header)
    index = header.shstrndx
    if index == 0xFFFF and count:
        index = SHDR.unpack(image.read(header.shoff, SHDR.size))[6]
    if not 0 < index < count:
        return None
    _, _, _, _, offset, size, *_ = SHDR.unpack(image.read(header.shoff + index * SHDR.size, SHDR.size))
    if size > MAX_STRINGS:
        raise WheelError(f"section names of {size} bytes")
    return image.read(offset, size)


def section_names(
    image: FileBytes, header: ElfHeader, sections: list[tuple[int, int, int, int, int, int]], budget: Budget
) -> tuple[Section, ...]:
    table = _name_table(image, header)
    if table is None:
        return ()
    names = Strings(table, budget)
    return tuple(Section(names.at(s[0]), s[3], 0 if s[1] == _SHT_NOBITS else s[4]) for s in sections[1:])


def section_name_table(image: FileBytes, *, budget: Budget | None = None) -> bytes:
    """Return the bytes in which the names of sections stand, each ended by a zero; empty without sections.

    Raises:
        WheelError: it is damaged, or no 64-bit little-endian ELF file.
    """
    image = BudgetedImage(image, budget or Budget("the file", LIBRARY))
    return _name_table(image, read_header(image.read(0, min(64, image.size)))) or b""
