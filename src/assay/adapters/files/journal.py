"""The journal of tags as a file of JSON lines, with a lock beside it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from assay.adapters.files.locks import locked
from assay.errors import StoreError
from assay.ports.journal import Transition

__all__ = ["FileJournal"]

PATIENCE: Final = 120.0
"""How long to wait for another publisher on this machine, seconds."""


class FileJournal:
    """Satisfies `assay.ports.journal.Journal` with `publish.jsonl` in a folder."""

    def __init__(self, folder: Path, *, patience: float = PATIENCE) -> None:
        self._folder = folder
        self._path = folder / "publish.jsonl"
        self._patience = patience

    def append(self, transition: Transition) -> None:
        """See the port. One write of one line with O_APPEND, so that two writers never mix."""
        line = transition.model_dump_json().encode() + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    # A line that a killed process did not finish stays alone.
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error}") from error

    def read(self, repository: str, tag: str) -> Iterator[Transition]:
        """See the port. A line that was cut short by a power failure is skipped."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                found = Transition.model_validate_json(line)
            except ValidationError:
                continue
            if (found.repository, found.tag) == (repository, tag):
                yield found

    @contextmanager
    def exclusive(self, repository: str) -> Iterator[None]:
        """See the port. The lock is the kernel's, so that it goes with the process that held it."""
        path = self._folder / (".publish-" + re.sub(r"[^A-Za-z0-9.-]", "_", repository) + ".lock")
        deadline = time.monotonic() + self._patience
        while True:
            with locked(path) as mine:
                if mine:
                    yield
                    return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"another process has been publishing into {repository} for {self._patience:g} s",
                    hint="wait for it, or end it: the lock goes with it",
                )
            time.sleep(0.1)
