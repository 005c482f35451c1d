"""Reads the symbol tables of a shared object from its first bytes alone.

Linkers put `.dynsym`, `.dynstr` and the version tables into the first segment, while `.dynamic` and the section
headers stand at the end. So the tables are found by their shape, and the result is accepted only if every part of
it fits every other one: all names index into the strings, all version numbers are explained by the version
requirements, and those name shared libraries. Where anything does not fit the whole file has to be read
(`read_elf`), as for files that patchelf rewrote.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.wheels.elf import read_symbols
from assay.wheels.elf_header import ElfLibrary, SymbolGroup, read_header

__all__ = ["NeedMore", "read_prefix"]

_SYM: Final = struct.Struct("<IBBHQQ")
_NULL: Final = b"\0" * 24
_BINDINGS: Final = frozenset({0, 1, 2, 10})
_TYPES: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 10})
_LIBRARY: Final = re.compile(r"[\w.+\-]{1,255}\.so(?:\.[\w.]+)?")
MAX_LIBRARY: Final = 255
MAX_WORD: Final = 4096
"""Bytes of a version's name."""
_NONZERO: Final = re.compile(rb"[^\0]")
_MIN_SYMBOLS: Final = 3
SEARCHED: Final = 4 << 20
"""Bytes from the start in which the symbol table is looked for."""
_SPARE: Final = 4096


class NeedMore(Exception):
    """The tables are there but reach beyond the bytes at hand; at least `size` bytes are needed."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes are needed")
        self.size = size


def read_prefix(data: bytes, size: int, *, budget: Budget | None = None) -> ElfLibrary | None:
    """Read symbols, versions and library names from the first bytes of a file of `size` bytes.

    Returns None if the file is laid out so that its first bytes do not tell. The result's `needed` has no order
    and may hold more than `.dynamic` would say: all library names among the strings but the own one.

    Raises:
        NeedMore: the tables go on beyond `data`.
        WheelError: not a 64-bit little-endian ELF file, or more to read than the budget allows.
    """
    budget = budget or Budget("the library", LIBRARY)
    header = read_header(data[:64])
    start = _symbols_start(data, header.phoff + header.phnum * header.phentsize)
    if start is None:
        if len(data) < 1 << 20:
            _more(data, size)
        return None
    count = _symbols_count(data, start)
    budget.take(steps=count)
    strings = start + count * _SYM.size
    if strings + _SYM.size > len(data):
        _more(data, size)
    table = data[start:strings]
    names = [name for name, *_ in _SYM.iter_unpack(table)]
    last = max(names)
    if data[strings : strings + 1] != b"\0" or last > 64 << 20:
        return None
    if strings + last + 4096 > len(data):
        _more(data, size, strings + last + count * 2 + 8192)
    found = _versions(data, strings, last, count, size=size, budget=budget)
    if found is None:
        return None
    text = data[strings : found.end]
    budget.take(unpacked=len(text))
    if last >= len(text):
        return None
    try:
        groups = read_symbols(table, text, found.versions, found.named, found.defined, budget=budget)
    except WheelError:
        if budget.spent:
            raise
        return None
    if not all(_are_names(group) for group in groups):
        return None
    ends = text.count(b"\0")
    budget.take(items=ends, kept=len(text))
    words = {word.decode("ascii", "replace") for word in text.split(b"\0")}
    libraries = sorted(word for word in words if len(word) <= MAX_LIBRARY and _LIBRARY.fullmatch(word))
    # Whether it is DT_RPATH or DT_RUNPATH stands in .dynamic; the former reaches further.
    folders = tuple(folder for word in sorted(words) if "$ORIGIN" in word for folder in word.split(":") if folder)
    return ElfLibrary(
        machine=header.machine,
        needed=tuple(libraries),
        rpath=folders,
        groups=groups,
        needed_versions=found.files,
        defined_versions=tuple(sorted(set(found.defined.values()))),
    )


def _more(data: bytes, size: int, least: int = 0) -> None:
    """Ask for more of the file if there is more."""
    if len(data) < size:
        raise NeedMore(min(size, max(least, 2 * len(data))))


class _Tables(NamedTuple):
    """The version tables, and where the strings before them end."""

    end: int
    versions: tuple[int, ...]
    files: dict[str, tuple[str, ...]]
    named: dict[int, str]
    defined: dict[int, str]


def _are_names(group: SymbolGroup) -> bool:
    text = "".join(group.names)
    return group.binding != "other" and text.isprintable() and " " not in text


def _plausible(data: bytes, at: int) -> bool:
    name, info, other, _, _, _ = _SYM.unpack_from(data, at)
    return info >> 4 in _BINDINGS and info & 15 in _TYPES and other < 4 and name < 64 << 20


def _symbols_start(data: bytes, floor: int) -> int | None:
    """Find the null symbol that begins `.dynsym`: 24 zero bytes, then entries that read as symbols."""
    at = (floor + 7) // 8 * 8
    while at < min(len(data), SEARCHED):
        found = data.find(_NULL, at)
        if found < 0:
            return None
        found = (found + 7) // 8 * 8
        # The null symbol is the last of a run of zeros; the run is passed over whole, however long it is.
        rest = _NONZERO.search(data, found)
        end = rest.start() // 8 * 8 if rest else len(data)
        start = end - 24
        if start >= found and _begins(data, end):
            return start
        at = max(end, found + 8)
    return None


def _begins(data: bytes, first: int) -> bool:
    """Tell whether symbols stand here: the first ones after the null symbol."""
    if first + _MIN_SYMBOLS * 24 > len(data):
        return False
    for index in range(_MIN_SYMBOLS):
        place = first + index * 24
        if not _plausible(data, place):
            return False
        name, info = struct.unpack_from("<IB", data, place)
        # Section symbols have no name; everything else that is dynamic has one and is not local.
        if name == 0 and info & 15 != 3:
            return False
        if name and info >> 4 == 0:
            return False
    return True


def _symbols_count(data: bytes, start: int) -> int:
    at = start + 24
    while at + 24 <= len(data) and _plausible(data, at):
        name, info = struct.unpack_from("<IB", data, at)
        if name == 0 and info & 15 != 3:
            break
        at += 24
    return (at - start) // 24


def _versions(data: bytes, strings: int, last: int, count: int, *, size: int, budget: Budget) -> _Tables | None:
    """Find where the strings end: where a version table of `count` numbers and its requirements follow."""
    end = data.find(b"\0", strings + last)
    if end < 0:
        _more(data, size)
        return None
    end += 1
    spare = 0
    fits: list[_Tables] = []
    while True:
        table = end + (end & 1)
        following = (table + 2 * count + 7) // 8 * 8
        if following + 4096 > len(data):
            _more(data, size, following + 8192)
        budget.take(steps=1)
        read = _read_versions(data, strings, end, count, budget)
        if read is not None:
            budget.take(steps=count)
        if read is not None and _explains(data, strings - count * _SYM.size, read):
            fits.append(read)
        if fits and (table > fits[0].end + 17 or data[end : end + 1] != b"\0"):
            # Alignment lets tables a few bytes apart end at the same place: only one reading may fit.
            return fits[0] if len({fit.versions for fit in fits}) == 1 else None
        if data[end : end + 1] == b"\0":
            # Linkers leave spare room behind the strings; the version table begins within this run of zeros.
            end += 1
            spare += 1
            if spare > _SPARE:
                return None
            continue
        step = data.find(b"\0", end)
        # Between the last symbol name and the version table lie library and version names: short printable words.
        word = data[end:step]
        if spare or step < 0 or step - end > 512 or not all(32 < byte < 127 for byte in word):
            return None
        end = step + 1


def _explains(data: bytes, start: int, tables: _Tables) -> bool:
    """Every reference has no version or a required one, every definition none or a defined one.

    A linker writes either 0 or 1 for "no version" of a reference, never both in one file.
    """
    unversioned: set[int] = set()
    table = data[start : start + len(tables.versions) * _SYM.size]
    for (_, info, _, section, _, _), version in zip(_SYM.iter_unpack(table), tables.versions, strict=True):
        number = version & 0x7FFF
        if info >> 4 == 0:
            continue
        if section == 0:
            if number > 1 and number not in tables.named:
                return False
            if number < 2:
                unversioned.add(number)
        elif number != 1 and number not in tables.defined:
            return False
    return len(unversioned) < 2


def _read_versions(data: bytes, strings: int, end: int, count: int, budget: Budget) -> _Tables | None:
    table = end + (end & 1)
    at = (table + 2 * count + 7) // 8 * 8
    if at + 20 > len(data) or data[at : at + 2] != b"\1\0":
        return None
    if data[table : table + 2] != b"\0\0":
        return None
    budget.take(steps=count)
    versions = struct.unpack_from(f"<{count}H", data, table)
    defined: dict[int, str] = {}
    if struct.unpack_from("<HH", data, at) == (1, 1):
        parsed = _definitions(data, strings, end, at, budget)
        if parsed is not None:
            defined, at = parsed
    requirements = _requirements(data, strings, end, at, budget)
    return None if requirements is None else _Tables(end, versions, *requirements, defined)


def _text(data: bytes, strings: int, end: int, offset: int) -> str | None:
    stop = data.find(b"\0", strings + offset, min(end, strings + offset + MAX_WORD))
    if offset <= 0 or stop < 0:
        return None
    word = data[strings + offset : stop]
    return word.decode("ascii") if word.isascii() and word.decode("ascii").isprintable() else None


def _definitions(data: bytes, strings: int, end: int, at: int, budget: Budget) -> tuple[dict[int, str], int] | None:
    names: dict[int, str] = {}
    last = at
    while at + 28 <= len(data):
        budget.take(steps=1, items=1)
        version, flags, index, entries, _, aux, step = struct.unpack_from("<HHHHIII", data, at)
        if version != 1 or not 0 < entries <= 64 or not 20 <= aux <= 1 << 16 or at + aux + 4 > len(data):
            return None
        last = max(last, at + aux + 8 * entries, at + 20)
        name = _text(data, strings, end, struct.unpack_from("<I", data, at + aux)[0])
        if name is None:
            return None
        if not flags & 1:
            names[index] = name
        if step == 0:
            return names, (last + 7) // 8 * 8
        at += step
    return None


def _requirements(
    data: bytes, strings: int, end: int, at: int, budget: Budget
) -> tuple[dict[str, tuple[str, ...]], dict[int, str]] | None:
    files: dict[str, tuple[str, ...]] = {}
    named: dict[int, str] = {}
    while at + 16 <= len(data):
        version, entries, file, aux, step = struct.unpack_from("<HHIII", data, at)
        name_of_file = _text(data, strings, end, file)
        if version != 1 or not 0 < entries < 512 or aux != 16 or name_of_file is None:
            return None
        if len(name_of_file) > MAX_LIBRARY or not _LIBRARY.fullmatch(name_of_file):
            return None
        wanted: set[str] = set()
        place = at + aux
        budget.take(steps=entries + len(files.get(name_of_file, ())), items=1)
        for _ in range(entries):
            if place + 16 > len(data):
                return None
            _, flags, index, name, following = struct.unpack_from("<IHHII", data, place)
            word = _text(data, strings, end, name)
            if word is None:
                return None
            budget.take(kept=len(word))
            named[index & 0x7FFF] = word
            if not flags & 2:
                wanted.add(word)
            place += following
        files[name_of_file] = tuple(sorted({*files.get(name_of_file, ()), *wanted}))
        if step == 0:
            return files, named
        at += step
    return None
