"""The store of records and runs: build_logs/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from assay.evidence.record import AnyRecord, Record, RunSummary

__all__ = ["SUMMARY", "RunFolder", "Store"]

SUMMARY: Final = "run.json"
"""The file of a run's folder that holds its `RunSummary`."""


class RunFolder(Protocol):
    """The folder of one run: `build_logs/<run>/`."""

    @property
    def name(self) -> str:
        """The run's name, `20261120T124500-3f9a`."""
        ...

    @property
    def path(self) -> Path: ...

    def cell(self, cell_id: str) -> Path:
        """Return the folder of a cell in this run, made if need be."""
        ...

    def write(self, relative: str, data: bytes, *, executable: bool = False) -> Path:
        """Write a file of the run whole or not at all."""
        ...

    def draft(self, record: Record) -> None:
        """Write a draft record atomically; it replaces the previous draft of the same cell.

        `Store.append` of the finished record ends it; so does `Store.adopt` when this process did not live to do that.

        Raises:
            StoreError: it cannot be written.
        """
        ...


class Store(Protocol):
    """Append-only records, run folders, and drafts of records that are not finished."""

    @property
    def root(self) -> Path:
        """build_logs/."""
        ...

    def append(self, record: Record) -> Path:
        """Write a record atomically to its own file; the same record twice is one file.

        Raises:
            StoreError: it cannot be written (disk full, no permission).
        """
        ...

    def adopt(self) -> Sequence[AnyRecord]:
        """Make records of the drafts that dead runs left (killed, power lost), and return them.

        Drafts of live runs and incomplete drafts are left unchanged. One draft becomes one record, however
        many processes ask at once.

        Raises:
            StoreError: a record cannot be written; its draft stays.
        """
        ...

    def records(self, *, kind: str | None = None) -> Iterator[AnyRecord]:
        """Yield all records that can be read, oldest first; see `unreadable` for the rest."""
        ...

    def unreadable(self) -> Mapping[str, str]:
        """Return file name -> why it is not a record, for every file that `records` skipped."""
        ...

    def take(self, name: str, raw: bytes) -> None:
        """Keep the exact bytes of a record that another machine wrote, under the name it has there.

        Raises:
            StoreError: it cannot be written, or the bytes are no record of this name.
        """
        ...

    def put_document(self, data: bytes) -> str:
        """Keep a document (an audit's report, say) by content; return its digest."""
        ...

    def document(self, digest: str) -> bytes | None:
        """Return a document by digest, or None."""
        ...

    def last_run(self) -> RunSummary | None:
        """Return how the cells of the newest run of builds that came to its end did, or None."""
        ...

    def new_run(self) -> AbstractContextManager[RunFolder]:
        """Start a run: a folder no other run has, however many start at once."""
        ...

    def claim(self, cell_id: str) -> AbstractContextManager[bool]:
        """Try to be the one that works on a cell: False while another process does; released when it ends or dies."""
        ...
