"""GPU code: equal to cuobjdump on every suffix and compression, in any chunks, and through damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.audit.gpu import Run, capability_of, group_runs, jit, runs
from assay.errors import WheelError
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf
from assay.wheels.elf_header import read_header
from assay.wheels.facts import Library
from assay.wheels.fatbin import FatbinEntry, FatbinWalker, cubin_target, walk
from assay.wheels.gpu_code import CodeGroup
from assay.wheels.kernels import kernel_names
from assay.wheels.member import MemberReader

FIXTURES = Path(__file__).parents[1] / "fixtures" / "fatbin"
RELOCATABLE = "fat_rdc.so"
"""Compiled with -rdc and never linked for a device: cuobjdump lists what no driver can load."""
ORACLE: dict[str, list[list[str | None]]] = json.loads((FIXTURES / "cuobjdump.json").read_text())["entries"]
GOOD = (FIXTURES / "fat_suffixes.so").read_bytes()


def in_section(data: bytes) -> list[list[str | None]]:
    names = {".nv_fatbin", "__nv_relfatbin"}
    section = next(s for s in read_elf(FileImage(data)).sections if s.name in names)
    return [
        [entry.kind, entry.target, entry.isa]
        for container in walk([data])
        if section.offset <= container.offset < section.offset + section.size
        for entry in container.entries
    ]


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_equal_to_cuobjdump(name: str) -> None:
    assert ORACLE[name] == in_section((FIXTURES / name).read_bytes())


@pytest.mark.parametrize("name", sorted({*ORACLE} - {RELOCATABLE}))
def test_containers_fill_their_section(name: str) -> None:
    data = (FIXTURES / name).read_bytes()
    section = next(s for s in read_elf(FileImage(data)).sections if s.name == ".nv_fatbin")
    inside = [c for c in walk([data]) if section.offset <= c.offset < section.offset + section.size]

    assert section.size == sum((c.size + 7) // 8 * 8 for c in inside)
    assert {None} == {c.damage for c in inside}


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_kernels_are_named_whatever_the_compression(name: str) -> None:
    found = {kernel for c in walk([(FIXTURES / name).read_bytes()]) if c.sample for kernel in kernel_names(*c.sample)}

    assert {"add_one", "_ZN6marlin6MarlinEPf"} == found


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_chunks_do_not_matter(sizes: list[int]) -> None:
    walker = FatbinWalker()
    at = number = 0
    while at < len(GOOD):
        size = sizes[number % len(sizes)]
        walker.feed(GOOD[at : at + size])
        at, number = at + size, number + 1

    assert walk([GOOD]) == walker.finish()


PYBIND = (
    b"Python version mismatch: module was compiled for Python %s, but the interpreter version is incompatible: %s.\0"
)
PHDR = struct.Struct("<IIQQQQQQ")


def with_segments(data: bytes, change: Callable[[int, int, int, int], tuple[int, int]]) -> bytes:
    """Return an ELF file with other flags and bytes of its loaded segments: of (number, flags, offset, bytes)."""
    changed, number = bytearray(data), 0
    header = read_header(data)
    for at in range(header.phoff, header.phoff + header.phnum * PHDR.size, PHDR.size):
        kind, flags, offset, address, physical, size, *more = PHDR.unpack_from(data, at)
        if kind == 1:
            flags, size = change(number, flags, offset, size)
            PHDR.pack_into(changed, at, kind, flags, offset, address, physical, size, *more)
            number += 1
    return bytes(changed)


def facts_of(data: bytes, step: int) -> Library:
    reader = MemberReader("x.so", len(data))
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    library = reader.finish()
    assert library is not None
    return library


STRINGS = bytes(3000) + b"\x003.12\0" + PYBIND + bytes(2000) + b"built for sm_80 sm_90a compute_120 \0" + bytes(500)
MARKED = with_segments(
    GOOD + STRINGS, lambda number, flags, at, size: (flags, len(GOOD + STRINGS) - at if number == 3 else size)
)
"""What is loaded goes on to the end of the file."""


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_strings_that_tell_something_are_found_however_the_file_is_cut(sizes: list[int]) -> None:
    reader = MemberReader("torch/lib/libtorch_python.so", len(MARKED))
    at = number = 0
    while at < len(MARKED):
        size = sizes[number % len(sizes)]
        reader.feed(MARKED[at : at + size])
        at, number = at + size, number + 1
    library = reader.finish()

    assert library is not None
    assert {"pybind11_python": "3.12", "torch_archs": "sm_80 sm_90a compute_120"} == library.notes


@pytest.mark.parametrize("step", [700, 1024, 4096, 1 << 20])
def test_code_for_gpus_beside_machine_code_is_found_where_nothing_is_kept_apart(step: int) -> None:
    """Of the four segments code is the second; GPU code is in the third."""
    flags = {0: 4, 1: 4, 2: 5, 3: 6}
    beside = with_segments(GOOD, lambda number, _flags, _at, size: (flags[number], size))

    assert facts_of(GOOD, 1 << 20).gpu is not None
    assert facts_of(GOOD, 1 << 20) == facts_of(beside, step) == facts_of(GOOD, step)


def test_code_for_gpus_in_what_is_machine_code_alone_is_told_as_damage() -> None:
    flags = {0: 4, 1: 4, 2: 5, 3: 4}
    odd = with_segments(GOOD, lambda number, _flags, _at, size: (flags[number], size))
    found = facts_of(odd, 1024).gpu

    assert found is not None
    assert any("containers cover" in words for words in found.damage)


def test_bytes_are_skipped_only_where_no_container_is_open() -> None:
    whole = walk([GOOD])
    walker, passed = FatbinWalker(), 0
    for at in range(0, len(GOOD), 512):
        chunk = GOOD[at : at + 512]
        if b"\x50\xed\x55\xba" not in GOOD[max(0, at - 128) : at + 640] and walker.pass_over(len(chunk)):
            passed += 1
        else:
            walker.feed(chunk)

    assert whole == walker.finish()
    assert passed


def test_leftovers_of_relocatable_code_do_not_count() -> None:
    data = (FIXTURES / RELOCATABLE).read_bytes()
    reader = MemberReader("x.so", len(data))
    reader.feed(data)
    library = reader.finish()

    assert ORACLE[RELOCATABLE] == in_section(data)
    assert library is not None
    assert library.gpu is None


@settings(max_examples=300, deadline=1000)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_damage_never_raises(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    for container in walk([bytes(data)]):
        if container.sample:
            with suppress(WheelError):
                kernel_names(*container.sample)


def test_a_container_cut_short_is_reported() -> None:
    found = walk([GOOD[: len(GOOD) // 3]])

    assert found
    assert found[-1].damage is not None


@pytest.mark.parametrize(
    ("target", "capability", "expected"),
    [
        ("120", 120, True), ("120a", 120, True), ("120f", 120, True), ("120f", 121, True), ("121f", 120, False),
        ("120a", 121, False), ("120", 121, True), ("121", 120, False), ("90", 120, False), ("90a", 90, True),
        ("100f", 103, True), ("100f", 120, False), ("100a", 103, False), ("80", 89, True), ("86", 80, False),
        ("87", 89, False), ("87", 87, True), ("80", 87, False), ("101", 101, True), ("101", 103, False),
        ("110f", 110, True), ("rubbish", 120, False),
    ],
)  # fmt: skip
def test_which_gpu_runs_which_machine_code(target: str, capability: int, expected: bool) -> None:
    assert expected is runs(target, capability)


@pytest.mark.parametrize(
    ("target", "capability", "expected"),
    [
        ("80@8.7", 120, True), ("120@9.0", 120, True), ("121@9.0", 120, False), ("90a@8.7", 120, False),
        ("90a@8.7", 90, True), ("120f@9.0", 121, True), ("100f@9.0", 120, False), ("52", 120, True),
    ],
)  # fmt: skip
def test_which_ptx_can_be_compiled(target: str, capability: int, expected: bool) -> None:
    assert expected is jit(target, capability)


@pytest.mark.parametrize(
    ("sass", "ptx", "driver", "expected"),
    [
        (("120",), ("80@8.7",), None, (Run.SASS, None)),
        (("80",), ("80@8.7", "90@9.0"), None, (Run.PTX, "12.8")),
        (("80",), ("90@9.0",), "12.8", (Run.NONE, None)),
        (("80",), ("90@8.7",), "12.8", (Run.PTX, "12.8")),
        (("80", "90a"), (), None, (Run.NONE, None)),
        ((), ("80@99.9",), None, (Run.PTX, None)),
    ],
)
def test_the_best_entry_of_a_container_counts(
    sass: tuple[str, ...], ptx: tuple[str, ...], driver: str | None, expected: tuple[Run, str | None]
) -> None:
    group = CodeGroup(sass=sass, ptx=ptx, containers=1)

    assert expected == group_runs(group, 120, {"8.7": "12.8", "9.0": "13.0"}, driver)


@pytest.mark.parametrize("text", ["12.0", "sm_120", "120"])
def test_capabilities_are_read_as_people_write_them(text: str) -> None:
    assert capability_of(text) == 120


def test_no_cubin_is_no_target() -> None:
    assert cubin_target(b"") is None
    assert cubin_target(GOOD[:64]) is None


@pytest.mark.parametrize("padding", range(8))
@given(code=st.binary(min_size=1, max_size=300), tail=st.integers(0, 40))
def test_a_block_without_its_length_is_unpacked(padding: int, code: bytes, tail: int) -> None:
    """Some compilers leave the length of the LZ4 block out, and pad it with zeros."""
    text = b".entry " + b"k" * 40 + b"\n" + code.replace(b".", b"") * 3 + bytes(tail)
    packed = lz4.block.compress(text, store_size=False)
    entry = FatbinEntry("ptx", "120", "8.7", len(packed) + padding, len(text), "lz4", 0)

    assert ("k" * 40,) == kernel_names(entry, packed + bytes(padding))


def test_where_a_padded_block_ends_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong place costs as much as the right one, and cubins have megabytes; they end in zeros, as tables do."""
    text = bytes(range(256)) * 40 + bytes(400)
    packed = lz4.block.compress(text, store_size=False)
    tried = []
    real = lz4.block.decompress

    def decompress(data: bytes, **known: int) -> bytes:
        tried.append(len(data))
        return bytes(real(data, **known))

    monkeypatch.setattr(lz4.block, "decompress", decompress)
    for padding in range(8):
        kernel_names(FatbinEntry("ptx", "120", "8.7", 0, len(text), "lz4", 0), packed + bytes(padding))

    assert [len(packed)] * 8 == tried
