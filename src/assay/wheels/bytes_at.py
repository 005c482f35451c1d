"""Random access to the bytes of one file of which perhaps only parts are at hand."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

from assay.errors import WheelError
from assay.foundation.budget import Budget

__all__ = ["BudgetedImage", "FileBytes", "FileImage", "SparseImage", "Unread"]


class Unread(Exception):
    """The asked range lies inside the file but was not kept; the caller can fetch it and ask again."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(f"bytes {offset} to {offset + length} are not at hand")
        self.offset = offset
        self.length = length


class FileBytes(Protocol):
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


class BudgetedImage:
    """A file each read of which is charged."""

    def __init__(self, image: FileBytes, budget: Budget) -> None:
        self._image = image
        self._budget = budget
        self.size = image.size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises as `Image.read` does, and `WheelError` beyond the budget."""
        self._budget.take(unpacked=max(length, 0), steps=1)
        return self._image.read(offset, length)


class SparseImage:
    """A file of which some ranges were kept, in any order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts: list[int] = []
        self._parts: list[bytes] = []

    def add(self, offset: int, data: bytes) -> None:
        """Keep a range, as it is; what was kept of it before stays."""
        at, end = offset, offset + len(data)
        index = bisect_right(self._starts, offset)
        if index:
            at = max(at, self._starts[index - 1] + len(self._parts[index - 1]))
        while at < end:
            known = index < len(self._starts)
            stop = min(end, self._starts[index]) if known else end
            if at < stop:
                self._starts.insert(index, at)
                self._parts.insert(index, data[at - offset : stop - offset])
                index += 1
            at = self._starts[index] + len(self._parts[index]) if known else end
            index += 1

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; `WheelError` outside the file, `Unread` where nothing was kept."""
        _inside(offset, length, self.size)
        at, end = offset, offset + length
        pieces: list[bytes] = []
        index = bisect_right(self._starts, offset) - 1
        while at < end:
            first = at - self._starts[index] if 0 <= index < len(self._starts) else -1
            piece = self._parts[index][first : first + end - at] if first >= 0 else b""
            if not piece:
                raise Unread(offset, length)
            pieces.append(piece)
            at += len(piece)
            index += 1
        return b"".join(pieces)
