"""A layer of an image as bytes: the same entries give the same bytes on every machine. Pure, but for the file written.

Entries are in an order of their own, belong to root or a given user, and have one time. Compression is zstd, level 1,
with the same result for any number of threads (zstd's manual: one or more workers split the input in the same way).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple, cast

import zstandard

__all__ = [
    "FORMAT",
    "MEDIA_TYPE",
    "Entry",
    "LayerBytes",
    "file_entry",
    "folder_entry",
    "link_entry",
    "with_folders",
    "write_layer",
]

FORMAT: Final = f"2-zstd{'.'.join(map(str, zstandard.ZSTD_VERSION))}"
"""Changes where the same wheels would give other bytes; the compressor's version is part of it."""
MEDIA_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
TIME: Final = 315_532_800
"""Modification time of every entry: 1 January 1980, which zip archives can express too."""
LEVEL: Final = 1
WORKERS: Final = 2
_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_GATHER: Final = 1 << 20
"""Small files are joined to pieces of this size before they are hashed and compressed."""


class Entry(NamedTuple):
    """One entry of a layer: a file, a folder or a symbolic link."""

    path: str
    """Without a slash at its beginning."""
    mode: int
    size: int = 0
    content: Iterable[bytes] = ()
    """Pieces that add up to `size` bytes."""
    link: str | None = None
    folder: bool = False
    uid: int = 0
    gid: int = 0


def file_entry(path: str, data: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    """Return a file whose content is at hand."""
    return Entry(path, mode, len(data), (data,), uid=uid, gid=gid)


def folder_entry(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """Return a folder."""
    return Entry(path, mode, folder=True, uid=uid, gid=gid)


def link_entry(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, 0o777, link=target)


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """What a layer is known by."""

    digest: str
    """Of the compressed bytes."""
    diff_id: str
    """Of the tar archive."""
    size: int
    """Compressed bytes."""
    unpacked: int
    """Bytes of the tar archive."""


def write_layer(entries: Iterable[Entry], out: BinaryIO) -> LayerBytes:
    """Write a compressed layer and return what it is known by.

    Args:
        entries: in the order in which they stand in the layer; a folder stands before what is in it.
        out: is written from where it stands.
    """
    plain, packed = hashlib.sha256(), _Counted(out)
    unpacked = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=WORKERS, write_content_size=False)
    with compressor.stream_writer(cast("BinaryIO", packed), closefd=False) as stream:
        for piece in _gathered(_tar(entries)):
            plain.update(piece)
            stream.write(piece)
            unpacked += len(piece)
    return LayerBytes(
        digest=f"sha256:{packed.hash.hexdigest()}",
        diff_id=f"sha256:{plain.hexdigest()}",
        size=packed.size,
        unpacked=unpacked,
    )


class _Counted:
    """A file that hashes and counts what it is given."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self._out.write(data)


def _tar(entries: Iterable[Entry]) -> Iterator[bytes]:
    at = 0
    for entry in entries:
        head = _header(entry)
        yield head
        came = 0
        for piece in entry.content:
            came += len(piece)
            yield piece
        if came != entry.size:
            raise ValueError(f"{entry.path}: {came} bytes came, {entry.size} were announced")
        padding = -came % _BLOCK
        if padding:
            yield bytes(padding)
        at += len(head) + came + padding
    yield bytes(2 * _BLOCK + -(at + 2 * _BLOCK) % _RECORD)


def _header(entry: Entry) -> bytes:
    member = tarfile.TarInfo(entry.path)
    member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, TIME
    if entry.folder:
        member.type = tarfile.DIRTYPE
    elif entry.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, entry.link
    else:
        member.size = entry.size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) >= _GATHER:
            if kept:
                yield b"".join(kept)
                kept, size = [], 0
            yield piece
            continue
        kept.append(piece)
        size += len(piece)
        if size >= _GATHER:
            yield b"".join(kept)
            kept, size = [], 0
    if kept:
        yield b"".join(kept)


def with_folders(entries: Iterable[Entry], known: Iterable[str] = ()) -> Iterator[Entry]:
    """Yield entries with the folders they lie in before them, each once; those that are known are left out."""
    seen = set(known)
    for entry in entries:
        parts = entry.path.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count])
            if folder not in seen:
                seen.add(folder)
                yield folder_entry(folder)
        if not (entry.folder and entry.path in seen):
            seen.add(entry.path)
            yield entry
