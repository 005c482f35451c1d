"""The readers of what others wrote, each with good input to begin with and the way it is called."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import zstandard
from publish_tools import LOCK, audit, both, probe
from site_cells import records as site_records
from wheels import facts as made_facts
from wheels import library, wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.kept_records import is_intact
from assay.adapters.layers.archive import WheelArchive
from assay.adapters.signing.dsse import KeyVerifier
from assay.errors import AssayError
from assay.evidence import oci, record
from assay.evidence import statements as evidence
from assay.foundation import foreign
from assay.foundation.digest import sha256_of
from assay.pipeline.read_wheel import Depth
from assay.pipeline.read_wheel import read_wheel as wheel_facts
from assay.ports.index import IndexFile
from assay.wheels.archive import Member
from assay.wheels.bytes_at import FileImage, Unread
from assay.wheels.catalogue import (
    BaseEntry,
    BaseLayer,
    CatalogueEntry,
    CatalogueWheel,
    dump_base,
    dump_catalogue,
    dump_entry,
    dump_wheel,
    load_base,
    load_catalogue,
    load_entry,
    load_wheel,
)
from assay.wheels.elf import data_ranges, wanted_ranges
from assay.wheels.elf import read_elf as elf
from assay.wheels.elf_header import is_elf, section_name_table
from assay.wheels.elf_prefix import NeedMore, read_prefix
from assay.wheels.facts_file import brief_facts, dump_brief, dump_facts, load_brief, load_facts
from assay.wheels.fatbin import walk
from assay.wheels.install import Prefix, installed_files
from assay.wheels.layer import Entry, with_folders, write_layer
from assay.wheels.member import MemberReader

ROOT: Final = Path(__file__).parents[2]
FIXTURES: Final = ROOT / "tests" / "fixtures"
REFUSALS: Final = (AssayError, foreign.ForeignError)
"""What a reader may answer to bad input."""
DIGEST: Final = "sha256:" + "d" * 64


# --- shared objects -----------------------------------------------------------------------------------------------


@cache
def libraries() -> tuple[bytes, ...]:
    """Small shared libraries of the fixtures, and two whose tables name the same bytes many times."""
    found = [path.read_bytes() for path in sorted((FIXTURES / "elf").glob("*.so*"))]
    return (*found, *(_overlapping(found[0], what) for what in ("needed", "symbols")))


@cache
def gpu_libraries() -> tuple[bytes, ...]:
    """Libraries with GPU code, and one with a zstd bomb in it."""
    found = [path.read_bytes() for path in sorted((FIXTURES / "fatbin").glob("*.so"))]
    return (
        *found,
        *(gpu_bomb(size, claimed) for size, claimed in ((1 << 20, 1 << 20), (1 << 30, 90 << 20), (1 << 30, 1 << 20))),
    )


@cache
def gpu_bomb(size: int, claimed: int) -> bytes:
    """Return a container with one zstd cubin of `size` zeros that says it has `claimed` bytes, behind a small ELF."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    block = b"\0" * (1 << 20)
    stream = b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()
    padded = stream + b"\0" * (-len(stream) % 8)
    entry = struct.pack("<HHIII8xHHI8xQ8xQ", 2, 0x101, 64, len(padded), len(stream), 0, 120, 64, 0x8011, claimed)
    entry += b"\0" * (64 - len(entry))
    container = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entry) + len(padded)) + entry + padded
    return (FIXTURES / "elf" / "libempty.so").read_bytes() + b"\0" * 24 + container


def _overlapping(base: bytes, what: str) -> bytes:
    """Return an ELF file of one segment whose dynamic section names one long string again and again, a byte on each
    time."""
    name, count = b"a" * 60_000 + b"\0", 60_000
    strings = 64 + 56 * 2
    table = strings + len(b"\0" + name)
    table += -table % 8
    if what == "needed":
        entries = b"".join(struct.pack("<QQ", 1, 1 + number % 60_000) for number in range(count))
        extra = b""
    else:
        extra = b"".join(struct.pack("<IBBHQQ", 1 + number % 60_000, 0x12, 0, 1, 0x1000, 8) for number in range(count))
        entries = b""
    dynamic = table + len(extra)
    entries += struct.pack("<QQ", 5, strings) + struct.pack("<QQ", 10, len(name) + 1)
    entries += struct.pack("<QQ", 6, table) + struct.pack("<QQ", 11, 24)
    entries += struct.pack("<QQ", 4, dynamic + len(entries) + 32) + struct.pack("<QQ", 0, 0)
    size = dynamic + len(entries)
    hashes = struct.pack("<II", 1, count)
    header = base[:24] + struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size + len(hashes), size + len(hashes), 4096)
    dyn = struct.pack("<IIQQQQQQ", 2, 6, dynamic, dynamic, dynamic, len(entries), len(entries), 8)
    body = header + load + dyn + b"\0" + name
    return body + b"\0" * (table - len(body)) + extra + entries + hashes


# --- libraries and wheels -----------------------------------------------------------------------------------------


def read_elf(data: bytes, _folder: Path) -> None:
    """Read all of a library as the audit does."""
    if not is_elf(data[:64]):
        return
    image = FileImage(data)
    with _nothing_missing():
        found = elf(image)
        _ = found.symbols
        data_ranges(image)
        wanted_ranges(image)
        section_name_table(image)


@contextmanager
def _nothing_missing() -> Iterator[None]:
    try:
        yield
    except Unread as error:  # a whole file is there: nothing may be asked for that lies outside
        raise AssertionError(f"asks for what is there: {error}") from error


def read_elf_prefix(data: bytes, _folder: Path) -> None:
    """Read the start of a library, growing as it asks."""
    have = 512
    for _ in range(64):
        try:
            read_prefix(data[:have], len(data))
        except NeedMore:
            if have >= len(data):
                return
            have *= 2
        else:
            return


def read_member(data: bytes, _folder: Path) -> None:
    """Feed a library in pieces, as it comes out of a wheel."""
    reader = MemberReader("x/lib.so", len(data))
    for at in range(0, len(data), 1 << 16):
        reader.feed(data[at : at + (1 << 16)])
    reader.finish(lambda offset, length: data[offset : offset + length])
    walk([data])


@dataclass
class _Bytes:
    """A wheel in memory, as the port wants it."""

    data: bytes
    ranges: bool = True
    fetched: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > len(self.data):
            raise AssayError("outside the file")
        return self.data[offset : offset + length]

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        for at in range(offset, len(self.data), 1 << 16):
            yield self.data[at : at + (1 << 16)]

    @contextmanager
    def open(self, _file: IndexFile) -> Iterator[_Bytes]:
        yield self


@cache
def wheels() -> tuple[bytes, ...]:
    """Small wheels, stored and packed, and bombs."""
    small = (FIXTURES / "elf" / "libprovider.so.1").read_bytes()
    fat = (FIXTURES / "fatbin" / "fat_ptx.so").read_bytes()
    files = {"evil/x.so": small, "evil/y.so": fat, "evil/__init__.py": b"import torch\n"}
    requires = ("torch>=2.8", "numpy; python_version > '3'")
    return (
        wheel_bytes("evil", "1.0", files, requires=requires),
        wheel_bytes("evil", "1.0", files, method=zipfile.ZIP_STORED, record="evil/x.so,sha256=abc,1\n"),
        wheel_bytes("evil", "1.0", {"evil/zeros.so": small + b"\0" * (300 << 20)}),
        wheel_bytes("evil", "1.0", {"evil/bomb.so": gpu_bomb(1 << 30, 90 << 20)}),
        wheel_bytes("evil", "1.0", {"evil/needed.so": libraries()[-2], "evil/symbols.so": libraries()[-1]}),
        wheel_bytes("evil", "1.0", {f"evil/{number}.so": gpu_bomb(1 << 20, 1 << 20) for number in range(200)}),
        wheel_bytes("evil", "1.0", {f"evil/{number}/x.py": b"" for number in range(20_000)}),
        wheel_bytes("evil", "1.0", {}, record="a,,\n" * (8 << 20)),
        wheel_bytes("evil", "1.0", {_POINTS: b"[console_scripts]\na = b:c" + b" " * 200_000 + b"["}),
        wheel_bytes("evil", "1.0", {_POINTS: b"[console_scripts]\na = b:c\n" + b"x%(a)s = %(a)s\n" * 15_000}),
        wheel_bytes("evil", "1.0", {"evil/.wh..wh..opq": b"", "evil/x": b"", "evil/x/y": b""}),
    )


_POINTS: Final = "evil-1.0.dist-info/entry_points.txt"


def _file(data: bytes) -> IndexFile:
    name = "evil-1.0-cp312-cp312-linux_x86_64.whl"
    return IndexFile(project="evil", filename=name, url=f"file:///x/{name}", size=len(data))


def read_wheel(data: bytes, _folder: Path) -> None:
    """Read a wheel wholly."""
    dump_facts(wheel_facts(_file(data), _Bytes(data), depth=Depth.FULL))


def install_wheel(data: bytes, folder: Path) -> None:
    """Read all that installing a wheel writes, as a layer."""
    path = folder / "evil.whl"
    path.write_bytes(data)
    prefix = Prefix(path="/opt/venv", python="3.12")
    with WheelArchive(path, "evil-1.0-cp312-cp312-linux_x86_64.whl") as archive, Path(os.devnull).open("wb") as out:
        entries = (
            Entry(
                file.path,
                file.mode,
                file.size,
                archive.pieces(file.content) if isinstance(file.content, Member) else (file.content,),
            )
            for file in installed_files(archive.files, archive.read, prefix, wheel="evil-1.0")
        )
        write_layer(with_folders(entries), out)


def read_wheel_parts(data: bytes, _folder: Path) -> None:
    """Read a wheel's directory, texts and the tables of its libraries."""
    dump_facts(wheel_facts(_file(data), _Bytes(data), depth=Depth.SYMBOLS))


def metadata() -> tuple[bytes, ...]:
    """METADATA files."""
    return (
        b"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\nRequires-Dist: torch>=2.8\nRequires-Python: >=3.9\n\nText\n",
        b"Metadata-Version: 2.1\nName: evil\nVersion: ../../../escaped\n",
        b"Metadata-Version: 2.1\nName: ../evil\nVersion: 1.0\x00\n",
        b"Name: evil\nVersion: 1.0\n" + b"Requires-Dist: a[b]>=1; python_version < '3'\n" * 20_000,
    )


def read_metadata(data: bytes, folder: Path) -> None:
    """Read a wheel with this METADATA, and keep its facts: nothing may lie outside the folder afterwards."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("evil-1.0.dist-info/METADATA", data)
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp312-cp312-linux_x86_64\n")
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    wheel = made.getvalue()
    found = wheel_facts(_file(wheel), _Bytes(wheel))
    FactsCache(folder / "a" / "b" / "c" / "facts").put(found)
    _inside(folder)


def _inside(folder: Path) -> None:
    stray = [
        path for path in folder.rglob("*") if path.is_file() and folder / "a" / "b" / "c" / "facts" not in path.parents
    ]
    for path in stray:
        path.unlink()
    assert not stray, f"wrote {stray[0].relative_to(folder)} outside its folder"


# --- facts --------------------------------------------------------------------------------------------------------


@cache
def _some_facts() -> tuple[Any, ...]:
    one = made_facts(
        "evil", "1.0", library("evil/x.so", needed=("libc.so.6",), defined=("f", "g"), sass=("sm_90",), ptx=("8.0",))
    )
    many = made_facts(
        "evil", "1.1", *(library(f"evil/{n}.so", undefined=tuple(f"s{m}" for m in range(300))) for n in range(20))
    )
    return one, many


def facts() -> tuple[bytes, ...]:
    """Facts as JSON."""
    return tuple(gzip.decompress(dump_facts(one)) for one in _some_facts())


def catalogues() -> tuple[bytes, ...]:
    """Catalogues of layers, as they are shared."""
    wheel = CatalogueWheel(name="demo", version="1.0", sha256="a" * 64)
    digest = f"sha256:{'b' * 64}"
    layer = CatalogueEntry(key=digest, digest=digest, diff_id=digest, size=1, unpacked=2, wheels=(wheel,))
    below = BaseLayer(media_type="x", digest=digest, diff_id=digest, size=1)
    base = BaseEntry(key="0123456789ab", layers=(below,), config={"config": {}}, python="3.11.2", files={"etc/x": ""})
    return gzip.decompress(dump_catalogue([layer], [base])), gzip.decompress(dump_catalogue([], []))


def read_catalogue(data: bytes, _folder: Path) -> None:
    """Read a shared catalogue, and write its entries as they are kept."""
    layers, bases = load_catalogue(gzip.compress(data, 1))
    for one in layers:
        assert load_entry(dump_entry(one), one.key) == one
        assert tuple(load_wheel(dump_wheel(wheel)) for wheel in one.wheels) == one.wheels
    for base in bases:
        assert load_base(dump_base(base)) == base


def read_facts(data: bytes, _folder: Path) -> None:
    """Read facts back, whole and brief, and use them."""
    found = load_facts(gzip.compress(data, 1), source="facts")
    brief_facts(found)
    for one in found.libraries:
        _ = (one.exports, one.versioned, one.references, one.search_folders, one.torch_symbols)


def facts_exports() -> tuple[bytes, ...]:
    """What `assay facts export` writes, brief forms, and gzip bombs."""
    exports = []
    for one in _some_facts():
        data = dump_facts(one)
        exports.append(json.dumps({"sha256": one.sha256, "bytes": len(data)}).encode() + b"\n" + data)
    bomb = gzip.compress(b'{"schema_version": 1, "name": "' + b"a" * (400 << 20), 9)
    head = json.dumps({"sha256": "a" * 64, "bytes": len(bomb)}).encode() + b"\n"
    nested = b'{"sha256": ' + b"[" * 3000 + b"\n"
    infinite = b'{"sha256": "x", "bytes": 1e400}\n'
    return (*exports, dump_brief(_some_facts()[1]), b"".join(exports), head + bomb, nested, infinite)


def take_facts(data: bytes, folder: Path) -> None:
    """Import facts; nothing may lie outside the folder afterwards."""
    place = folder / "a" / "b" / "c" / "facts"
    try:
        FactsCache(place).take(data, source="an export")
    except REFUSALS:
        load_brief(data, source="brief")
    finally:
        _inside(folder)


# --- records and evidence -----------------------------------------------------------------------------------------


@cache
def records() -> tuple[bytes, ...]:
    """A record of each kind."""
    made = list(site_records(60))
    kinds: dict[type, bytes] = {}
    for one in [*made, probe(DIGEST), audit(DIGEST)]:
        kinds.setdefault(type(one), record.dump(one))
    return tuple(kinds.values())


def read_record(data: bytes, folder: Path) -> None:
    """Read a record, order it by time and write it again."""
    is_intact(folder / "record.json", data)
    found = record.parse(data)
    _ = found.created <= record.now()
    record.dump(found)


@cache
def _statements() -> tuple[evidence.Statement, ...]:
    raw = [record.dump(one) for one in both(DIGEST)]
    name = "registry.example/team/demo"
    found = [evidence.record_statement(one, name=name, digest=DIGEST) for one in raw]
    found.append(evidence.bill_of_materials(LOCK, name=name, digest=DIGEST))
    found.append(evidence.audit_report(b'{"findings": []}\n', name=name, digest=DIGEST))
    found.append(evidence.revocation(name=name, digest=DIGEST, reason="bad", when=record.now()))
    return tuple(found)


def statements() -> tuple[bytes, ...]:
    """Statements of several kinds."""
    return tuple(one.raw for one in _statements())


def read_statement(data: bytes, _folder: Path) -> None:
    """Read a statement, and what it carries."""
    found = evidence.Statement.parse(data)
    for read in (evidence.record_of, evidence.verdict_of):
        try:
            read(found)
        except REFUSALS:
            continue


_SUBJECT: Final = oci.Descriptor(media_type=oci.MANIFEST, digest=DIGEST, size=100)


@cache
def packed_evidence() -> tuple[bytes, ...]:
    """Packed statements, and bombs."""
    good = [gzip.compress(one.raw) for one in _statements()]
    return (
        *good,
        gzip.compress(b'{"a": "' + b"a" * (300 << 20), 9),
        gzip.compress(b"[" * (20 << 20), 9),
        gzip.compress(b"[[]," * (6 << 20)),
    )


def unpack_evidence(data: bytes, _folder: Path) -> None:
    """Unpack a blob that an artifact names."""
    made = evidence.package(_statements()[0], _SUBJECT, bundle=None, created=record.now())
    layer = oci.Descriptor(
        media_type=made.manifest.layers[0].media_type.removesuffix(evidence.PACKED) + evidence.PACKED,
        digest=sha256_of(data),
        size=len(data),
    )
    manifest = oci.artifact(artifact_type=evidence.PAYLOAD, layer=layer, subject=_SUBJECT, annotations={})
    evidence.unpack(manifest, data, subject=DIGEST)


def bundles() -> tuple[bytes, ...]:
    """Bundles of a signed statement."""
    return tuple(evidence.make_bundle(one.raw, [("key", b"signature")], hint="hint") for one in _statements()[:2])


def read_bundle(data: bytes, _folder: Path) -> None:
    """Open a bundle, and ask who signed it."""
    try:
        evidence.open_bundle(data)
    finally:
        evidence.bundle_hint(data)
        KeyVerifier([]).signer(data)


def manifests() -> tuple[bytes, ...]:
    """Manifests of an image, an artifact and an index."""
    made = evidence.package(_statements()[0], _SUBJECT, bundle=None, created=record.now()).manifest
    entry = replace(_SUBJECT, platform="linux/arm64")
    return (made.raw, oci.index_of([made.referrer, entry]).raw)


def read_manifest(data: bytes, _folder: Path) -> None:
    """Read a manifest, and what hangs on it."""
    found = oci.Manifest.parse(data)
    _ = (found.descriptor, found.blobs, found.image_bytes, found.manifests)
    if found.subject is not None:
        _ = found.referrer
    _ = oci.platform_of_config(data)
