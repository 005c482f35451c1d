"""Reads the dynamic part of ELF shared objects the way the dynamic linker does: from program headers and `.dynamic`.

Section headers are used for two things alone: where the GPU code lies, and as one of three ways to learn how many
symbols there are. Layouts: System V ABI and GNU extensions (`man 5 elf`, LSB "Symbol Versioning").
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final, NamedTuple

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.wheels.bytes_at import BudgetedImage, FileBytes, Unread

__all__ = [
    "ElfHeader",
    "ElfLibrary",
    "Section",
    "Symbol",
    "SymbolGroup",
    "data_ranges",
    "is_elf",
    "read_elf",
    "read_header",
    "section_name_table",
    "wanted_ranges",
]

MACHINES: Final = {62: "x86_64", 183: "aarch64", 190: "cuda"}
BINDINGS: Final = {0: "local", 1: "global", 2: "weak", 10: "unique"}
_BOUND: Final = tuple(BINDINGS.get(number, "other") for number in range(16))
VISIBILITIES: Final = ("default", "internal", "hidden", "protected")
MAX_SYMBOLS: Final = LIBRARY.items
MAX_STRINGS: Final = 64 << 20
MAX_HEADERS: Final = 65_535
MAX_NAME: Final = 1 << 16
AT_ONCE: Final = 1024
"""Names cut out before the budget is asked again: each may have `MAX_NAME` characters."""

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_SYM_WORDS: Final = _SYM.size // 4
_DYN: Final = struct.Struct("<qQ")

_PT_LOAD, _PT_DYNAMIC, _PT_NOTE = 1, 2, 4
_PF_X, _PF_W = 1, 2
_SHT_DYNSYM, _SHT_NOBITS = 11, 8
_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 4, 5, 6, 10, 14, 15, 29
_GNU_HASH, _VERSYM, _VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = (
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


class _Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    address: int
    size: int


def _segments(image: FileBytes, header: ElfHeader) -> list[_Segment]:
    if header.phnum and header.phentsize != _PHDR.size:
        raise WheelError(f"program headers of {header.phentsize} bytes; 64-bit ELF has {_PHDR.size}")
    raw = image.read(header.phoff, header.phnum * _PHDR.size) if header.phnum else b""
    return [_Segment(p[0], p[1], p[2], p[3], p[5]) for p in _PHDR.iter_unpack(raw)]


class _Layout:
    """Segments and dynamic tags: what the linker starts from."""

    def __init__(self, image: FileBytes, header: ElfHeader) -> None:
        self.segments = _segments(image, header)
        self.tags: dict[int, int] = {}
        self.lists: dict[int, list[int]] = {_NEEDED: []}
        dynamic = next((s for s in self.segments if s.type == _PT_DYNAMIC), None)
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
            if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        raise WheelError(f"address {address:#x} is in no loaded segment")


class _Strings:
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


def _gnu_hash_symbols(image: FileBytes, offset: int) -> int:
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
    if header.shentsize != _SHDR.size:
        raise WheelError(f"section headers of {header.shentsize} bytes; 64-bit ELF has {_SHDR.size}")
    if header.shnum:
        return header.shnum
    # More sections than the header can say: the number stands in the first one.
    count: int = _SHDR.unpack(image.read(header.shoff, _SHDR.size))[5]
    if count > MAX_HEADERS * 4:
        raise WheelError(f"{count} sections")
    return count


def _sections(image: FileBytes, header: ElfHeader) -> list[tuple[int, int, int, int, int, int]]:
    """Return (name, type, address, offset, size, link) of each section."""
    raw = image.read(header.shoff, _sections_count(image, header) * _SHDR.size)
    return [(s[0], s[1], s[3], s[4], s[5], s[6]) for s in _SHDR.iter_unpack(raw)]


def _name_table(image: FileBytes, header: ElfHeader) -> bytes | None:
    """Return the bytes in which the names of sections stand, each ended by a zero; None where there are none."""
    count = _sections_count(image, header)
    index = header.shstrndx
    if index == 0xFFFF and count:
        index = _SHDR.unpack(image.read(header.shoff, _SHDR.size))[6]
    if not 0 < index < count:
        return None
    _, _, _, _, offset, size, *_ = _SHDR.unpack(image.read(header.shoff + index * _SHDR.size, _SHDR.size))
    if size > MAX_STRINGS:
        raise WheelError(f"section names of {size} bytes")
    return image.read(offset, size)


def _section_names(
    image: FileBytes, header: ElfHeader, sections: list[tuple[int, int, int, int, int, int]], budget: Budget
) -> tuple[Section, ...]:
    table = _name_table(image, header)
    if table is None:
        return ()
    names = _Strings(table, budget)
    return tuple(Section(names.at(s[0]), s[3], 0 if s[1] == _SHT_NOBITS else s[4]) for s in sections[1:])


def section_name_table(image: FileBytes, *, budget: Budget | None = None) -> bytes:
    """Return the bytes in which the names of sections stand, each ended by a zero; empty without sections.

    Raises:
        WheelError: it is damaged, or no 64-bit little-endian ELF file.
    """
    image = BudgetedImage(image, budget or Budget("the file", LIBRARY))
    return _name_table(image, read_header(image.read(0, min(64, image.size)))) or b""


def _count_symbols(image: FileBytes, layout: _Layout, sections: list[tuple[int, int, int, int, int, int]]) -> int:
    address = layout.tags[_SYMTAB]
    for _, kind, at, _, size, _ in sections:
        if kind == _SHT_DYNSYM and at == address:
            return size // _SYM.size
    if _HASH in layout.tags:
        count: int = struct.unpack("<II", image.read(layout.offset(layout.tags[_HASH]), 8))[1]
        return count
    if _GNU_HASH in layout.tags:
        return _gnu_hash_symbols(image, layout.offset(layout.tags[_GNU_HASH]))
    raise WheelError("nothing says how many symbols there are")


def _read_needed_versions(
    image: FileBytes, offset: int, count: int, strings: _Strings, budget: Budget
) -> tuple[dict[str, tuple[str, ...]], dict[int, str]]:
    """Read `.gnu.version_r`: versions asked of each file, and the name behind each version index."""
    files: dict[str, tuple[str, ...]] = {}
    names: dict[int, str] = {}
    for _ in range(min(count, MAX_HEADERS)):
        version, entries, file, aux, following = struct.unpack("<HHIII", image.read(offset, 16))
        if version != 1:
            raise WheelError(f"a version requirement of format {version}")
        wanted: list[str] = []
        at = offset + aux
        for _ in range(entries):
            _, flags, index, name, step = struct.unpack("<IHHII", image.read(at, 16))
            names[index & 0x7FFF] = strings.at(name)
            if not flags & 2:
                wanted.append(strings.at(name))
            at += step
            if step == 0:
                break
        name_of_file = strings.at(file)
        budget.take(steps=len(files.get(name_of_file, ())))
        files[name_of_file] = tuple(sorted({*files.get(name_of_file, ()), *wanted}))
        offset += following
        if following == 0:
            break
    return files, names


def _read_defined_versions(image: FileBytes, offset: int, count: int, strings: _Strings) -> dict[int, str]:
    """Read `.gnu.version_d`: version index -> name; the base version (the file's own name) is left out."""
    names: dict[int, str] = {}
    for _ in range(min(count, MAX_HEADERS)):
        version, flags, index, _, _, aux, following = struct.unpack("<HHHHIII", image.read(offset, 20))
        if version != 1:
            raise WheelError(f"a version definition of format {version}")
        name = struct.unpack("<I", image.read(offset + aux, 4))[0]
        if not flags & 1:
            names[index & 0x7FFF] = strings.at(name)
        offset += following
        if following == 0:
            break
    return names


def _endless() -> int:
    raise WheelError(f"a symbol has a name of more than {MAX_NAME} bytes")


def _alike(names: list[int], heads: list[int], versions: tuple[int, ...]) -> dict[tuple[int, int], list[int]]:
    """Return the places of the names of symbols that have everything else in common."""
    places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    numbers = versions or tuple(repeat(1, len(heads)))
    for first in range(0, len(names), MAX_HEADERS):
        some = slice(first, first + MAX_HEADERS)
        for at, key in zip(names[some], zip(heads[some], numbers[some], strict=True), strict=True):
            places[key].append(at)
        if len(places) > MAX_HEADERS:
            raise WheelError(f"symbols of more than {MAX_HEADERS} kinds")
    return places


def read_symbols(
    table: bytes,
    strings: bytes,
    versions: tuple[int, ...],
    needed: dict[int, str],
    defined: dict[int, str],
    *,
    budget: Budget | None = None,
) -> tuple[SymbolGroup, ...]:
    """Decode a dynamic symbol table with its strings and version indexes; nameless and local symbols are left out."""
    budget = budget or Budget("the symbol table", LIBRARY)
    budget.take(items=len(table) // _SYM.size)
    # There are hundreds of thousands, so that nothing is done for each that can be done for all that are alike.
    words = array("I", table)
    if sys.byteorder == "big":
        words.byteswap()
    # Of the six words of a symbol: its name, then info, other and section index as one number.
    names_at, heads = words[::_SYM_WORDS].tolist(), words[1::_SYM_WORDS].tolist()
    places = _alike(names_at, heads, versions)
    # Names are cut out of one text, in which a byte is a character.
    text, ascii_alone = strings.decode("latin-1"), strings.isascii()
    find, last = text.find, text.rfind("\0")
    joined: defaultdict[tuple[str, str, bool, str | None, bool], list[str]] = defaultdict(list)
    for (head, number), ats in places.items():
        binding, section = head >> 4 & 15, head >> 16
        if binding == 0:
            continue
        if max(ats) > last:
            raise WheelError(f"a symbol has its name at {max(ats)}, outside a string table of {len(text)} bytes")
        # Index 0 is local, 1 is the base version: neither is a version by name.
        index = number & 0x7FFF
        version = (defined if section else needed).get(index) if index > 1 else None
        names: list[str] = []
        for first in range(0, len(ats), AT_ONCE):
            # Names may overlap, so that their sum is not bounded by the table they stand in.
            some = ats[first : first + AT_ONCE]
            fresh = [text[at : end if (end := find("\0", at, at + MAX_NAME)) > 0 else _endless()] for at in some if at]
            # A version stands behind each name later; what is not ASCII takes up to four times as much.
            kept = sum(map(len, fresh)) + len(fresh) * len(version or "")
            budget.take(kept=kept if ascii_alone else 4 * kept)
            names += fresh
        if not ascii_alone:
            names = [
                name if name.isascii() else name.encode("latin-1").decode("utf-8", "backslashreplace") for name in names
            ]
        is_defined = section != 0 and (index != 0 or not versions)
        joined[_BOUND[binding], VISIBILITIES[head >> 8 & 3], is_defined, version, not number & 0x8000].extend(names)
    return tuple(SymbolGroup(*key, tuple(names)) for key, names in joined.items() if names)


def read_elf(image: FileBytes, *, sections: bool = True, budget: Budget | None = None) -> ElfLibrary:
    """Read one shared object.

    Args:
        image: its bytes.
        sections: whether names of sections are wanted, which may stand far from everything else.
        budget: what it may cost; by default what any library may.

    Raises:
        WheelError: it is damaged, no 64-bit little-endian ELF file, or costs more than the budget.
        Unread: a part that is needed was not kept; fetch it and call again.
    """
    try:
        budget = budget or Budget("the library", LIBRARY)
        return _read_elf(BudgetedImage(image, budget), wanted=sections, budget=budget)
    except struct.error as error:
        raise WheelError(f"a table is cut short: {error}") from error


def _read_elf(image: FileBytes, *, wanted: bool, budget: Budget) -> ElfLibrary:
    header = read_header(image.read(0, min(64, image.size)))
    layout = _Layout(image, header)
    raw_sections = _sections(image, header)
    sections = _section_names(image, header, raw_sections, budget) if wanted else ()
    if not layout.dynamic or _STRTAB not in layout.tags or _SYMTAB not in layout.tags:
        return ElfLibrary(machine=header.machine, sections=sections)
    tags = layout.tags
    if tags.get(_STRSZ, 0) > MAX_STRINGS:
        raise WheelError(f"a string table of {tags[_STRSZ]} bytes")
    raw_strings = image.read(layout.offset(tags[_STRTAB]), tags.get(_STRSZ, 0))
    strings = _Strings(raw_strings, budget)
    count = _count_symbols(image, layout, raw_sections)
    if count > MAX_SYMBOLS:
        raise WheelError(f"it has {count} symbols, more than {MAX_SYMBOLS}: refused")
    table = image.read(layout.offset(tags[_SYMTAB]), count * _SYM.size)
    needs: dict[str, tuple[str, ...]] = {}
    needed: dict[int, str] = {}
    defined: dict[int, str] = {}
    versions: tuple[int, ...] = ()
    if _VERSYM in tags:
        versions = struct.unpack(f"<{count}H", image.read(layout.offset(tags[_VERSYM]), count * 2))
    if _VERNEED in tags:
        needs, needed = _read_needed_versions(
            image, layout.offset(tags[_VERNEED]), tags.get(_VERNEEDNUM, MAX_HEADERS), strings, budget
        )
    if _VERDEF in tags:
        defined = _read_defined_versions(
            image, layout.offset(tags[_VERDEF]), tags.get(_VERDEFNUM, MAX_HEADERS), strings
        )
    return ElfLibrary(
        machine=header.machine,
        soname=strings.at(tags[_SONAME]) if _SONAME in tags else None,
        needed=tuple(strings.at(value) for value in layout.lists[_NEEDED]),
        rpath=_paths(strings, tags.get(_RPATH)),
        runpath=_paths(strings, tags.get(_RUNPATH)),
        groups=read_symbols(table, raw_strings, versions, needed, defined, budget=budget),
        needed_versions=needs,
        defined_versions=tuple(sorted(set(defined.values()))),
        sections=sections,
    )


def _paths(strings: _Strings, offset: int | None) -> tuple[str, ...]:
    return () if offset is None else tuple(path for path in strings.at(offset).split(":") if path)


def data_ranges(image: FileBytes) -> list[tuple[int, int]] | None:
    """Return (start, end) of what is loaded of a file and may be data: all but machine code and what debuggers read.

    None where that cannot be told from the beginning of the file. Linkers that keep code apart (`-z separate-code`,
    the default of GNU ld on x86-64) put read-only data in a segment of its own behind it; others put them in with it.
    """
    try:
        header = read_header(image.read(0, min(64, image.size)))
        loaded = [segment for segment in _segments(image, header) if segment.type == _PT_LOAD]
    except (Unread, WheelError, struct.error):
        return None
    last = max((one.offset for one in loaded if not one.flags & (_PF_X | _PF_W)), default=0)
    kept = (one for one in loaded if not one.flags & _PF_X or one.offset >= last)
    return [(one.offset, one.offset + one.size) for one in kept] or None


def wanted_ranges(image: FileBytes) -> list[tuple[int, int]]:
    """Return the ranges of a file still streaming in that `read_elf` will ask for, as far as they can be known yet.

    What cannot be known yet is left out, so this is asked again when more has come in. Damage is left for
    `read_elf` to tell.
    """
    wanted: list[tuple[int, int]] = []
    try:
        header = read_header(image.read(0, min(64, image.size)))
        if header.shoff and header.shentsize == _SHDR.size:
            wanted.append((header.shoff, min(max(header.shnum, 1) * _SHDR.size, image.size - header.shoff)))
        wanted.append((header.phoff, header.phnum * _PHDR.size))
        dynamic = (one for one in _segments(image, header) if one.type == _PT_DYNAMIC and one.size <= 1 << 20)
        wanted.extend((one.offset, one.size) for one in dynamic)
        layout = _Layout(image, header)
        tables = sorted(
            layout.offset(layout.tags[tag])
            for tag in (_HASH, _GNU_HASH, _STRTAB, _SYMTAB, _VERSYM, _VERDEF, _VERNEED)
            if tag in layout.tags
        )
        for index, start in enumerate(tables):
            # A table ends at the latest where the next one starts; the last one gets a generous guess.
            end = tables[index + 1] if index + 1 < len(tables) else start + (1 << 20)
            wanted.append((start, min(end, start + (64 << 20)) - start))
        if _STRTAB in layout.tags:
            wanted.append((layout.offset(layout.tags[_STRTAB]), min(layout.tags.get(_STRSZ, 0), MAX_STRINGS)))
        wanted.extend((s[3], s[4]) for s in _sections(image, header) if s[1] == 3 and s[4] <= 1 << 20)
    except (Unread, WheelError, struct.error):
        pass
    return [(offset, min(length, image.size - offset)) for offset, length in wanted if 0 <= offset < image.size]
