"""The bytes of a wheel, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from assay.ports.index import IndexFile

__all__ = ["ByteSource", "WheelSource"]


class ByteSource(Protocol):
    """One file; methods raise `PackageIndexError` if its bytes are unavailable or changed while reading."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        ...

    @property
    def fetched(self) -> int:
        """Bytes that came over the wire so far."""
        ...

    @property
    def ranges(self) -> bool:
        """Whether a part can be read without the bytes before it."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; a range outside the file raises `WheelError`."""
        ...

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the file from `offset` to its end, in chunks of about a megabyte."""
        ...


class WheelSource(Protocol):
    """Opens files of an index."""

    def open(self, file: IndexFile) -> AbstractContextManager[ByteSource]:
        """Open one file for reading."""
        ...
