"""What reading foreign bytes may cost in all; every kind of excess that was found, and readers that have no ceiling."""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elf_maker
import pytest
import zstandard
from wheels import facts, library, wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.index.simple import WebWheels, parse_html, parse_json
from assay.errors import PackageIndexError, WheelError
from assay.foundation.budget import FACTS, INDEX_PAGE, LIBRARY, MEASURED, READERS, WHEEL, Budget, BudgetLimits
from assay.pipeline.read_wheel import Depth, is_library, read_wheel
from assay.ports.index import IndexFile
from assay.wheels import elf, elf_prefix
from assay.wheels.archive import Directory, read_directory
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf
from assay.wheels.elf_prefix import read_prefix
from assay.wheels.facts_file import load_facts
from assay.wheels.fatbin import FLAG_ZSTD, FatbinEntry, walk
from assay.wheels.kernels import kernel_names
from assay.wheels.member import MemberReader
from assay.wheels.metadata import read_metadata

SOURCE = Path(__file__).parents[2] / "src" / "assay"
NAME = "evil-1.0-cp312-cp312-linux_x86_64.whl"
SMALL = BudgetLimits(unpacked=1000, kept=100, steps=10, items=5, seconds=60)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        ({"unpacked": 1001}, "unpacks to more than"),
        ({"kept": 101}, "names and texts"),
        ({"steps": 11}, "10 steps"),
        ({"items": 6}, "5 symbols, names or files"),
    ],
)
def test_what_is_more_than_the_budget_is_refused_by_name(spent: dict[str, int], words: str) -> None:
    budget = Budget("libevil.so", SMALL)
    with pytest.raises(WheelError, match=words) as told:
        budget.take(**spent)

    assert told.value.message.startswith("libevil.so ")
    assert budget.spent
    with pytest.raises(WheelError):
        budget.take()


def test_small_takings_add_up() -> None:
    budget = Budget("it", SMALL)
    for _ in range(5):
        budget.take(items=1, steps=2, kept=20, unpacked=200)

    with pytest.raises(WheelError):
        budget.take(items=1)


def test_a_part_is_charged_to_the_whole() -> None:
    whole = Budget("the wheel", SMALL)
    for number in range(5):
        whole.part(f"lib{number}.so", SMALL).take(items=1)

    with pytest.raises(WheelError, match="the wheel holds more"):
        whole.part("lib5.so", SMALL).take(items=1)


def test_time_is_part_of_the_budget() -> None:
    clock = Clock()
    budget = Budget("it", SMALL, clock=clock)
    clock.now = 59
    budget.take()
    clock.now = 61

    with pytest.raises(WheelError, match="longer than 60 s"):
        budget.take()


def test_the_largest_real_wheels_have_room() -> None:
    """The ceilings against what was counted in real wheels, see MEASURED."""
    assert "75 765 symbols" in MEASURED["torch 2.14.1, libtorch_cpu.so"]
    assert 5 * 75_765 <= LIBRARY.items
    assert 6_900_000 * 7 <= LIBRARY.kept
    assert 10 * 3_100_000_000 <= WHEEL.unpacked
    assert 14_100_000 * 6 <= min(WHEEL.kept, FACTS.unpacked)


# ---------------------------------------------------------------------------------------------- libraries that swell


def overlapping_symbols() -> bytes:
    return elf_maker.shared_object(
        b"\0" + b"x" * 60_000 + b"\0", symbols=tuple(1 + i * 7 % 50_000 for i in range(20_000))
    )


def overlapping_needed() -> bytes:
    return elf_maker.shared_object(b"\0" + b"x" * 60_000 + b"\0", needed=tuple(range(1, 60_001)))


def squared_needs() -> bytes:
    return elf_maker.shared_object(b"\0V\0", version_needs=lambda: elf_maker.shared_needs(300, 65_535))


def endless_name() -> bytes:
    return elf_maker.shared_object(b"\0" + b"x" * (4 << 20) + b"\0", symbols=tuple(range(1, 2000)))


SWELLING: dict[str, tuple[Callable[[], bytes], str]] = {
    "overlapping names of symbols": (overlapping_symbols, "48 MiB of names"),
    "overlapping names of libraries": (overlapping_needed, "48 MiB of names"),
    "names of megabytes": (endless_name, "more than 65536 bytes"),
}


@pytest.mark.parametrize("kind", SWELLING)
def test_the_sum_of_what_is_read_of_a_library_has_a_ceiling(kind: str) -> None:
    make, words = SWELLING[kind]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(WheelError, match=words):
            read_elf(FileImage(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 250 << 20


@pytest.mark.parametrize(("spent", "words"), [("items", "symbols, names or files"), ("steps", "steps to read")])
def test_version_requirements_that_share_entries_are_counted_each_time(spent: str, words: str) -> None:
    """3 KB of tables that say 20 million times the same."""
    budget = Budget("x.so", BudgetLimits(**{**vars(LIBRARY), spent: 20_000}))
    with pytest.raises(WheelError, match=words):
        read_elf(FileImage(squared_needs()), budget=budget)


def test_a_version_counts_behind_each_name() -> None:
    table = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0) * 20_000
    with pytest.raises(WheelError, match="48 MiB"):
        elf.read_symbols(table, b"\0a\0", (0, *(2,) * 20_000), {2: "V" * 60_000}, {})


def test_a_library_beyond_its_budget_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = elf_maker.shared_object(b"\0hello\0", symbols=(1,))
    path = tmp_path / NAME
    path.write_bytes(wheel_bytes("evil", "1.0", {"evil/a.so": overlapping_symbols(), "evil/b.so": good}))
    for depth in (Depth.FULL, Depth.SYMBOLS):
        read = read_wheel(IndexFile(project="evil", filename=NAME, url=path.as_uri()), WebWheels(), depth=depth)
        bad, fine = read.libraries

        assert bad.problem is not None
        assert "48 MiB of names and texts: refused" in bad.problem
        assert fine.problem is None
        assert {"hello"} == set(fine.exports)


def test_a_library_of_many_beginnings_of_a_name_is_read_in_no_time() -> None:
    """A name of a library that nearly matches: with nested repetition each dot doubled the time."""
    name = b"x.so" + b".a" * 60 + b"!"

    assert elf_prefix._LIBRARY.fullmatch(name.decode()) is None
    assert elf_prefix._LIBRARY.fullmatch("libx.so.1.2.3") is not None
    assert not is_library("x" * 300 + ".so")


def test_symbols_of_too_many_kinds_are_refused() -> None:
    heads, names = list(range(70_000)), [1] * 70_000
    with pytest.raises(WheelError, match="kinds"):
        elf._alike(names, heads, ())


# ------------------------------------------------------------------------------------------------------- GPU code


def zstd_of(size: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


def test_a_stream_that_unpacks_to_more_than_it_claims_is_stopped_there() -> None:
    data = zstd_of(256 << 20)
    entry = FatbinEntry("sass", "90", None, len(data), 1 << 20, "zstd", 0)
    tracemalloc.start()
    try:
        with pytest.raises(WheelError, match="more than the 1048576 bytes it claims"):
            kernel_names(entry, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16 << 20


def test_what_all_containers_unpack_to_has_a_ceiling() -> None:
    packed = zstd_of(4 << 20)
    container = elf_maker.fatbin((FLAG_ZSTD, 4 << 20, packed))
    data = elf_maker.shared_object(sections=[(".nv_fatbin", container * 40)])
    reader = MemberReader(
        "x.so", len(data), budget=Budget("the wheel", BudgetLimits(**{**vars(WHEEL), "unpacked": 1 << 24}))
    )
    for at in range(0, len(data), 512):
        reader.feed(data[at : at + 512])

    with pytest.raises(WheelError, match=r"x\.so: the wheel unpacks to more than 16 MiB"):
        reader.finish()


def test_entries_of_containers_are_counted() -> None:
    with pytest.raises(WheelError, match="symbols, names or files"):
        walk(
            [elf_maker.fatbin(*[(0, 0, b"")] * 100)],
            budget=Budget("x.so", BudgetLimits(**{**vars(LIBRARY), "items": 50})),
        )


def test_a_text_of_more_kernels_than_any_is_refused() -> None:
    text = b".entry a\n" * 30_000
    with pytest.raises(WheelError, match="more than 20000 kernels"):
        kernel_names(FatbinEntry("ptx", "90", "8.7", len(text), 0, None, 0), text)


def test_no_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("assay.wheels.kernels._unzstd", full)
    with pytest.raises(MemoryError):
        kernel_names(FatbinEntry("sass", "90", None, 8, 8, "zstd", 0), bytes(8))


# ------------------------------------------------------------------------------------------------------- archives


def test_files_that_overlap_are_refused_before_one_is_read() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", b"x" * 1000)
        archive.writestr("b", b"y" * 1000)
    data = made.getvalue()
    at = data.rfind(b"PK\1\2")
    start = data.find(b"PK\1\2")
    twice = bytearray(data[start : data.rfind(b"PK\5\6")])
    struct.pack_into("<I", twice, at - start + 42, 10)

    with pytest.raises(WheelError, match="overlap"):
        read_directory(bytes(twice), Directory(start, len(twice), 2))


def test_texts_of_many_distributions_add_up(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"evil{number}-1.0.dist-info/METADATA", b"Name: evil\n\n" + bytes(3 << 20))
    with pytest.raises(WheelError, match="96 MiB of names and texts"):
        read_wheel(IndexFile(project="evil", filename=NAME, url=path.as_uri()), WebWheels(), depth=Depth.METADATA)


# ------------------------------------------------------------------------------------------- names, versions, facts


@pytest.mark.parametrize(
    "version", ["../../../escaped", "/tmp/escaped", "1.0\0", "1.0\x1b[2J", "1.0/..", "1 0", "one", "1" * 5000, "١.٠"]
)
def test_an_invalid_version_is_refused_where_it_enters(version: str) -> None:
    with pytest.raises(WheelError, match="version"):
        read_metadata(f"Metadata-Version: 2.1\nName: evil\nVersion: {version}\n")


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "ä", "evil\x1b[2J", "x" * 100_000])
def test_what_is_not_a_name_is_refused_where_it_enters(name: str) -> None:
    with pytest.raises(WheelError, match="name"):
        read_metadata(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


@pytest.mark.parametrize(
    "line", ["Requires-Dist: a; " + "(" * 3000 + "x" + ")" * 3000, "Requires-Dist: " + "a" * 9000, "x: y\n" * 30_000]
)
def test_absurd_metadata_is_refused(line: str) -> None:
    with pytest.raises(WheelError):
        read_metadata(f"Name: evil\nVersion: 1.0\n{line}\n")


def test_metadata_of_another_version_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(wheel_bytes("evil", "2.0", {}))
    with pytest.raises(WheelError, match=r"METADATA has the version 2\.0, its name says 1\.0"):
        read_wheel(IndexFile(project="evil", filename=NAME, url=path.as_uri()), WebWheels())


@pytest.mark.parametrize("change", [{"name": "../x"}, {"version": "../../x"}, {"version": "1/2"}, {"name": "A"}])
def test_facts_cannot_hold_a_path_for_a_name(change: dict[str, str]) -> None:
    document = json.loads(facts("evil", "1.0").model_dump_json()) | change
    with pytest.raises(WheelError, match="not a distribution"):
        load_facts(gzip.compress(json.dumps(document).encode()), source="here")


def test_facts_of_millions_of_texts_are_refused_before_they_are_made() -> None:
    data = gzip.compress(b'{"name":"x","tags":[' + b'"",' * 3_000_000 + b'""]}')
    tracemalloc.start()
    try:
        with pytest.raises(WheelError, match="250000"):
            load_facts(data, source="here")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 64 << 20


@pytest.mark.parametrize(
    "head",
    [
        b'{"sha256":"a","bytes":Infinity}',
        b'{"sha256":"a","bytes":1e308}',
        b'{"sha256":"a","bytes":-5}',
        b'{"sha256":"a","bytes":true}',
        b'{"bytes":5}',
        b"[1]",
        b'{"a":' + b"[" * 4000,
    ],
)
def test_an_export_with_an_absurd_head_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(WheelError):
        FactsCache(tmp_path).take(head + b"\nrubbish", source="there")

    assert [] == list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- facts and where they are from


SHA = "a" * 64
HONEST, EVIL = "https://honest.example/simple", "https://evil.example/simple"


def test_facts_read_in_part_count_for_the_place_they_come_from_alone(tmp_path: Path) -> None:
    poison = library("evil/x.so", needed=("libpoison.so",))
    FactsCache(tmp_path).put(facts("evil", "1.0", poison, sha256=SHA, complete=False, origin=EVIL))
    cache = FactsCache(tmp_path)

    assert cache.get(SHA) is None
    assert cache.get(SHA, origins={HONEST}) is None
    assert cache.get(SHA, origins={HONEST, EVIL}) is not None
    assert [] == cache.named("evil", origins={HONEST})


def test_facts_read_in_part_without_a_place_count_for_nobody(tmp_path: Path) -> None:
    FactsCache(tmp_path).put(facts("evil", "1.0", sha256=SHA, complete=False))

    assert FactsCache(tmp_path).get(SHA, origins={HONEST, ""}) is None


def test_facts_whose_hash_was_checked_count_for_all(tmp_path: Path) -> None:
    FactsCache(tmp_path).put(facts("evil", "1.0", sha256=SHA))

    assert FactsCache(tmp_path).get(SHA) is not None


def test_facts_under_another_name_do_not_hide_those_that_were_checked(tmp_path: Path) -> None:
    FactsCache(tmp_path).put(facts("zzz", "1.0", sha256=SHA, complete=False, origin=EVIL))
    FactsCache(tmp_path).put(facts("evil", "1.0", sha256=SHA))

    assert ["evil"] == [row[0] for row in FactsCache(tmp_path).listed()]


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://user:secret@Host.example/simple/?token=x#y", "https://host.example/simple"),
        ("file:///wheels/", "file:///wheels"),
    ],
)
def test_an_origin_has_no_secrets(address: str, origin: str) -> None:
    assert origin == IndexFile(project="a", filename="a", url="x", announced_by=address).origin


# ----------------------------------------------------------------------------------------------------- lists of files


@pytest.mark.parametrize(
    "href", ["http://[::bad/x.whl", "javascript:alert(1)", "file:///etc/passwd", "http://h:99999/"]
)
def test_links_that_are_no_addresses_are_left_out(href: str) -> None:
    page = f'<a href="{href}">x</a><a href="evil-1.0-py3-none-any.whl">y</a>'
    found = parse_html(page, url="https://index.example/simple/evil/", project="evil")

    assert ["https://index.example/simple/evil/evil-1.0-py3-none-any.whl"] == [file.url for file in found]


def test_a_page_of_endless_links_is_refused() -> None:
    with pytest.raises(PackageIndexError, match="200000"):
        parse_html("<a href=x>" * 200_001, url="https://index.example/", project="evil")


@pytest.mark.parametrize("text", ["[" * 500_000, '{"files":[' + "{}," * 3_000_000 + "{}]}", '{"files":1e999}', "{}"])
def test_a_document_of_an_index_that_is_invalid_is_refused(text: str) -> None:
    with pytest.raises(PackageIndexError):
        parse_json(text, url="https://index.example/", project="evil")


# ------------------------------------------------------------------------------------------------ nobody without one


FOREIGN = ("bytes", "FileBytes", "IndexFile", "ByteSource")
"""Types of parameters through which foreign bytes come in."""
PLACES = (
    "audit",
    "wheels",
    "pipeline/read_wheel.py",
    "pipeline/unpacking.py",
    "adapters/files/facts_cache.py",
    "adapters/index/simple.py",
)
BOUNDED = {
    "assay.adapters.index.simple:WebWheels.open": "opens, reads nothing",
    "assay.wheels.catalogue:load_base": "at most 1 MB of JSON",
    "assay.wheels.catalogue:load_catalogue": "unpacks to at most 32 MB of JSON, of half a million values",
    "assay.wheels.catalogue:load_entry": "at most 1 MB of JSON",
    "assay.wheels.catalogue:load_wheel": "at most 1 MB of JSON",
    "assay.wheels.layer:file_entry": "bytes that assay has in memory already",
    "assay.wheels.archive:find_directory": "the last bytes of a file, once",
    "assay.wheels.archive:local_header_size": "30 bytes",
    "assay.wheels.elf:data_ranges": "program headers, at most 65 535",
    "assay.wheels.elf_header:gnu_hash_symbols": "through the image of `read_elf`, which has the budget",
    "assay.wheels.elf_header:is_elf": "4 bytes",
    "assay.wheels.elf_header:section_headers": "through the image of `read_elf`, which has the budget",
    "assay.wheels.elf_header:section_names": "charges the budget of `read_elf`",
    "assay.wheels.elf_header:segments": "program headers, at most 65 535",
    "assay.pipeline.unpacking:Inflating.again": "charges the budget that it was made with",
    "assay.wheels.elf_header:read_header": "64 bytes",
    "assay.wheels.elf:wanted_ranges": "headers and one dynamic section of at most 1 MiB",
    "assay.wheels.facts_file:load_brief": "a file that this machine made of facts that were read with a budget",
    "assay.wheels.fatbin:cubin_target": "64 bytes",
    "assay.wheels.bytes_at:SparseImage.add": "keeps what it is given; who gives bounds it",
    "assay.audit.history:TorchHistory.load": "a file that comes with assay",
}
"""Functions that take foreign bytes and need no budget, and why."""


def entrances() -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Return every public function, method and constructor that takes foreign bytes."""
    found: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    paths = [
        path
        for place in PLACES
        for path in ([SOURCE / place] if place.endswith(".py") else (SOURCE / place).rglob("*.py"))
    ]
    for path in paths:
        module = "assay." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and takes_foreign(node):
                found[f"{module}:{node.name}"] = node
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and takes_foreign(item):
                    found[f"{module}:{node.name}.{item.name}"] = item
    return found


def takes_foreign(node: ast.FunctionDef) -> bool:
    if node.name.startswith("_"):
        return False
    arguments = [*node.args.args, *node.args.kwonlyargs]
    return any(isinstance(a.annotation, ast.Name) and a.annotation.id in FOREIGN for a in arguments)


FED = {"assay.wheels.fatbin:FatbinWalker.feed", "assay.wheels.member:MemberReader.feed"}
"""Methods of readers that got their budget when they were made."""


def test_every_reader_of_foreign_bytes_has_a_budget_or_a_reason() -> None:
    unknown = entrances().keys() - READERS.keys() - BOUNDED.keys() - FED

    assert not unknown, "add a `budget` and an entry in assay.foundation.budget.READERS, or here why it needs none"
    assert not BOUNDED.keys() - entrances().keys()


@pytest.mark.parametrize("place", READERS)
def test_what_is_named_as_a_reader_takes_a_budget(place: str) -> None:
    module, _, name = place.partition(":")
    item: Any = importlib.import_module(module)
    for part in name.split("."):
        item = getattr(item, part)
    parameter = inspect.signature(item).parameters["budget"]

    assert "Budget" in str(parameter.annotation)


def test_a_prefix_that_costs_too_much_is_refused() -> None:
    data = (Path(__file__).parent.parent / "fixtures" / "elf" / "libconsumer.so").read_bytes()

    assert read_prefix(data, len(data)) is not None
    with pytest.raises(WheelError, match=r"x\.so"):
        read_prefix(data, len(data), budget=Budget("x.so", SMALL))


def test_a_page_with_a_tag_that_does_not_end_is_refused() -> None:
    """8 MB of attributes were looked at from the start with each slice of the page."""
    with pytest.raises(PackageIndexError, match="a tag of more than"):
        parse_html("<a " + "x=y " * 200_000, url="https://x.example/simple/a/", project="a")


def test_a_page_of_nothing_but_brackets_is_refused() -> None:
    """8 MB of `<` took 8 s: the parser looks at each."""
    with pytest.raises(PackageIndexError, match="steps to read"):
        parse_html("<" * (INDEX_PAGE.steps + 1), url="https://x.example/simple/a/", project="a")


def test_facts_of_wrong_values_are_refused_before_each_becomes_an_error() -> None:
    text = b'{"libraries":[{"gpu":{"groups":[{"sass":[' + b"[]," * 300_000 + b"[]]}]}}]}"

    with pytest.raises(WheelError, match="more than 250000 symbols, names or files"):
        load_facts(gzip.compress(text, 1), source="facts")


@pytest.mark.parametrize("end", ["\\n", "\\u000a", "\\u000A"])
def test_facts_of_millions_of_symbols_in_a_few_texts_are_refused(end: str) -> None:
    """6 million names in 20 000 texts took 1 GB."""
    text = '{"libraries":[{"undefined":{"global":"' + f"a{end}" * 1_100_000 + '"}}]}'

    with pytest.raises(WheelError, match="more than 250000 symbols, names or files"):
        load_facts(gzip.compress(text.encode(), 1), source="facts")


@pytest.mark.parametrize("wide", ["\U0001f600", "\\ud83d\\ude00"])
def test_facts_of_wide_characters_are_counted_as_they_lie_in_memory(wide: str) -> None:
    text = '{"libraries":[{"undefined":{"global":"' + wide + "a" * (25 << 20) + '"}}]}'

    with pytest.raises(WheelError, match="holds more than 96 MiB of names and texts"):
        load_facts(gzip.compress(text.encode(), 1), source="facts")
