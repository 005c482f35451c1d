"""Wheels that an audit read from end to end, kept for the assembly that needs them next: none is fetched twice."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource, WheelSource

__all__ = ["KeptWheels"]


class KeptWheels:
    """Satisfies `assay.ports.wheel_source.WheelSource` with another one, and keeps what streams through whole.

    A kept file has no name: nothing is left of it, however this process ends. Where the disk is full nothing is kept.

    Args:
        source: opens files.
        folder: is on the disk that they are kept on; None keeps nothing.
    """

    def __init__(self, source: WheelSource, folder: Path | None) -> None:
        self._source = source
        self._folder = folder
        self._kept: dict[str, IO[bytes]] = {}
        self._guard = threading.Lock()

    @contextmanager
    def open(self, file: IndexFile) -> Iterator[ByteSource]:
        """Open a file; see the port."""
        with self._source.open(file) as source:
            yield source if file.sha256 is None or self._folder is None else _Streamed(source, file.sha256, self)

    def keep(self, sha256: str, content: IO[bytes]) -> None:
        """Keep a file whose bytes have this sha256."""
        with self._guard:
            if sha256 not in self._kept:
                self._kept[sha256] = content
                return
        content.close()

    def take(self, sha256: str) -> IO[bytes] | None:
        """Return a file that is kept, and keep it no longer; whoever gets it closes it."""
        with self._guard:
            return self._kept.pop(sha256, None)

    def drop(self, hashes: Iterable[str]) -> None:
        """Keep these files no longer."""
        for sha256 in hashes:
            if (content := self.take(sha256)) is not None:
                content.close()

    def scratch(self) -> IO[bytes]:
        """Return a file without a name; raises OSError."""
        return tempfile.TemporaryFile(dir=self._folder)


class _Streamed:
    """A source whose bytes are written aside as they stream by."""

    def __init__(self, source: ByteSource, sha256: str, keeper: KeptWheels) -> None:
        self._source = source
        self._sha256 = sha256
        self._keeper = keeper
        self.size = source.size
        self.ranges = source.ranges

    @property
    def fetched(self) -> int:
        """Bytes that came over the wire; see the port."""
        return self._source.fetched

    def read(self, offset: int, length: int) -> bytes:
        """Return some bytes; see the port."""
        return self._source.read(offset, length)

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the file; see the port. One that comes whole, with the right hash, is kept."""
        target: IO[bytes] | None = None
        digest = hashlib.sha256()
        try:
            with suppress(OSError):
                target = self._keeper.scratch() if offset == 0 else None
            for chunk in self._source.stream(offset):
                if target is not None:
                    digest.update(chunk)
                    try:
                        target.write(chunk)
                    except OSError:
                        _close(target)
                        target = None
                yield chunk
            if target is not None and digest.hexdigest() == self._sha256:
                with suppress(OSError):
                    target.flush()
                    self._keeper.keep(self._sha256, target)
                    target = None
        finally:
            if target is not None:
                _close(target)


def _close(file: IO[bytes]) -> None:
    # Closing writes what is left, which a full disk refuses.
    with suppress(OSError):
        file.close()
