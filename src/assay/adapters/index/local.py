"""Wheel files on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from assay.errors import PackageIndexError, WheelError
from assay.ports.index import IndexFile

__all__ = ["LocalFile", "file_sha256", "path_of_url", "wheel_file"]

CHUNK: Final = 1 << 20


def path_of_url(url: str) -> Path:
    """Return the path of a `file:` address."""
    return Path(unquote(urlsplit(url).path))


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheel_file(path: Path, project: str) -> IndexFile:
    """Return a wheel file of a project as an index would list it."""
    size = path.stat().st_size
    url = path.absolute().as_uri()
    return IndexFile(project=project, filename=path.name, url=url, sha256=file_sha256(path), size=size)


class LocalFile:
    """One file on disk; a change of its size while it is read is an error."""

    ranges = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fetched = 0
        try:
            if not path.is_file():
                raise PackageIndexError(f"{path} is not a regular file")
            self._file = path.open("rb")
            self.size = path.stat().st_size
        except OSError as error:
            raise PackageIndexError(f"{path}: {error.strerror}") from error

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise WheelError(f"{self._path.name}: bytes {offset} to {offset + length} of a file of {self.size}")
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise PackageIndexError(f"{self._path}: the file changed while it was read")
        return data

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the file from `offset`."""
        at = offset
        while at < self.size:
            length = min(CHUNK, self.size - at)
            yield self.read(at, length)
            at += length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
