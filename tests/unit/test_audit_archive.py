"""The zip directory: wheels of every kind, and archives that lie."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import WheelError
from assay.wheels.archive import TAIL, Member, find_directory, local_header_size, read_directory


def archive(files: dict[str, bytes], *, comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as out:
        for name, data in files.items():
            out.writestr(name, data)
        out.comment = comment
    return made.getvalue()


def members(data: bytes, window: int = TAIL) -> tuple[Member, ...]:
    place = find_directory(data[-window:], len(data))
    while isinstance(place, int):
        place = find_directory(data[-place:], len(data))
    return read_directory(data[place.offset : place.offset + place.size], place)


@given(
    st.dictionaries(st.text("abc/._-é", min_size=1, max_size=12), st.binary(max_size=200), max_size=8),
    st.binary(max_size=60).filter(lambda text: b"PK" not in text),
)
@settings(deadline=None)
def test_equal_to_zipfile(files: dict[str, bytes], comment: bytes) -> None:
    data = archive(files, comment=comment)
    with zipfile.ZipFile(io.BytesIO(data)) as theirs:
        expected = {
            (i.filename, i.compress_type, i.CRC, i.compress_size, i.file_size, i.header_offset)
            for i in theirs.infolist()
        }

    assert expected == {tuple(member) for member in members(data)}


def test_a_directory_beyond_the_window_is_still_found() -> None:
    data = archive({f"package/module_{number:04}.py": b"" for number in range(3000)})

    assert len(data) > 4096
    assert len(members(data, 4096)) == 3000


def zip64(offset: int = 0) -> bytes:
    """An archive whose end record says 0xFFFFFFFF for the directory's offset."""
    data = archive({"a.py": b"x" * 10})
    at = data.rfind(b"PK\5\6")
    _, _, _, _, count, size, place, _ = struct.unpack_from("<4sHHHHIIH", data, at)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, place)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + offset, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + record + locator + end


@pytest.mark.parametrize("window", [TAIL, 60, 30])
def test_zip64(window: int) -> None:
    assert ["a.py"] == [member.name for member in members(zip64(), window)]


@pytest.mark.parametrize("offset", [1, 1 << 40])
def test_a_zip64_record_that_is_not_there(offset: int) -> None:
    with pytest.raises(WheelError):
        members(zip64(offset))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a zip archive"),
        (b"<html>404</html>", "not a zip archive"),
        (archive({"a": b"1"})[:-5], "not a zip archive"),
        (archive({"a": b"1" * 999})[40:], "cannot be|directory|damaged"),
    ],
)
def test_invalid_archive_is_reported(data: bytes, words: str) -> None:
    with pytest.raises(WheelError, match=words):
        members(data)


def changed(field: int, fmt: str, value: int) -> bytes:
    """An archive with a field of its first directory entry changed."""
    data = bytearray(archive({"a.so": b"1" * 5000}))
    struct.pack_into(fmt, data, data.find(b"PK\1\2") + field, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed(24, "<I", 0x7FFFFFFF), "claims 2147483647 bytes"),  # a bomb: more than deflate can do
        (changed(20, "<I", 0x7FFFFFFF), "cannot be"),
        (changed(42, "<I", 0x7FFFFFFF), "cannot be"),
        (changed(8, "<H", 1), "encrypted"),
        (changed(20, "<I", 0xFFFFFFFF), "zip64 field is missing"),
    ],
)
def test_entries_that_cannot_be_are_reported(data: bytes, words: str) -> None:
    with pytest.raises(WheelError, match=words):
        members(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_reported() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.writestr("a.so", b"1")
        out.writestr("a.so", b"2")

    with pytest.raises(WheelError, match="twice"):
        members(made.getvalue())


def test_a_local_header_of_another_file_is_reported() -> None:
    data = archive({"a.so": b"1" * 5000})
    (member,) = members(data)

    assert local_header_size(data[:30], member) == 30 + len("a.so")
    with pytest.raises(WheelError, match="disagree"):
        local_header_size(data[:30], member._replace(method=0))
    with pytest.raises(WheelError, match="no file header"):
        local_header_size(data[4:34], member)


GOOD = archive({"a.so": b"1" * 3000, "b/METADATA": b"Name: b\n"})


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_an_error_of_ours(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        found = members(bytes(data))
    except WheelError:
        return
    assert all(member.header + member.compressed <= len(data) for member in found)
