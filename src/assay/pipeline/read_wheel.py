"""Reads what there is to know of a wheel from where it lies: its text files, and its shared objects in part or whole.

A full read is one pass over the file, hashed as it goes, so that the facts belong to the very bytes the index
announced. Nothing is written to disk. A part of a member that turns out to be needed after it has passed is inflated
again from the nearest of the decompressor states that were kept on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import PurePosixPath
from re import MULTILINE
from re import compile as pattern
from typing import Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version
from zlib_ng import zlib_ng

from assay.errors import PackageIndexError, WheelError
from assay.foundation.budget import LIBRARY, PREFIX_AT_ONCE, WHEEL, Budget
from assay.pipeline.ahead import Ahead
from assay.pipeline.unpacking import CHUNK, DAMAGED, Inflating, OnePass
from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource, WheelSource
from assay.wheels.archive import (
    DEFLATED,
    LOCAL_HEADER,
    TAIL,
    Directory,
    Member,
    find_directory,
    local_header_size,
    read_directory,
)
from assay.wheels.elf_header import is_elf
from assay.wheels.elf_prefix import NeedMore, read_prefix
from assay.wheels.facts import READER, Library, WheelFacts
from assay.wheels.fatbin import cubin_target
from assay.wheels.library_facts import library_facts
from assay.wheels.member import MemberReader
from assay.wheels.metadata import read_metadata, read_tags
from assay.wheels.recorded import files_by_folder, hex_digest, read_record

__all__ = ["Depth", "Progress", "is_library", "read_library", "read_wheel"]

RANGE: Final = 8 << 20
"""Bytes of one request when a single member is read."""
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
        WheelError: it is not a wheel, damaged, or costs more than the budget.
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
        through = OnePass(self._source)
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
                f"{self._file.filename}: the download has sha256 {found}, but the index says {self._file.sha256}",
                hint="the file changed during the download, or the index is wrong; nothing was kept",
            )
        return self._facts(members, libraries, sha256=found, complete=True)

    def _unpacked(self, members: tuple[Member, ...], through: OnePass) -> Generator[Member | bytes | Inflating]:
        """Yield each library's entry, its bytes, and what unpacked it; the few other files are dealt with here."""
        for member in members:
            through.skip_to(member.header)
            header = through.take(LOCAL_HEADER)
            start = member.header + local_header_size(header, member)
            through.skip_to(start)
            if is_library(member.name):
                yield member
                inflating = Inflating(member, start, self._budget)
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
            raise WheelError(f"{member.name} is not an ELF file")
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
        """Read symbols from the first bytes, asking for twice as much each time; None if it is not an ELF file."""
        start, packed = self._begin(member, FIRST_PREFIX)
        inflating = Inflating(member, start, self._budget)
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
        inflating = Inflating(member, start, self._budget)
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

    def _finished(self, reader: MemberReader, inflating: Inflating) -> Library | None:
        try:
            return reader.finish(lambda offset, length: inflating.again(self._source, offset, length))
        except WheelError as error:
            return Library(path=reader.path, size=reader.size, scope="listed", problem=error.message)

    def _whole(self, member: Member, data: bytes) -> bytes:
        inflating = Inflating(member, 0, self._budget)
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
            raise WheelError("not a wheel: it has no METADATA")
        metadata = read_metadata(texts["METADATA"], budget=self._budget)
        name, version = metadata.name, metadata.version
        try:
            from_name = parse_wheel_filename(self._file.filename)
        except InvalidWheelFilename as error:
            raise WheelError(f"not a wheel: {error}") from error
        if name != from_name[0]:
            raise WheelError(f"its METADATA is that of {name!r}")
        if version is not None and Version(version) != from_name[1]:
            raise WheelError(f"its METADATA has the version {version}, its name says {from_name[1]}")
        recorded = read_record(texts.get("RECORD", ""))
        # Libraries of pynvvideocodec 2.0.4 were changed after its RECORD was made: nothing is known of their bytes.
        hexadecimal = {
            library.path: hex_digest(found.digest)
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
            files=files_by_folder(recorded),
        )


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
