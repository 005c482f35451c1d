"""One pass over a wheel, and members inflated on the way, so that a part that has passed can be had again."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

from zlib_ng import zlib_ng

from assay.errors import WheelError
from assay.foundation.budget import Budget
from assay.pipeline.ahead import Ahead
from assay.ports.wheel_source import ByteSource
from assay.wheels.archive import DEFLATED, STORED, Member

__all__ = ["CHUNK", "DAMAGED", "Inflating", "OnePass"]

DAMAGED: Final = cast("type[Exception]", zlib_ng.error)
CHUNK: Final = 1 << 20
PACKED: Final = 256 << 10
"""Packed bytes given to the decompressor at once: what it does not take is copied each time."""
CHECKPOINT: Final = 8 << 20
"""Compressed bytes between two kept states of the decompressor (each about 40 KiB)."""


@dataclass
class Inflating:
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
            raise WheelError(f"{self.member.name} is damaged: its size or checksum differs from the archive's")

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


class OnePass:
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
        """Return the next `length` bytes."""
        return b"".join(self.chunks(length))

    def skip_to(self, offset: int) -> None:
        """Go on at a later byte."""
        if offset < self.at:
            raise WheelError(f"files overlap at byte {offset}")
        for _ in self.chunks(offset - self.at):
            pass

    def digest(self) -> str:
        """Return the sha256 of the file, all of which has been taken."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the pass."""
        self._ahead.close()
