"""A wheel on this machine, opened to be installed: its files with their modes, and their contents piece by piece."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from zlib_ng import zlib_ng

from assay.errors import WheelError
from assay.foundation.budget import WHEEL, Budget
from assay.wheels.archive import (
    DEFLATED,
    LOCAL_HEADER,
    STORED,
    Member,
    find_directory,
    local_header_size,
    read_directory,
)
from assay.wheels.install import Packed

__all__ = ["WheelArchive"]

_PIECE: Final = 1 << 20
_MOST: Final = 4 << 20
"""Bytes that come out of the decompressor at once."""
_SMALL: Final = 64 << 20
"""A file that is parsed or changed may have so many bytes."""


class WheelArchive:
    """Reads a wheel piece by piece; every file's length and CRC are checked as it is read.

    The file is not mapped into memory: if a mapped file is cut short by another program, the kernel kills the reader.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Open a wheel.

        Raises:
            WheelError: it is not a wheel, or holds what no wheel needs; names the wheel and the file.
        """
        self._name = name
        self._budget = Budget(name, WHEEL)
        self._file = path.open("rb")
        try:
            size = path.stat().st_size
            if size == 0:
                raise WheelError("not a zip archive: it is empty")
            self._size = size
            self.files = self._directory(size)
        except WheelError as error:
            self._file.close()
            raise WheelError(f"{name}: {error.message}", hint=error.hint) from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            self._file.close()
            raise WheelError(f"{name}: its directory cannot be read: {error}") from error

    def _directory(self, size: int) -> tuple[Packed, ...]:
        tail = min(size, 1 << 17)
        found = find_directory(self._bytes(size - tail, size), size)
        while isinstance(found, int):
            tail = min(size, max(found, tail + 1))
            found = find_directory(self._bytes(size - tail, size), size)
        start = found.offset
        members = read_directory(self._bytes(start, start + found.size), found, budget=self._budget)
        left = WHEEL.unpacked
        for member in members:
            left -= member.size
            if left < 0:
                # Said before a byte is unpacked: the budget alone would say it after minutes.
                raise WheelError(f"up to {member.name} its files have more than {WHEEL.unpacked >> 30} GiB unpacked")
        with zipfile.ZipFile(self._file) as archive:
            modes = {entry.orig_filename: entry.external_attr >> 16 for entry in archive.infolist()}
        return tuple(Packed(member, modes.get(member.name, 0)) for member in members)

    def _bytes(self, start: int, end: int) -> bytes:
        data = os.pread(self._file.fileno(), max(end - start, 0), start)
        if len(data) < min(end, self._size) - start:
            raise WheelError(f"{self._name}: the file was cut short while it was read")
        return data

    def read(self, member: Member) -> bytes:
        """Return the content of a small file."""
        if member.size > _SMALL:
            raise self._error(member, f"has {member.size} bytes, more than {_SMALL >> 20} MiB")
        return b"".join(self.pieces(member))

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the content of a file.

        Raises:
            WheelError: it is not as long as the directory says, or its CRC is another.
        """
        head = self._bytes(member.header, member.header + LOCAL_HEADER)
        start = member.header + local_header_size(head, member)
        self._budget.take(unpacked=member.size, steps=1)
        crc = came = 0
        for piece in self._unpacked(member, start):
            crc = zlib.crc32(piece, crc)
            came += len(piece)
            if came > member.size:
                break
            yield piece
        if came != member.size or crc != member.crc:
            raise self._error(member, "is damaged: its length or CRC is not that of the archive's directory")

    def _unpacked(self, member: Member, start: int) -> Iterator[bytes]:
        end = start + member.compressed
        if end > self._size:
            raise self._error(member, "is cut short")
        if member.method == STORED:
            for at in range(start, end, _MOST):
                yield self._bytes(at, min(at + _MOST, end))
            return
        if member.method != DEFLATED:
            raise self._error(member, f"is packed in an unknown way ({member.method})")
        inflate = zlib_ng.decompressobj(-15)
        try:
            for at in range(start, end, _PIECE):
                data = self._bytes(at, min(at + _PIECE, end))
                # Behind the end of its stream the decompressor would hand the same bytes back for ever.
                while data and not inflate.eof:
                    if piece := inflate.decompress(data, _MOST):
                        yield piece
                    data = inflate.unconsumed_tail
            if rest := inflate.flush():
                yield rest
        except (ValueError, zlib_ng.error) as error:  # type: ignore[misc] # its stubs have no class
            raise self._error(member, f"cannot be unpacked: {error}") from error

    def _error(self, member: Member, why: str) -> WheelError:
        return WheelError(f"{self._name}: {member.name!r} {why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
