"""Random access to the bytes of one file of which perhaps only parts are at hand."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

from assay.errors import WheelError

__all__ = ["FileImage", "Image", "SparseImage", "Unread"]


class Unread(Exception):
    """The asked range lies inside the file but was not kept; the caller can fetch it and ask again."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(f"bytes {offset} to {offset + length} are not at hand")
        self.offset = offset
        self.length = length


class Image(Protocol):
    """A file of known size; a range outside it is damage, a range that was not kept is `Unread`."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes.

        Raises:
            WheelError: the range does not lie inside the file.
            Unread: it does, but was not kept.
        """
        ...


def _inside(offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise WheelError(f"a table at bytes {offset} to {offset + length} lies outside the file of {size} bytes")


class FileImage:
    """A file that is wholly in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; `WheelError` outside the file."""
        _inside(offset, length, self.size)
        return bytes(self._view[offset : offset + length])


class SparseImage:
    """A file of which some ranges were kept, in any order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts: list[int] = []
        self._parts: list[bytes] = []

    def add(self, offset: int, data: bytes) -> None:
        """Keep a range; joins it with ranges it touches, so that a table may lie across two of them."""
        if not data or self.has(offset, len(data)):
            return
        start, joined = offset, data
        index = bisect_right(self._starts, offset)
        if index and self._starts[index - 1] + len(self._parts[index - 1]) >= offset:
            index -= 1
            before = self._parts.pop(index)
            start = self._starts.pop(index)
            joined = before[: offset - start] + data
        while index < len(self._starts) and self._starts[index] <= start + len(joined):
            after, at = self._parts.pop(index), self._starts.pop(index)
            joined += after[start + len(joined) - at :]
        self._starts.insert(index, start)
        self._parts.insert(index, joined)

    def has(self, offset: int, length: int) -> bool:
        """Tell whether the whole range was kept."""
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset + length <= self._starts[index] + len(self._parts[index])

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; `WheelError` outside the file, `Unread` where nothing was kept."""
        _inside(offset, length, self.size)
        if length == 0:
            return b""
        if not self.has(offset, length):
            raise Unread(offset, length)
        index = bisect_right(self._starts, offset) - 1
        at = offset - self._starts[index]
        return self._parts[index][at : at + length]
