"""Reads the dynamic part of ELF shared objects the way the dynamic linker does: from program headers and `.dynamic`.

Section headers are used for two things alone: where the GPU code lies, and as one of three ways to learn how many
symbols there are. Layouts: System V ABI and GNU extensions (`man 5 elf`, LSB "Symbol Versioning").
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import defaultdict
from itertools import repeat

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.wheels.bytes_at import BudgetedImage, FileBytes, Unread
from assay.wheels.elf_header import (
    AT_ONCE,
    BOUND,
    GNU_HASH,
    HASH,
    MAX_HEADERS,
    MAX_NAME,
    MAX_STRINGS,
    MAX_SYMBOLS,
    NEEDED,
    PF_W,
    PF_X,
    PHDR,
    PT_DYNAMIC,
    PT_LOAD,
    RPATH,
    RUNPATH,
    SHDR,
    SHT_DYNSYM,
    SONAME,
    STRSZ,
    STRTAB,
    SYM,
    SYM_WORDS,
    SYMTAB,
    VERDEF,
    VERDEFNUM,
    VERNEED,
    VERNEEDNUM,
    VERSYM,
    VISIBILITIES,
    ElfLibrary,
    Layout,
    Strings,
    SymbolGroup,
    gnu_hash_symbols,
    read_header,
    section_headers,
    section_names,
    segments,
)

__all__ = ["data_ranges", "read_elf", "read_symbols", "wanted_ranges"]


def _count_symbols(image: FileBytes, layout: Layout, sections: list[tuple[int, int, int, int, int, int]]) -> int:
    address = layout.tags[SYMTAB]
    for _, kind, at, _, size, _ in sections:
        if kind == SHT_DYNSYM and at == address:
            return size // SYM.size
    if HASH in layout.tags:
        count: int = struct.unpack("<II", image.read(layout.offset(layout.tags[HASH]), 8))[1]
        return count
    if GNU_HASH in layout.tags:
        return gnu_hash_symbols(image, layout.offset(layout.tags[GNU_HASH]))
    raise WheelError("nothing says how many symbols there are")


def _read_needed_versions(
    image: FileBytes, offset: int, count: int, strings: Strings, budget: Budget
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


def _read_defined_versions(image: FileBytes, offset: int, count: int, strings: Strings) -> dict[int, str]:
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
    budget.take(items=len(table) // SYM.size)
    # There are hundreds of thousands, so that nothing is done for each that can be done for all that are alike.
    words = array("I", table)
    if sys.byteorder == "big":
        words.byteswap()
    # Of the six words of a symbol: its name, then info, other and section index as one number.
    names_at, heads = words[::SYM_WORDS].tolist(), words[1::SYM_WORDS].tolist()
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
        joined[BOUND[binding], VISIBILITIES[head >> 8 & 3], is_defined, version, not number & 0x8000].extend(names)
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
    layout = Layout(image, header)
    raw_sections = section_headers(image, header)
    sections = section_names(image, header, raw_sections, budget) if wanted else ()
    if not layout.dynamic or STRTAB not in layout.tags or SYMTAB not in layout.tags:
        return ElfLibrary(machine=header.machine, sections=sections)
    tags = layout.tags
    if tags.get(STRSZ, 0) > MAX_STRINGS:
        raise WheelError(f"a string table of {tags[STRSZ]} bytes")
    raw_strings = image.read(layout.offset(tags[STRTAB]), tags.get(STRSZ, 0))
    strings = Strings(raw_strings, budget)
    count = _count_symbols(image, layout, raw_sections)
    if count > MAX_SYMBOLS:
        raise WheelError(f"it has {count} symbols, more than {MAX_SYMBOLS}: refused")
    table = image.read(layout.offset(tags[SYMTAB]), count * SYM.size)
    needs: dict[str, tuple[str, ...]] = {}
    needed: dict[int, str] = {}
    defined: dict[int, str] = {}
    versions: tuple[int, ...] = ()
    if VERSYM in tags:
        versions = struct.unpack(f"<{count}H", image.read(layout.offset(tags[VERSYM]), count * 2))
    if VERNEED in tags:
        needs, needed = _read_needed_versions(
            image, layout.offset(tags[VERNEED]), tags.get(VERNEEDNUM, MAX_HEADERS), strings, budget
        )
    if VERDEF in tags:
        defined = _read_defined_versions(image, layout.offset(tags[VERDEF]), tags.get(VERDEFNUM, MAX_HEADERS), strings)
    return ElfLibrary(
        machine=header.machine,
        soname=strings.at(tags[SONAME]) if SONAME in tags else None,
        needed=tuple(strings.at(value) for value in layout.lists[NEEDED]),
        rpath=_paths(strings, tags.get(RPATH)),
        runpath=_paths(strings, tags.get(RUNPATH)),
        groups=read_symbols(table, raw_strings, versions, needed, defined, budget=budget),
        needed_versions=needs,
        defined_versions=tuple(sorted(set(defined.values()))),
        sections=sections,
    )


def _paths(strings: Strings, offset: int | None) -> tuple[str, ...]:
    return () if offset is None else tuple(path for path in strings.at(offset).split(":") if path)


def data_ranges(image: FileBytes) -> list[tuple[int, int]] | None:
    """Return (start, end) of what is loaded of a file and may be data: all but machine code and what debuggers read.

    None where that cannot be told from the beginning of the file. Linkers that keep code apart (`-z separate-code`,
    the default of GNU ld on x86-64) put read-only data in a segment of its own behind it; others put them in with it.
    """
    try:
        header = read_header(image.read(0, min(64, image.size)))
        loaded = [segment for segment in segments(image, header) if segment.type == PT_LOAD]
    except (Unread, WheelError, struct.error):
        return None
    last = max((one.offset for one in loaded if not one.flags & (PF_X | PF_W)), default=0)
    kept = (one for one in loaded if not one.flags & PF_X or one.offset >= last)
    return [(one.offset, one.offset + one.size) for one in kept] or None


def wanted_ranges(image: FileBytes) -> list[tuple[int, int]]:
    """Return the ranges of a file still streaming in that `read_elf` will ask for, as far as they can be known yet.

    What cannot be known yet is left out, so this is asked again when more has come in. Damage is left for
    `read_elf` to tell.
    """
    wanted: list[tuple[int, int]] = []
    try:
        header = read_header(image.read(0, min(64, image.size)))
        if header.shoff and header.shentsize == SHDR.size:
            wanted.append((header.shoff, min(max(header.shnum, 1) * SHDR.size, image.size - header.shoff)))
        wanted.append((header.phoff, header.phnum * PHDR.size))
        dynamic = (one for one in segments(image, header) if one.type == PT_DYNAMIC and one.size <= 1 << 20)
        wanted.extend((one.offset, one.size) for one in dynamic)
        layout = Layout(image, header)
        tables = sorted(
            layout.offset(layout.tags[tag])
            for tag in (HASH, GNU_HASH, STRTAB, SYMTAB, VERSYM, VERDEF, VERNEED)
            if tag in layout.tags
        )
        for index, start in enumerate(tables):
            # A table ends at the latest where the next one starts; the last one gets a generous guess.
            end = tables[index + 1] if index + 1 < len(tables) else start + (1 << 20)
            wanted.append((start, min(end, start + (64 << 20)) - start))
        if STRTAB in layout.tags:
            wanted.append((layout.offset(layout.tags[STRTAB]), min(layout.tags.get(STRSZ, 0), MAX_STRINGS)))
        wanted.extend((s[3], s[4]) for s in section_headers(image, header) if s[1] == 3 and s[4] <= 1 << 20)
    except (Unread, WheelError, struct.error):
        pass
    return [(offset, min(length, image.size - offset)) for offset, length in wanted if 0 <= offset < image.size]
