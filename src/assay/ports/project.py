"""The files of a project: its configuration, its templates, and what is generated below `images/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from assay.matrix.cell import Cell
from assay.matrix.lock import Lock

__all__ = ["ProjectTree"]


class ProjectTree(Protocol):
    """The files of one checkout; paths are relative to the folder with matrix.yaml."""

    def templates(self) -> Mapping[str, str]:
        """Return the texts below templates/, by relative path."""
        ...

    def lock(self, cell: Cell) -> Lock | None:
        """Return the lock of a cell, or None.

        Raises:
            ConfigError: it cannot be read.
        """
        ...

    def unresolved(self, cell: Cell) -> str | None:
        """Return why a cell has no lock, as `assay lock` wrote it down, or None."""
        ...

    def has(self, relative: str) -> bool:
        """Return whether there is such a file or folder."""
        ...

    def differs(self, relative: str, text: str) -> bool:
        """Return whether a file is missing or has another text."""
        ...

    def write(self, relative: str, text: str | None) -> bool:
        """Write a file whole or not at all, or remove it; return whether anything changed.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        ...

    def stray_cells(self, known: set[tuple[str, str]]) -> Sequence[str]:
        """Return folders of cells that the matrix no longer has; `known` holds (image, cell id)."""
        ...

    def lock_in(self, relative: str) -> Lock | None:
        """Return the lock in a folder of generated files, or None.

        Raises:
            ConfigError: it cannot be read.
        """
        ...

    def remove_generated(self, relative: str) -> Sequence[str]:
        """Remove the generated files of a folder, and the folder with them; return what else it holds."""
        ...
