"""A layer of an image as bytes: the same entries give the same bytes on every machine. Pure, but for the file written.

Entries are in an order of their own, belong to root or a given user, and have one time. Compression is zstd, level 1,
with the same result for any number of threads (zstd's manual: one or more workers split the input in the same way); or
gzip, whose bytes depend on the zlib that Python has.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import BinaryIO, Final, NamedTuple, cast

import zstandard

from assay.errors import WheelError

__all__ = [
    "MEDIA_TYPE",
    "Entry",
    "LayerBytes",
    "Packing",
    "Parts",
    "file_entry",
    "folder_entry",
    "link_entry",
    "with_folders",
    "write_layer",
]


class Packing(StrEnum):
    """How layers are compressed."""

    ZSTD = "zstd"
    GZIP = "gzip"
    """For clients that cannot read zstd: larger, and slower to make and to unpack."""

    @property
    def version(self) -> str:
        """Changes where the same wheels would give other bytes; the compressor's version is part of it."""
        library = ".".join(map(str, zstandard.ZSTD_VERSION)) if self is Packing.ZSTD else zlib.ZLIB_RUNTIME_VERSION
        return f"2-{self.value}{library}"

    @property
    def media_type(self) -> str:
        """Of a layer."""
        return f"application/vnd.oci.image.layer.v1.tar+{self.value}"


TIME: Final = 315_532_800
"""Modification time of every entry: 1 January 1980, which zip archives can express too."""
LEVEL: Final = 1
WORKERS: Final = 2
MEDIA_TYPE: Final = Packing.ZSTD.media_type
_MEMBER: Final = 4 << 20
"""Bytes of a gzip member before they are packed."""
_GZIP_BITS: Final = 31
_BLOCK: Final = 512
_NAME: Final = 100
"""Characters of a name that need no extended header."""
_LARGE: Final = 8**11
"""Bytes of the smallest file that needs one."""
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


def write_layer(entries: Iterable[Entry], out: BinaryIO, packing: Packing = Packing.ZSTD) -> LayerBytes:
    """Write a compressed layer and return what it is known by.

    Args:
        entries: in the order in which they stand in the layer; a folder stands before what is in it.
        out: is written from where it stands.
        packing: how it is compressed.
    """
    plain, packed = hashlib.sha256(), _Counted(out)
    unpacked = 0
    with _zstd(packed) if packing is Packing.ZSTD else _gzip(packed) as write:
        for piece in _gathered(_tar(entries)):
            plain.update(piece)
            write(piece)
            unpacked += len(piece)
    return LayerBytes(
        digest=f"sha256:{packed.hash.hexdigest()}",
        diff_id=f"sha256:{plain.hexdigest()}",
        size=packed.size,
        unpacked=unpacked,
    )


@contextmanager
def _zstd(packed: _Counted) -> Iterator[Callable[[bytes], object]]:
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=WORKERS, write_content_size=False)
    with compressor.stream_writer(cast("BinaryIO", packed), closefd=False) as stream:
        yield stream.write


@contextmanager
def _gzip(packed: _Counted) -> Iterator[Callable[[bytes], object]]:
    """Compress in members of a fixed size, several at once: their bytes do not depend on how the input is cut."""
    waiting: deque[Future[bytes]] = deque()
    kept = bytearray()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="gzip") as pool:

        def write(piece: bytes) -> None:
            kept.extend(piece)
            while len(kept) >= _MEMBER:
                waiting.append(pool.submit(zlib.compress, bytes(kept[:_MEMBER]), LEVEL, _GZIP_BITS))
                del kept[:_MEMBER]
                if len(waiting) > 2 * WORKERS:
                    packed.write(waiting.popleft().result())

        yield write
        waiting.append(pool.submit(zlib.compress, bytes(kept), LEVEL, _GZIP_BITS))
        for one in waiting:
            packed.write(one.result())


class Parts:
    """Divides entries among layers of at most so many bytes, in their order.

    Args:
        entries: their contents are read before the next entry is asked for.
        largest: bytes that a layer may have; None makes one layer of all.
    """

    def __init__(self, entries: Iterable[Entry], largest: int | None) -> None:
        self._entries = iter(entries)
        self._largest = largest
        self._next = next(self._entries, None)
        self._first = self._next

    @property
    def ended(self) -> bool:
        """Whether every entry was taken."""
        return self._next is None

    def part(self) -> Iterator[Entry]:
        """Yield the entries of the next layer; counted before compression, so that what is packed is smaller."""
        size, self._first = 0, self._next
        while (entry := self._next) is not None:
            size += entry.size + 2 * _BLOCK
            if self._largest is not None and entry is not self._first and size > self._largest:
                return
            yield entry
            self._next = next(self._entries, None)

    def check(self, packed: int) -> None:
        """Refuse a layer that is too large: its first file cannot be divided.

        Raises:
            WheelError: it has more bytes than are allowed.
        """
        if self._largest is not None and packed > self._largest:
            path = self._first.path if self._first else "a layer"
            raise WheelError(
                f"{path} gives a layer of {packed} bytes, and {self._largest} are allowed", hint="raise --largest-layer"
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
    plain = not entry.folder and entry.link is None
    if plain and entry.path.isascii() and len(entry.path) <= _NAME and entry.size < _LARGE:
        return _plain_header(entry)
    member = tarfile.TarInfo(entry.path)
    member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, TIME
    if entry.folder:
        member.type = tarfile.DIRTYPE
    elif entry.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, entry.link
    else:
        member.size = entry.size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _plain_header(entry: Entry) -> bytes:
    """Return what `tarfile` writes of a file with a short name, an eighth of the time: an image has 100,000 of them."""
    template, rest = _template(entry.mode, entry.uid, entry.gid)
    name, size = entry.path.encode().ljust(_NAME, b"\0"), b"%011o\0" % entry.size
    checksum = b"%06o\0 " % (rest + sum(name) + sum(size))
    return name + template[100:124] + size + template[136:148] + checksum + template[156:]


@lru_cache(maxsize=64)
def _template(mode: int, uid: int, gid: int) -> tuple[bytes, int]:
    """Return the header of a file, and the checksum that it would have without its name and size."""
    # Such a name is left to `tarfile`; the last block is the header, the others hold the name.
    data = _header(Entry("\u00e4", mode, uid=uid, gid=gid))[-_BLOCK:]
    return data, 8 * ord(" ") + sum(data[100:124] + data[136:148] + data[156:])


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
