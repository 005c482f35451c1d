"""Reads the directory of a zip archive (a wheel) from its last bytes. Layout: PKWARE APPNOTE 6.3, zip64 included."""

from __future__ import annotations

import itertools
import struct
from typing import Final, NamedTuple

from assay.errors import WheelError
from assay.foundation.budget import WHEEL, Budget

__all__ = ["TAIL", "Directory", "Member", "find_directory", "local_header_size", "read_directory"]

TAIL: Final = 128 * 1024
"""Bytes at the end of a wheel that usually hold its whole directory."""
MAX_DIRECTORY: Final = 32 << 20
MAX_FILES: Final = 200_000
"""torch has 12 000."""
MAX_PATH: Final = 4096
MAX_MEMBER: Final = 16 << 30
LOCAL_HEADER: Final = 30
STORED, DEFLATED = 0, 8

_EOCD: Final = struct.Struct("<4sHHHHIIH")
_EOCD64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64: Final = struct.Struct("<4sIQI")
_ENTRY: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")


class Directory(NamedTuple):
    """Where the central directory lies."""

    offset: int
    size: int
    files: int


class Member(NamedTuple):
    """One file of the archive, as the central directory has it."""

    name: str
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    """Where its local header begins."""

    @property
    def is_directory(self) -> bool:
        return self.name.endswith("/")


def find_directory(tail: bytes, size: int) -> Directory | int:
    """Find the central directory from the last bytes of a file of `size` bytes.

    Returns the directory's place, or the number of last bytes that are needed to tell.

    Raises:
        WheelError: not a zip archive, cut short, or with an absurd directory.
    """
    start = size - len(tail)
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if at + _EOCD.size <= len(tail):
            _, disk, first, _, count, length, offset, comment = _EOCD.unpack_from(tail, at)
            if at + _EOCD.size + comment == len(tail):
                break
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise WheelError("not a zip archive, or cut short: it has no end record")
    if disk or first:
        raise WheelError("an archive of several volumes")
    if 0xFFFFFFFF in (length, offset) or count == 0xFFFF:
        place = at - _LOCATOR64.size
        if place < 0:
            return len(tail) + _LOCATOR64.size if start else _no_zip64()
        mark, _, record, _ = _LOCATOR64.unpack_from(tail, place)
        if mark != b"PK\6\7":
            # Exactly 65535 files without zip64 are allowed.
            if 0xFFFFFFFF in (length, offset):
                _no_zip64()
        elif record < start:
            return size - record if record >= 0 else _no_zip64()
        elif record + _EOCD64.size > size:
            _no_zip64()
        else:
            fields = _EOCD64.unpack_from(tail, record - start)
            if fields[0] != b"PK\6\6":
                _no_zip64()
            count, length, offset = fields[7], fields[8], fields[9]
    if length > MAX_DIRECTORY or count > MAX_FILES or length < count * _ENTRY.size or offset + length > start + at:
        raise WheelError(f"a directory of {length} bytes at {offset} for {count} files in {size} bytes")
    return Directory(offset, length, count)


def _no_zip64() -> int:
    raise WheelError("the zip64 end record is missing or damaged")


def read_directory(data: bytes, directory: Directory, *, budget: Budget | None = None) -> tuple[Member, ...]:
    """Read the central directory; the files come in the order in which they lie in the archive.

    Raises:
        WheelError: it is damaged, or a file in it is encrypted, packed in an unknown way, absurdly large, or lies where
            another one does.
    """
    budget = budget or Budget("the archive", WHEEL)
    budget.take(items=directory.files, steps=directory.files)
    members: dict[str, Member] = {}
    at = 0
    for number in range(directory.files):
        if at + _ENTRY.size > len(data) or data[at : at + 4] != b"PK\1\2":
            raise WheelError(f"the archive's directory is damaged at file {number + 1} of {directory.files}")
        fields = _ENTRY.unpack_from(data, at)
        _, _, _, flags, method, _, _, crc, compressed, size, names, extras, comments = fields[:13]
        header = fields[16]
        name = data[at + _ENTRY.size : at + _ENTRY.size + names]
        extra = data[at + _ENTRY.size + names : at + _ENTRY.size + names + extras]
        at += _ENTRY.size + names + extras + comments
        size, compressed, header = _zip64(extra, size, compressed, header)
        text = name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        if len(name) > MAX_PATH:
            raise WheelError(f"a file with a name of {len(name)} bytes")
        if flags & 1:
            raise WheelError(f"{text} is encrypted")
        if size > MAX_MEMBER or header + LOCAL_HEADER + compressed > directory.offset:
            raise WheelError(f"{text}: {compressed} bytes at {header}, {size} unpacked, cannot be")
        if size > 1032 * compressed + 1024:
            # Deflate cannot do better than 1032 to 1: more is a lie.
            raise WheelError(f"{text} claims {size} bytes out of {compressed}")
        if text in members:
            raise WheelError(f"{text} occurs twice in the archive")
        members[text] = Member(text, method, crc, compressed, size, header)
    ordered = tuple(sorted(members.values(), key=lambda member: member.header))
    for one, following in itertools.pairwise(ordered):
        # The same bytes would be unpacked again and again, and each time be within what a file may have.
        if one.header + LOCAL_HEADER + one.compressed > following.header:
            raise WheelError(f"{following.name} lies within {one.name}: files overlap")
    return ordered


def _zip64(extra: bytes, size: int, compressed: int, header: int) -> tuple[int, int, int]:
    if 0xFFFFFFFF not in (size, compressed, header):
        return size, compressed, header
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack(f"<{length // 8}Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            try:
                size = next(values) if size == 0xFFFFFFFF else size
                compressed = next(values) if compressed == 0xFFFFFFFF else compressed
                header = next(values) if header == 0xFFFFFFFF else header
            except (StopIteration, struct.error) as error:
                raise WheelError("a zip64 field is cut short") from error
            return size, compressed, header
        at += 4 + length
    raise WheelError("a zip64 field is missing")


def local_header_size(start: bytes, member: Member) -> int:
    """Return how many bytes stand between a member's local header and its data, the header itself included.

    Raises:
        WheelError: no local header stands there, or it is that of another file.
    """
    if len(start) < LOCAL_HEADER or start[:4] != b"PK\3\4":
        raise WheelError(f"{member.name}: no file header at {member.header}")
    fields = _LOCAL.unpack_from(start)
    if fields[3] != member.method:
        raise WheelError(f"{member.name}: the archive's directory and its file header disagree")
    return LOCAL_HEADER + int(fields[9]) + int(fields[10])
