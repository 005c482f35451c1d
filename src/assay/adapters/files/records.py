"""build_logs/ on disk: records and documents, each a file that is written once; run folders, drafts, claims."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from assay.adapters.files.kept_records import is_intact
from assay.adapters.files.locks import locked, no_space
from assay.adapters.files.regular import read_regular
from assay.errors import StoreError
from assay.evidence.record import (
    RECORD_NAME,
    AnyRecord,
    Record,
    RunSummary,
    dump,
    file_name,
    is_named_after,
    parse,
)
from assay.foundation.digest import DIGEST, sha256_of
from assay.ports.store import SUMMARY

__all__ = ["FileStore", "write_whole"]

_DRAFTS: Final = "unfinished"
"""The folder in a run's folder that holds drafts; the lock beside them is held as long as the run lives."""
_LOCK: Final = ".lock"


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    # The name is known before the file exists, so that whatever ends this, a signal too, leaves nothing behind.
    temporary = path.parent / f".writing-{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", hint=no_space(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _drafts(folder: Path, cell_id: str = "") -> list[Path]:
    """Return the drafts in a folder, of one cell or of all; a name is the cell's mark, then that of the record."""
    try:
        return list(folder.glob(f"{_mark(cell_id)}-*.json" if cell_id else "*.json"))
    except FileNotFoundError:
        # Another process took what was in it while this one looked.
        return []


def _mark(cell_id: str) -> str:
    return hashlib.sha256(cell_id.encode()).hexdigest()[:32]


class FileRun:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alive = ExitStack()
        self._guard = threading.Lock()
        self._drafted = False

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    def cell(self, cell_id: str) -> Path:
        """Return the folder of a cell, made if need be."""
        folder = self.path / cell_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}", hint=no_space(error)) from error
        return folder

    def write(self, relative: str, data: bytes, *, executable: bool = False) -> Path:
        """Write a file of the run."""
        path = self.path / relative
        write_whole(path, data, mode=0o755 if executable else 0o644)
        return path

    def draft(self, record: Record) -> None:
        """Keep a record as far as it came; see the port."""
        folder = self.path / _DRAFTS
        with self._guard:
            if not self._drafted:
                # Before the first draft: one without a living run behind it is anybody's to adopt.
                self._alive.enter_context(locked(folder / _LOCK))
                self._drafted = True
        path = folder / f"{_mark(record.cell)}-{file_name(record)}"
        write_whole(path, dump(record))
        for older in _drafts(folder, record.cell):
            if older != path:
                older.unlink(missing_ok=True)

    def close(self) -> None:
        """End the run; drafts that no record followed are left to be adopted."""
        folder = self.path / _DRAFTS
        if self._drafted and not _drafts(folder):
            shutil.rmtree(folder, ignore_errors=True)
        self._alive.close()


class FileStore:
    """The store in a folder.

    Args:
        root: build_logs/; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unreadable: dict[str, str] = {}

    def append(self, record: Record) -> Path:
        """Keep a record; see the port."""
        path = self.root / "records" / file_name(record)
        if not path.exists():
            write_whole(path, dump(record))
        for draft in _drafts(self.root / record.run / _DRAFTS, record.cell):
            draft.unlink(missing_ok=True)
        return path

    def adopt(self) -> list[AnyRecord]:
        """Make records of what dead runs left unfinished; see the port."""
        adopted: list[AnyRecord] = []
        for folder in sorted(self.root.glob(f"*/{_DRAFTS}")):
            if not _drafts(folder):
                continue
            try:
                adopted += self._adopted(folder)
            except StoreError:
                # Another process may have made records of them, and removed the folder, while this one looked.
                if _drafts(folder):
                    raise
        return adopted

    def _adopted(self, folder: Path) -> list[AnyRecord]:
        """Make records of what a run left unfinished, if it is dead."""
        adopted: list[AnyRecord] = []
        with locked(folder / _LOCK) as dead:
            if not dead:
                return adopted
            whole = [item for path in _drafts(folder) if (item := _whole(path)) and item.run == folder.parent.name]
            # A cell has two if the run died between writing one and removing the one before.
            for record in {item.cell: item for item in sorted(whole, key=lambda item: item.created)}.values():
                self.append(record)
                adopted.append(record)
            if not _drafts(folder):
                shutil.rmtree(folder, ignore_errors=True)
        return adopted

    def records(self, *, kind: str | None = None) -> Iterator[AnyRecord]:
        """Yield all readable records, oldest first; names begin with the time, so they sort by it."""
        self._unreadable.clear()
        for path in sorted((self.root / "records").glob("*.json")):
            if kind is not None and f"-{kind}-" not in path.name:
                continue
            try:
                yield _read(path)
            except (StoreError, OSError) as error:
                self._unreadable[path.name] = str(error)

    def unreadable(self) -> Mapping[str, str]:
        """Return what the last walk over `records` skipped."""
        return dict(self._unreadable)

    def take(self, name: str, raw: bytes) -> None:
        """Keep a record of another machine; see the port."""
        if not RECORD_NAME.fullmatch(name) or not is_named_after(name, raw):
            raise StoreError(f"{name} is not named after its bytes")
        parse(raw, source=name)
        path = self.root / "records" / name
        if not path.exists():
            write_whole(path, raw)

    def put_document(self, data: bytes) -> str:
        """Keep a document by content."""
        digest = sha256_of(data)
        path = self._document_path(digest)
        if not path.exists():
            write_whole(path, data)
        return digest

    def document(self, digest: str) -> bytes | None:
        """Return a document, or None."""
        if not DIGEST.fullmatch(digest):
            return None
        try:
            data = read_regular(self._document_path(digest))
        except FileNotFoundError:
            return None
        if sha256_of(data) != digest:
            raise StoreError(f"the document {digest} in {self.root} was changed after it was written")
        return data

    def _document_path(self, digest: str) -> Path:
        return self.root / "documents" / f"{digest[7:]}.json"

    def last_run(self) -> RunSummary | None:
        """Return the newest summary; names of runs begin with the time, so they sort by it."""
        for path in sorted(self.root.glob(f"*/{SUMMARY}"), reverse=True):
            with suppress(OSError, StoreError, ValidationError):
                return RunSummary.model_validate_json(read_regular(path))
        return None

    @contextmanager
    def new_run(self) -> Iterator[FileRun]:
        """Start a run in a new folder."""
        while True:
            path = self.root / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise StoreError(f"{path} cannot be made: {error.strerror}", hint=no_space(error)) from error
            break
        run = FileRun(path)
        try:
            yield run
        finally:
            run.close()

    @contextmanager
    def named_run(self, name: str) -> Iterator[FileRun]:
        """Start or go on with the run of this name."""
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be made: {error.strerror}", hint=no_space(error)) from error
        run = FileRun(path)
        try:
            yield run
        finally:
            run.close()

    @contextmanager
    def claim(self, cell_id: str) -> Iterator[bool]:
        """Hold a lock file while a cell is worked on."""
        with locked(self.root / "claims" / _mark(cell_id)) as mine:
            yield mine


def _read(path: Path) -> AnyRecord:
    """Read a record or a draft of one, or raise StoreError if it is not what was written."""
    raw = read_regular(path)
    record = parse(raw, source=path.name)
    if not is_intact(path, raw):
        raise StoreError(f"{path.name} was edited after it was written, and does not count")
    return record


def _whole(path: Path) -> AnyRecord | None:
    """Return a draft's record; None if the file is gone, or not what it was written as."""
    try:
        return _read(path)
    except (StoreError, OSError):
        return None
