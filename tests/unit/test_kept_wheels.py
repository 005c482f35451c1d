"""Wheels that an audit read whole are kept for their assembly: with the right hash, once, and only while they serve."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.adapters.index.kept import KeptWheels
from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource

DATA = bytes(range(256)) * 5000


class Source:
    """A file in memory, with other bytes than were announced where a test wants that."""

    ranges = True

    def __init__(self, data: bytes = DATA) -> None:
        self._data = data
        self.size = len(data)
        self.fetched = 0

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        for at in range(offset, self.size, 1 << 16):
            self.fetched += len(self._data[at : at + (1 << 16)])
            yield self._data[at : at + (1 << 16)]

    @contextmanager
    def open(self, file: IndexFile) -> Iterator[ByteSource]:
        yield self


def listed(sha256: str | None) -> IndexFile:
    return IndexFile(project="x", filename="x-1-py3-none-any.whl", url="https://x.example/x.whl", sha256=sha256)


SHA = hashlib.sha256(DATA).hexdigest()


def test_a_file_that_was_read_whole_is_given_once(tmp_path: Path) -> None:
    kept = KeptWheels(Source(), tmp_path)
    with kept.open(listed(SHA)) as source:
        assert b"".join(source.stream()) == DATA
        assert b"".join(source.stream()) == DATA
        assert source.fetched == 2 * len(DATA)
    file = kept.take(SHA)
    assert file is not None
    with file:
        assert Path(f"/proc/self/fd/{file.fileno()}").read_bytes() == DATA

    assert kept.take(SHA) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [1, 1 << 16])
def test_a_part_is_not_kept(tmp_path: Path, offset: int) -> None:
    kept = KeptWheels(Source(), tmp_path)
    with kept.open(listed(SHA)) as source:
        assert b"".join(source.stream(offset)) == DATA[offset:]
        chunks = source.stream()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert source.read(3, 2) == DATA[3:5]

    assert kept.take(SHA) is None


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_bytes_that_are_not_those_of_the_index_are_not_kept(tmp_path: Path, sha256: str | None) -> None:
    kept = KeptWheels(Source(), tmp_path)
    with kept.open(listed(sha256)) as source:
        assert b"".join(source.stream()) == DATA

    assert kept.take(SHA) is None
    assert kept.take("0" * 64) is None


@pytest.mark.parametrize("folder", [None, Path("/nowhere/at/all"), Path("/dev/full")])
def test_where_nothing_can_be_written_reading_continues(folder: Path | None) -> None:
    kept = KeptWheels(Source(), folder)
    with kept.open(listed(SHA)) as source:
        assert b"".join(source.stream()) == DATA

    assert kept.take(SHA) is None


def test_a_disk_that_fills_up_loses_what_is_kept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptWheels(Source(), tmp_path)
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(kept, "scratch", lambda: full)
        with kept.open(listed(SHA)) as source:
            assert b"".join(source.stream()) == DATA

    assert kept.take(SHA) is None


def test_files_of_a_cell_that_ended_are_dropped(tmp_path: Path) -> None:
    kept = KeptWheels(Source(), tmp_path)
    with kept.open(listed(SHA)) as source:
        assert b"".join(source.stream()) == DATA
    kept.drop([SHA, "1" * 64])

    assert kept.take(SHA) is None
