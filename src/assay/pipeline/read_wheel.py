"""Reads what there is to know of a wheel from where it lies: its text files, and its shared objects in part or whole.

A full read is one pass over the file, hashed as it goes, so that the facts belong to the very bytes the index
announced. Nothing is written to disk. A part of a member that turns out to be needed after it has passed is inflated
again from the nearest of the decompressor states that were kept on the way.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import posixpath
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from re import MULTILINE
from re import compile as pattern
from typing import Any, Final, NamedTuple, cast

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version
from zlib_ng import zlib_ng

from assay.errors import PackageIndexError, WheelError
from assay.foundation.budget import LIBRARY, PREFIX_AT_ONCE, WHEEL, Budget
from assay.pipeline.ahead import Ahead
from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource, WheelSource
from assay.wheels.archive import (
    DEFLATED,
    LOCAL_HEADER,
    STORED,
    TAIL,
    Directory,
    Member,
    find_directory,
    local_header_size,
    read_directory,
)
from assay.wheels.elf import is_elf
from assay.wheels.elf_prefix import NeedMore, read_prefix
from assay.wheels.facts import READER, Library, WheelFacts, installed_path, library_facts
from assay.wheels.fatbin import cubin_target
from assay.wheels.member import MemberReader
from assay.wheels.metadata import read_metadata, read_tags

__all__ = ["Depth", "Progress", "is_library", "read_library", "read_wheel"]

DAMAGED: Final = cast("type[Exception]", zlib_ng.error)
CHUNK: Final = 1 << 20
PACKED: Final = 256 << 10
"""Packed bytes given to the decompressor at once: what it does not take is copied each time."""
RANGE: Final = 8 << 20
"""Bytes of one request when a single member is read."""
CHECKPOINT: Final = 8 << 20
"""Compressed bytes between two kept states of the decompressor (each about 40 KiB)."""
AT_ONCE: Final = 6
"""Members of one wheel whose first bytes are asked for at the same time."""
FIRST_PREFIX: Final = 32 << 10
MAX_TEXT: Final = 4 << 20
MAX_PREFIX: Final = 64 << 20
"""Bytes of a library's beginning that are kept to read its tables from."""
MAX_RATIO: Final = 64
"""Symbol tables are packed to a third or a tenth; what is packed more than this is none."""
MAX_NAME: Final = 255
"""Bytes of a file's name (NAME_MAX of Linux)."""
SMALL: Final = 8 << 20
"""Wheels up to this size are read whole where an index announces their hash: it takes one request, and checks it."""
CUBIN_START: Final = 4 << 10
"""Packed bytes of a cubin that suffice for its header."""
MAX_RECORD: Final = 4 << 20
"""A RECORD larger than this (tens of thousands of files) is left out: files then have no digest."""
LAZY: Final = 4 << 20
"""Shared objects larger than this are not read wholly unless their symbols are asked for."""
FILE_DIGEST: Final = 12
"""Characters of a file's sha256 in base64 (72 bits) that are kept to tell whether two wheels bring the same file."""
_SHA256: Final = pattern(r"sha256=([A-Za-z0-9_-]{43})")
_SIZE: Final = pattern(r"[0-9]{1,15}")
_LIBRARY: Final = pattern(r"\.so(?:\.\d+)*$|\.so\.[\w.]+$")
_DIST_INFO: Final = pattern(r"^[^/]+\.dist-info/(METADATA|WHEEL)$")
_RECORD: Final = pattern(r"^[^/]+\.dist-info/RECORD$")
_CUDA: Final = pattern(r"^cuda[ \t]*(?::[^=\n]*)?=[ \t]*['\"]([0-9.]{1,20})['\"]", MULTILINE)

Progress = Callable[[str, int, int], None]
"""Called with what is read, bytes done and bytes in all."""


class Depth(StrEnum):
    """How much of a wheel to read."""

    METADATA = "metadata"
    """Its text files and the names of its libraries."""
    SYMBOLS = "symbols"
    """Symbol tables too, from the first bytes of each library where that is possible."""
    FULL = "full"
    """All of every library, with its GPU code."""


def is_library(name: str) -> bool:
    """Tell whether a file name is that of a shared object."""
    last = PurePosixPath(name).name
    return len(last) <= MAX_NAME and _LIBRARY.search(last) is not None


def _bounded(member: Member) -> None:
    """Refuse a text that is kept in memory and could not be one."""
    if max(member.size, member.compressed) > MAX_TEXT:
        raise WheelError(f"{member.name} has {member.size} bytes, packed {member.compressed}")


def _is_text(member: Member) -> bool:
    if _RECORD.match(member.name):
        return member.size <= MAX_RECORD
    return _DIST_INFO.match(member.name) is not None or member.name == "torch/version.py"


def read_wheel(
    file: IndexFile,
    source: WheelSource,
    *,
    depth: Depth = Depth.FULL,
    small: int = 0,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> WheelFacts:
    """Read one wheel.

    Args:
        small: bytes up to which a wheel whose hash is announced is read whole in place of its symbols.
        budget: what it may cost; by default what any wheel may.

    Raises:
        WheelError: it is no wheel, damaged, or costs more than the budget.
        PackageIndexError: its bytes are unavailable, or differ from those the index announced.
    """
    try:
        with source.open(file) as opened:
            reading = _Reading(file, opened, progress, budget or Budget("the wheel", WHEEL))
            whole = depth is Depth.SYMBOLS and file.sha256 is not None and opened.size <= small
            return reading.full() if whole or depth is Depth.FULL else reading.part(symbols=depth is Depth.SYMBOLS)
    except WheelError as error:
        if error.message.startswith(file.filename):
            raise
        raise WheelError(f"{file.filename}: {error.message}", hint=error.hint) from error


def read_library(
    file: IndexFile,
    source: WheelSource,
    path: str,
    progress: Progress | None = None,
    *,
    budget: Budget | None = None,
) -> Library:
    """Read one library of a wheel wholly, without the rest of the wheel.

    Raises:
        WheelError: the wheel does not have it, or it is damaged.
        PackageIndexError: its bytes are unavailable.
    """
    with source.open(file) as opened:
        reading = _Reading(file, opened, progress, budget or Budget("the wheel", WHEEL))
        for member in reading.members():
            if member.name == path:
                return reading.library(member)
    raise WheelError(f"{file.filename} has no {path}")


@dataclass
class _Inflating:
    """Inflates one member, with states kept to begin again from."""

    member: Member
    start: int
    """Where its data begins in the wheel."""
    budget: Budget
    """Of the wheel."""
    states: list[tuple[int, int, Any]] = field(default_factory=list)
    taken: int = 0
    made: int = 0
    crc: int = 0

    def __post_init__(self) -> None:
        if self.member.method not in {STORED, DEFLATED}:
            raise WheelError(f"{self.member.name} is packed with method {self.member.method}")
        self._unpacker = zlib_ng.decompressobj(-15) if self.member.method == DEFLATED else None

    def feed(self, chunk: bytes | memoryview) -> Iterator[bytes]:
        """Take compressed bytes, give the file's; never more than the directory says there are."""
        view = memoryview(chunk)
        for at in range(0, len(view), PACKED):
            part = view[at : at + PACKED]
            if self._unpacker is None:
                self.taken += len(part)
                yield self._out(bytes(part))
            else:
                yield from self._unpacked(self._unpacker, part)

    def _unpacked(self, unpacker: Any, chunk: bytes | memoryview) -> Iterator[bytes]:
        if not self.states or self.taken - self.states[-1][0] >= CHECKPOINT:
            self.states.append((self.taken, self.made, unpacker.copy()))
        self.taken += len(chunk)
        try:
            # Behind the end of the stream the unpacker gives nothing, and keeps what it was given.
            while chunk and not unpacker.eof:
                data = unpacker.decompress(chunk, CHUNK)
                chunk = unpacker.unconsumed_tail
                yield self._out(data)
        except DAMAGED as error:
            raise WheelError(f"{self.member.name} does not unpack: {error}") from error

    def _out(self, data: bytes) -> bytes:
        self.made += len(data)
        self.budget.take(unpacked=len(data))
        if self.made > self.member.size:
            raise WheelError(f"{self.member.name} unpacks to more than the {self.member.size} bytes it claims")
        self.crc = zlib_ng.crc32(data, self.crc)
        return data

    def check(self) -> None:
        """End of the member: size and checksum must be those of the directory."""
        if self.made != self.member.size or self.crc != self.member.crc:
            raise WheelError(f"{self.member.name} is damaged: its size or checksum is not what the archive says")

    def again(self, source: ByteSource, offset: int, length: int) -> bytes:
        """Return a part of the file that has passed."""
        if self._unpacker is None:
            return source.read(self.start + offset, length)
        taken, made, state = max((s for s in self.states if s[1] <= offset), key=lambda s: s[1])
        unpacker = state.copy()
        kept = bytearray()
        while len(kept) < length and taken < self.member.compressed:
            size = min(CHUNK, self.member.compressed - taken)
            chunk = source.read(self.start + taken, size)
            taken += size
            while chunk and len(kept) < length and not unpacker.eof:
                data = unpacker.decompress(chunk, CHUNK)
                chunk = unpacker.unconsumed_tail
                self.budget.take(unpacked=len(data))
                low = max(0, offset - made)
                made += len(data)
                kept += data[low : low + length - len(kept)] if low < len(data) else b""
        return bytes(kept)


class _Pass:
    """One pass over a file, hashed as it comes."""

    def __init__(self, source: ByteSource) -> None:
        self._hash = hashlib.sha256()
        self._ahead = Ahead(self._hashed(source))
        self._chunks = iter(self._ahead)
        self._left = memoryview(b"")
        self.at = 0

    def _hashed(self, source: ByteSource) -> Generator[bytes]:
        for chunk in source.stream():
            self._hash.update(chunk)
            yield chunk

    def chunks(self, length: int) -> Iterator[memoryview]:
        """Yield the next `length` bytes."""
        while length:
            if not self._left:
                item = next(self._chunks, None)
                if item is None:
                    raise WheelError(f"the file ends at byte {self.at}")
                self._left = memoryview(item)
            piece = self._left[:length]
            self._left = self._left[len(piece) :]
            self.at += len(piece)
            length -= len(piece)
            yield piece

    def take(self, length: int) -> bytes:
        return b"".join(self.chunks(length))

    def skip_to(self, offset: int) -> None:
        if offset < self.at:
            raise WheelError(f"files overlap at byte {offset}")
        for _ in self.chunks(offset - self.at):
            pass

    def digest(self) -> str:
        """Return the sha256 of the file, all of which has been taken."""
        return self._hash.hexdigest()

    def close(self) -> None:
        self._ahead.close()


class _Reading:
    """One wheel being read."""

    def __init__(self, file: IndexFile, source: ByteSource, progress: Progress | None, budget: Budget) -> None:
        self._budget = budget
        self._large = threading.Semaphore(1)
        self._file = file
        self._source = source
        self._progress = progress or (lambda *_: None)
        self._texts: dict[str, str] = {}
        self._cubins: dict[str, int] = {}

    def members(self) -> tuple[Member, ...]:
        """Read the archive's directory."""
        size = self._source.size
        wanted = min(size, TAIL)
        place: Directory | int = wanted
        while isinstance(place, int):
            wanted = place
            tail = self._source.read(size - wanted, wanted)
            place = find_directory(tail, size)
            if place == wanted:
                raise WheelError("its end record cannot be found")
        start = size - wanted
        if place.offset >= start:
            data = tail[place.offset - start : place.offset - start + place.size]
        else:
            data = self._source.read(place.offset, place.size)
        return read_directory(data, place, budget=self._budget)

    def full(self) -> WheelFacts:
        """Read everything in one pass: fetching, unpacking and parsing each have a thread."""
        members = self.members()
        libraries: list[Library] = []
        through = _Pass(self._source)
        unpacked = Ahead(self._unpacked(members, through))
        try:
            reader: MemberReader | None = None
            for item in unpacked:
                match item:
                    case Member():
                        reader = MemberReader(item.name, item.size, budget=self._budget)
                    case bytes():
                        assert reader is not None
                        reader.feed(item)
                    case _:
                        assert reader is not None
                        library = self._finished(reader, item)
                        if library is not None:
                            libraries.append(library)
            found = through.digest()
        finally:
            unpacked.close()
            through.close()
        if self._file.sha256 is not None and found != self._file.sha256:
            raise PackageIndexError(
                f"{self._file.filename}: what came has sha256 {found}, the index says {self._file.sha256}",
                hint="the file changed underway, or the index is wrong; nothing was kept of it",
            )
        return self._facts(members, libraries, sha256=found, complete=True)

    def _unpacked(self, members: tuple[Member, ...], through: _Pass) -> Generator[Member | bytes | _Inflating]:
        """Yield each library's entry, its bytes, and what unpacked it; the few other files are dealt with here."""
        for member in members:
            through.skip_to(member.header)
            header = through.take(LOCAL_HEADER)
            start = member.header + local_header_size(header, member)
            through.skip_to(start)
            if is_library(member.name):
                yield member
                inflating = _Inflating(member, start, self._budget)
                for chunk in through.chunks(member.compressed):
                    yield from inflating.feed(chunk)
                    self._progress(self._file.filename, through.at, self._source.size)
                inflating.check()
                yield inflating
            elif _is_text(member):
                _bounded(member)
                self._text(member, through.take(member.compressed))
            elif member.name.endswith(".cubin"):
                self._cubin(member, through.take(min(member.compressed, CUBIN_START)))
                through.skip_to(start + member.compressed)
            self._progress(self._file.filename, through.at, self._source.size)
        through.skip_to(self._source.size)

    def part(self, *, symbols: bool) -> WheelFacts:
        """Read text files, and what the first bytes of each library say."""
        members = self.members()
        wanted = [member for member in members if is_library(member.name) and member.size]
        for member in members:
            if _is_text(member):
                _bounded(member)
                start, data = self._begin(member, member.compressed)
                if len(data) < member.compressed:
                    data += self._source.read(start + len(data), member.compressed - len(data))
                self._text(member, data)
        if symbols:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                libraries = [library for library in pool.map(self._prefix, wanted) if library is not None]
        else:
            libraries = [_listed(member) for member in wanted]
        return self._facts(members, libraries, sha256=self._file.sha256 or "", complete=False)

    def library(self, member: Member) -> Library:
        """Read one library wholly, by ranges."""
        start, _ = self._begin(member, 0)
        library = self._library(member, start)
        if library is None:
            raise WheelError(f"{member.name} is no ELF file")
        return library

    def _ranges(self, start: int, length: int) -> Generator[bytes]:
        at, end = start, start + length
        while at < end:
            chunk = self._source.read(at, min(RANGE, end - at))
            at += len(chunk)
            yield chunk

    def _begin(self, member: Member, length: int) -> tuple[int, bytes]:
        """Read a member's local header and up to `length` bytes of its data in one request."""
        guess = LOCAL_HEADER + len(member.name.encode()) + 64
        size = min(guess + min(length, MAX_TEXT), self._source.size - member.header)
        data = self._source.read(member.header, size)
        extra = local_header_size(data, member)
        return member.header + extra, data[extra : extra + member.compressed]

    def _large_prefix(self, member: Member) -> Library | None:
        """Begin again, one library at a time: what is kept of them together would be too much."""
        with self._large:
            return self._prefix(member, large=True)

    def _listed_or_read(self, member: Member) -> Library | None:
        return self.library(member) if member.compressed <= LAZY else _listed(member)

    def _prefix(self, member: Member, *, large: bool = False) -> Library | None:
        """Read symbols from the first bytes, asking for twice as much each time; None if it is no ELF file."""
        start, packed = self._begin(member, FIRST_PREFIX)
        inflating = _Inflating(member, start, self._budget)
        budget = self._budget.part("it", LIBRARY)
        data = bytearray()
        fresh = packed
        while True:
            for piece in inflating.feed(fresh):
                data += piece
                if len(data) > min(MAX_PREFIX, MAX_RATIO * len(packed) + CHUNK):
                    return self._listed_or_read(member)
            if len(data) > PREFIX_AT_ONCE and not large:
                data.clear()
                return self._large_prefix(member)
            whole = len(packed) >= member.compressed
            if not is_elf(bytes(data[:4])):
                return None
            try:
                elf = read_prefix(bytes(data), len(data) if whole else member.size, budget=budget)
            except NeedMore as more:
                if len(packed) >= max(LAZY, member.compressed // 4) or whole:
                    break
                ratio = max(0.05, len(packed) / max(len(data), 1))
                wanted = min(max(2 * len(packed), int(more.size * ratio * 1.1)), member.compressed, 4 * len(packed))
                fresh = self._source.read(start + len(packed), wanted - len(packed))
                packed += fresh
                continue
            except WheelError as error:
                return Library(path=member.name, size=member.size, scope="listed", problem=error.message)
            if elf is not None:
                return library_facts(member.name, member.size, elf, scope="prefix")
            break
        return self._listed_or_read(member)

    def _library(self, member: Member, start: int) -> Library | None:
        inflating = _Inflating(member, start, self._budget)
        reader = MemberReader(member.name, member.size, budget=self._budget)
        packed = Ahead(self._ranges(start, member.compressed), ahead=2)
        try:
            for chunk in packed:
                for piece in inflating.feed(chunk):
                    reader.feed(piece)
                self._progress(self._file.filename, start + inflating.taken, self._source.size)
        finally:
            packed.close()
        inflating.check()
        return self._finished(reader, inflating)

    def _finished(self, reader: MemberReader, inflating: _Inflating) -> Library | None:
        try:
            return reader.finish(lambda offset, length: inflating.again(self._source, offset, length))
        except WheelError as error:
            return Library(path=reader.path, size=reader.size, scope="listed", problem=error.message)

    def _whole(self, member: Member, data: bytes) -> bytes:
        inflating = _Inflating(member, 0, self._budget)
        text = b"".join(inflating.feed(data))
        inflating.check()
        return text

    def _text(self, member: Member, data: bytes) -> None:
        self._budget.take(kept=member.size, items=1)
        self._texts[member.name] = self._whole(member, data).decode("utf-8", "replace")

    def _cubin(self, member: Member, data: bytes) -> None:
        unpacker = zlib_ng.decompressobj(-15)
        try:
            start = unpacker.decompress(data, 64) if member.method == DEFLATED else data[:64]
        except DAMAGED as error:
            raise WheelError(f"{member.name} does not unpack: {error}") from error
        target = cubin_target(start)
        if target:
            self._cubins[target] = self._cubins.get(target, 0) + 1

    def _facts(
        self, members: tuple[Member, ...], libraries: list[Library], *, sha256: str, complete: bool
    ) -> WheelFacts:
        texts = {name.rpartition("/")[2]: text for name, text in self._texts.items() if ".dist-info/" in name}
        if "METADATA" not in texts:
            raise WheelError("no wheel: it has no METADATA")
        metadata = read_metadata(texts["METADATA"], budget=self._budget)
        name, version = metadata.name, metadata.version
        try:
            from_name = parse_wheel_filename(self._file.filename)
        except InvalidWheelFilename as error:
            raise WheelError(f"no wheel: {error}") from error
        if name != from_name[0]:
            raise WheelError(f"its METADATA is that of {name!r}")
        if version is not None and Version(version) != from_name[1]:
            raise WheelError(f"its METADATA has the version {version}, its name says {from_name[1]}")
        recorded = _recorded(texts.get("RECORD", ""))
        # Libraries of pynvvideocodec 2.0.4 were changed after its RECORD was made: nothing is known of their bytes.
        hexadecimal = {
            library.path: _hex(found.digest)
            for library in libraries
            if (found := recorded.get(library.path)) is not None and found.size in {None, library.size}
        }
        cuda = _CUDA.search(self._texts.get("torch/version.py", ""))
        return WheelFacts(
            reader=READER,
            name=name,
            version=version or str(from_name[1]),
            filename=self._file.filename,
            sha256=sha256,
            size=self._source.size,
            complete=complete,
            origin=None if complete else self._file.origin,
            tags=read_tags(texts.get("WHEEL", ""), budget=self._budget),
            requires_dist=metadata.requires_dist,
            requires_python=metadata.requires_python,
            libraries=tuple(
                library.model_copy(update={"digest": hexadecimal.get(library.path)})
                for library in sorted(libraries, key=lambda library: library.path)
            ),
            cubins=dict(sorted(self._cubins.items())),
            cuda=cuda.group(1) if cuda else None,
            modules=_modules(members),
            files=_files(recorded),
        )


class _Recorded(NamedTuple):
    """What RECORD says of a file."""

    digest: str
    """Its sha256 in base64 without padding."""
    size: int | None


def _recorded(record: str) -> dict[str, _Recorded]:
    """Return path -> what a RECORD says of the file, for those that it has a sha256 for."""
    found: dict[str, _Recorded] = {}
    with suppress(csv.Error):
        for row in csv.reader(record.splitlines()):
            if len(row) >= 2 and (match := _SHA256.fullmatch(row[1])):
                size = row[2] if len(row) > 2 else ""
                found[row[0]] = _Recorded(match[1], int(size) if _SIZE.fullmatch(size) else None)
    return found


def _hex(digest: str) -> str:
    return base64.urlsafe_b64decode(digest + "=").hex()


def _files(recorded: Mapping[str, _Recorded]) -> dict[str, str]:
    """Return folder -> lines of the files that a wheel puts there; see `WheelFacts.files`."""
    folders: dict[str, list[str]] = {}
    for path, (digest, _) in recorded.items():
        folder, _, name = installed_path(posixpath.normpath(path)).rpartition("/")
        if not folder.partition("/")[0].endswith(".dist-info") and "\n" not in name:
            folders.setdefault(folder or ".", []).append(f"{name} {digest[:FILE_DIGEST]}")
    return {folder: "\n".join(sorted(lines)) for folder, lines in sorted(folders.items())}


def _listed(member: Member) -> Library:
    return Library(path=member.name, size=member.size, scope="listed")


def _modules(members: tuple[Member, ...]) -> tuple[str, ...]:
    found = set()
    for member in members:
        first, slash, _ = member.name.partition("/")
        if slash and not first.endswith((".dist-info", ".data", ".libs")):
            found.add(first)
        elif not slash and first.endswith((".py", ".so")):
            found.add(first.partition(".")[0])
    return tuple(sorted(found))[:64]
