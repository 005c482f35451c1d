"""The ELF readers against pyelftools, against each other, and against damage."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import WheelError
from assay.wheels.bytes_at import FileImage, SparseImage, Unread
from assay.wheels.elf import data_ranges, read_elf
from assay.wheels.elf_header import ElfLibrary
from assay.wheels.elf_prefix import NeedMore, read_prefix
from assay.wheels.member import MemberReader

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = sorted([*(FIXTURES / "elf").glob("*.so*"), *(FIXTURES / "fatbin").glob("*.so")])
BINDING = {"STB_GLOBAL": "global", "STB_WEAK": "weak", "STB_LOOS": "unique", "STB_GNU_UNIQUE": "unique"}


def by_pyelftools(data: bytes) -> dict[str, object]:
    """Read the same things with the library that nobody here wrote."""
    file = ELFFile(io.BytesIO(data))
    names: dict[int, str] = {}
    files: dict[str, set[str]] = {}
    for section in file.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for need, auxiliaries in section.iter_versions():
                for auxiliary in auxiliaries:
                    names[auxiliary["vna_other"]] = auxiliary.name
                    files.setdefault(str(need.name), set()).add(auxiliary.name)
        elif isinstance(section, GNUVerDefSection):
            for definition, auxiliaries in section.iter_versions():
                if not definition["vd_flags"] & 1:
                    names[definition["vd_ndx"]] = next(iter(auxiliaries)).name
    table = file.get_section_by_name(".dynsym")
    numbers = file.get_section_by_name(".gnu.version")
    symbols = set()
    if isinstance(table, SymbolTableSection):
        for index, symbol in enumerate(table.iter_symbols()):
            binding = symbol["st_info"]["bind"]
            if not symbol.name or binding == "STB_LOCAL":
                continue
            number = 1
            if isinstance(numbers, GNUVerSymSection):
                raw = numbers.get_symbol(index)["ndx"]
                number = raw & 0x7FFF if isinstance(raw, int) else 1
            symbols.add(
                (
                    symbol.name,
                    BINDING[binding],
                    symbol["st_shndx"] != "SHN_UNDEF",
                    names.get(number) if number > 1 else None,
                )
            )
    dynamic = file.get_section_by_name(".dynamic")
    # The attributes of a tag are made at run time.
    tags: list[Any] = list(dynamic.iter_tags()) if isinstance(dynamic, DynamicSection) else []
    return {
        "needed": tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        "soname": next((tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"), None),
        "rpath": tuple(p for tag in tags if tag.entry.d_tag == "DT_RPATH" for p in tag.rpath.split(":")),
        "runpath": tuple(p for tag in tags if tag.entry.d_tag == "DT_RUNPATH" for p in tag.runpath.split(":")),
        "symbols": symbols,
        "files": {file: tuple(sorted(found)) for file, found in files.items()},
    }


def ours(library: ElfLibrary) -> dict[str, object]:
    return {
        "needed": library.needed,
        "soname": library.soname,
        "rpath": library.rpath,
        "runpath": library.runpath,
        "symbols": {(s.name, s.binding, s.defined, s.version) for s in library.symbols},
        "files": library.needed_versions,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_equal_to_pyelftools(path: Path) -> None:
    data = path.read_bytes()

    assert by_pyelftools(data) == ours(read_elf(FileImage(data)))


def test_what_is_exported_is_what_others_can_bind_to() -> None:
    library = read_elf(FileImage((FIXTURES / "elf" / "libprovider.so.1").read_bytes()))
    exported = {(s.name, s.version, s.default) for s in library.symbols if s.exported}

    assert ("versioned", "PROV_1.0", False) in exported
    assert ("versioned", "PROV_2.0", True) in exported
    assert "hidden" not in {name for name, _, _ in exported}
    assert "shielded" in {name for name, _, _ in exported}
    assert any(s.binding == "unique" and s.exported for s in library.symbols)
    assert ("PROV_1.0", "PROV_2.0") == library.defined_versions


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_first_bytes_tell_the_same_or_nothing(path: Path) -> None:
    data = path.read_bytes()
    whole = read_elf(FileImage(data))
    size = 1024
    while True:
        try:
            read = read_prefix(data[:size], len(data))
            break
        except NeedMore as more:
            size = max(more.size, size + 1)

    if read is not None:
        assert whole.symbols == read.symbols
        assert whole.needed_versions == read.needed_versions
        assert whole.defined_versions == read.defined_versions
        assert set(whole.needed) <= set(read.needed)


def test_the_first_bytes_do_tell_for_what_linkers_make_today() -> None:
    data = (FIXTURES / "elf" / "libconsumer.so").read_bytes()
    read = read_prefix(data, len(data))

    assert read is not None
    assert ("$ORIGIN/../lib", "$ORIGIN") == read.rpath


R, RX, RW, RWX = 4, 5, 6, 7


@pytest.mark.parametrize(
    ("flags", "looked_at"),
    [
        ((R, RX, R, RW), (0, 2, 3)),
        ((RX, RW), (0, 1)),
        ((R, RX, RW), (0, 1, 2)),
        ((R, RWX, R), (0, 2)),
        ((RX, RX, R), (2,)),
        ((R, R), (0, 1)),
        ((), None),
    ],
)
def test_machine_code_is_left_out_where_read_only_data_is_behind_it(
    flags: tuple[int, ...], looked_at: tuple[int, ...] | None
) -> None:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(flags) + 1, 64, 0, 0)
    note = struct.pack("<IIQQQQQQ", 4, 4, 0, 0, 0, 64, 64, 4)
    loads = b"".join(
        struct.pack("<IIQQQQQQ", 1, flag, 4096 * at, 4096 * at, 0, 100 + at, 200, 4096) for at, flag in enumerate(flags)
    )
    data = header + note + loads

    expected = None if looked_at is None else [(4096 * at, 4096 * at + 100 + at) for at in looked_at]
    assert expected == data_ranges(FileImage(data))
    assert None is data_ranges(FileImage(data[:100]))
    assert None is data_ranges(FileImage(b"no ELF file at all" * 10))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("step", [7, 512, 1 << 20])
def test_streaming_gives_the_same_as_the_whole_file(path: Path, step: int) -> None:
    data = path.read_bytes()
    reader = MemberReader("x.so", len(data))
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    library = reader.finish()
    whole = read_elf(FileImage(data))

    assert library is not None
    assert whole.needed == library.needed
    assert {s.name for s in whole.symbols if s.exported} == set(library.exports)


def test_what_has_passed_is_requested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for nothing but the header, everything comes through `reread`."""
    monkeypatch.setattr("assay.wheels.member.FRONT", 64)
    monkeypatch.setattr("assay.wheels.member.RECENT", 64)
    data = (FIXTURES / "elf" / "libconsumer.so").read_bytes()
    asked: list[tuple[int, int]] = []

    def reread(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return data[offset : offset + length]

    reader = MemberReader("x.so", len(data))
    for at in range(0, len(data), 64):
        reader.feed(data[at : at + 64])
    library = reader.finish(reread)

    assert asked
    assert library is not None
    assert read_elf(FileImage(data)).needed == library.needed

    reader = MemberReader("x.so", len(data))
    for at in range(0, len(data), 64):
        reader.feed(data[at : at + 64])
    with pytest.raises(Unread):
        reader.finish()
    again = MemberReader("x.so", len(data), ranges=reader.wanted())
    assert again.wanted() == []


GOOD = (FIXTURES / "elf" / "libconsumer.so").read_bytes()


@settings(max_examples=300, deadline=500)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_damage_is_an_error_of_ours_and_bounded(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with suppress(WheelError):
        read_elf(FileImage(bytes(data)))
    with suppress(WheelError, NeedMore):
        read_prefix(bytes(data), len(data))


@settings(max_examples=100, deadline=500)
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_short_is_an_error_of_ours(length: int) -> None:
    with suppress(WheelError):
        read_elf(FileImage(GOOD[:length]))


@settings(max_examples=200, deadline=500)
@given(st.binary(max_size=4096))
def test_rubbish_after_an_elf_header_is_an_error_of_ours(tail: bytes) -> None:
    for data in (tail, GOOD[:64] + tail, GOOD[:512] + tail):
        with suppress(WheelError):
            read_elf(FileImage(data))


@pytest.mark.parametrize(
    ("at", "fmt", "value", "words"),
    [
        (60, "<H", 0, "sections"),  # the number stands in the first section header, made absurd below
        (58, "<H", 63, "section headers of 63 bytes"),
        (54, "<H", 8, "program headers of 8 bytes"),
        (4, "<B", 1, "64-bit"),
        (40, "<Q", 1 << 60, "outside the file"),
    ],
)
def test_absurd_headers_are_reported(at: int, fmt: str, value: int, words: str) -> None:
    data = bytearray(GOOD)
    struct.pack_into(fmt, data, at, value)
    if words == "sections":
        offset = struct.unpack_from("<Q", data, 40)[0]
        struct.pack_into("<Q", data, offset + 32, 1 << 40)

    with pytest.raises(WheelError, match=words):
        read_elf(FileImage(bytes(data)))


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 20)), max_size=20), st.integers(0, 100), st.integers(0, 20)
)
def test_a_sparse_file_gives_what_was_kept_or_says_that_it_was_not(
    parts: list[tuple[int, int]], offset: int, length: int
) -> None:
    data = bytes(range(100))
    image = SparseImage(len(data))
    kept: set[int] = set()
    for start, count in parts:
        image.add(start, data[start : start + count])
        kept |= set(range(start, min(start + count, len(data))))
    wanted = set(range(offset, offset + length))

    if offset + length > len(data):
        with pytest.raises(WheelError):
            image.read(offset, length)
    elif wanted <= kept:
        assert data[offset : offset + length] == image.read(offset, length)
    else:
        with pytest.raises(Unread):
            image.read(offset, length)


def test_megabytes_of_zeros_are_skipped_at_once() -> None:
    """Seen in a wheel: looking for the symbol table took minutes, each zero tried as its beginning."""
    data = GOOD[:64] + bytes(16 << 20)

    assert read_prefix(data, len(data)) is None
