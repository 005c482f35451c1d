"""Reads the files of an image, or of one of its layers, from a tar stream in one pass."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, BinaryIO, Literal, cast

from assay.errors import EngineError
from assay.ports.engine import ImageFile

__all__ = ["image_files"]


def image_files(stream: BinaryIO | io.RawIOBase, doing: str) -> Iterator[ImageFile]:
    """Yield the entries of an exported file system, in one pass; `doing` starts the error message.

    Raises:
        EngineError: the stream is cut short or not a tar.
    """
    try:
        with tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                yield _entry(tar, member)
    except tarfile.TarError as error:
        raise EngineError(f"{doing}: the archive is damaged: {error}") from error


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> ImageFile:
    kind: Literal["file", "directory", "symlink", "hardlink", "other"] = "other"
    target = ""
    if member.isfile():
        kind = "file"
    elif member.isdir():
        kind = "directory"
    elif member.issym():
        kind, target = "symlink", member.linkname
    elif member.islnk():
        kind, target = "hardlink", _absolute(member.linkname)
    return ImageFile(
        path=_absolute(member.name),
        kind=kind,
        size=member.size if kind == "file" else 0,
        mode=member.mode,
        target=target,
        open=partial(_open, tar, member),
    )


def _absolute(name: str) -> str:
    return posixpath.normpath("/" + name.lstrip("/"))


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = tar.extractfile(member) if member.isfile() else None
    if file is None:
        raise EngineError(f"{_absolute(member.name)} is not a file, so it has no bytes of its own")
    return cast("BinaryIO", _Member(file, _absolute(member.name)))


class _Member(io.RawIOBase):
    """The bytes of an entry; a stream that is damaged or ends early is an error of assay's."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except tarfile.TarError as error:
            raise EngineError(f"{self._path}: the archive is damaged: {error}") from error

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
