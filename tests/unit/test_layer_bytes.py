"""A layer's bytes: the same for the same entries, readable by others, honest about what came."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from assay.cli.build_route import bytes_of
from assay.errors import UsageError
from assay.wheels.layer import (
    TIME,
    Entry,
    Packing,
    _header,
    file_entry,
    folder_entry,
    link_entry,
    with_folders,
    write_layer,
)
from assay.wheels.stub import stub

ENTRIES = [
    folder_entry("opt/venv"),
    file_entry("opt/venv/a.py", b"x = 1\n"),
    file_entry("opt/venv/" + "long/" * 40 + "ä.txt", bytes(3_000_000), mode=0o755),
    link_entry("opt/venv/lib64", "lib"),
    file_entry("home/x/.profile", b"", uid=1000, gid=1000),
]


def written(entries: list[Entry]) -> tuple[bytes, object]:
    out = io.BytesIO()
    layer = write_layer(entries, out)
    return out.getvalue(), layer


def test_same_entries_give_same_bytes_however_they_come() -> None:
    whole, layer = written(ENTRIES)
    pieces = [
        entry._replace(content=[bytes([byte]) for byte in b"".join(entry.content)]) if entry.size < 100 else entry
        for entry in ENTRIES
    ]

    assert (whole, layer) == written(pieces)


@given(
    path=st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=120),
    mode=st.sampled_from([0o644, 0o755, 0o640, 0o1777]),
    size=st.integers(0, 2 * 8**11),
    owner=st.sampled_from([0, 1000, 8**7 - 1]),
)
@example(path="x" * 100, mode=0o644, size=8**11 - 1, owner=0)
@example(path="x" * 101, mode=0o644, size=8**11, owner=0)
def test_headers_are_those_of_the_standard_library(path: str, mode: int, size: int, owner: int) -> None:
    member = tarfile.TarInfo(path)
    member.mode, member.uid, member.gid, member.size, member.mtime = mode, owner, owner, size, TIME

    assert _header(Entry(path, mode, size, uid=owner, gid=owner)) == member.tobuf(tarfile.PAX_FORMAT, "utf-8")


def test_a_layer_is_what_it_says_it_is() -> None:
    data, layer = written(ENTRIES)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)

    assert vars(layer) == {
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "diff_id": f"sha256:{hashlib.sha256(plain).hexdigest()}",
        "size": len(data),
        "unpacked": len(plain),
    }


def test_a_layer_is_read_by_pythons_own_tar_reader() -> None:
    data, _ = written(ENTRIES)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        found = {member.name: member for member in tar}

    assert [*found] == [entry.path for entry in ENTRIES]
    assert {member.mtime for member in found.values()} == {315_532_800}
    assert found["opt/venv/lib64"].linkname == "lib"
    assert (found["home/x/.profile"].uid, found["opt/venv/a.py"].uid) == (1000, 0)


def test_content_that_is_shorter_than_announced_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 bytes came, 4 were announced"):
        written([Entry("x", 0o644, 4, (b"abc",))])


def test_folders_stand_once_before_what_is_in_them() -> None:
    entries = [file_entry("a/b/c.py", b""), file_entry("a/b/d.py", b""), folder_entry("a/b"), file_entry("a/e/f", b"")]

    assert [entry.path for entry in with_folders(entries, {"a"})] == ["a/b", "a/b/c.py", "a/b/d.py", "a/e", "a/e/f"]


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_a_stub_is_a_shared_object_with_a_name(machine: str, number: int) -> None:
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(stub("libcuda.so.1", machine)))
    dynamic: Any = elf.get_section_by_name(".dynamic")

    assert struct.unpack("<H", stub("libcuda.so.1", machine)[18:20]) == (number,)
    assert [tag.soname for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_SONAME"] == ["libcuda.so.1"]


def test_gzip_members_do_not_depend_on_how_the_input_is_cut() -> None:
    data = bytes(range(256)) * 40_000

    def packed(piece: int) -> bytes:
        pieces = (data[at : at + piece] for at in range(0, len(data), piece))
        out = io.BytesIO()
        write_layer([Entry("a", 0o644, len(data), pieces)], out, Packing.GZIP)
        return out.getvalue()

    assert packed(1 << 10) == packed(3 << 20) == packed(len(data))
    assert gzip.decompress(packed(1 << 20))[512 : 512 + len(data)] == data


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("8 GB", 8 * 10**9), ("1MiB", 1 << 20), ("2000000", 2_000_000)]
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1.5GB", "10", "1kB", "9EB"])
def test_an_invalid_size_of_a_layer_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        bytes_of(text)
