"""The generated files of one cell: its lock, or why it has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from assay.errors import ConfigError
from assay.matrix import lockfile, unresolved
from assay.matrix.cell import Cell
from assay.matrix.lock import LockedCell
from assay.pipeline.lock import LockResult, LockStatus
from assay.ports.project import ProjectTree

__all__ = ["cell_files", "cell_path", "locked_cells"]

_NOT_REACHED: Final = (
    "The registry of the base or a package index could not be reached.\n"
    "Run `assay lock` for this cell on a machine that reaches both."
)


def cell_path(cell: Cell, name: str) -> str:
    """Return the path of a generated file of a cell."""
    return f"images/{cell.image}/cells/{cell.id}/{name}"


def locked_cells(project: ProjectTree, cells: Iterable[Cell], *, unreadable: bool = False) -> list[LockedCell]:
    """Return cells with the locks that the project has of them.

    Args:
        project: the files.
        cells: the cells.
        unreadable: take a lock that cannot be read for none; a new one replaces it.

    Raises:
        ConfigError: a lock cannot be read.
    """
    found: list[LockedCell] = []
    for cell in cells:
        try:
            lock = project.lock(cell)
        except ConfigError:
            if not unreadable:
                raise
            lock = None
        found.append(LockedCell(cell=cell, lock=lock, unresolved=project.unresolved(cell)))
    return found


def cell_files(project: ProjectTree, result: LockResult) -> dict[str, str | None]:
    """Return the files that a lock's result changes: relative path -> text, or None to remove the file."""
    cell, explanation = result.cell, result.explanation
    if result.lock is not None:
        texts: dict[str, str | None] = {"lock.txt": lockfile.dump(result.lock), "unresolved.txt": None}
    else:
        if result.status is LockStatus.UNREACHABLE:
            # An index out of reach says nothing about the lock that is there, or about a reason found before.
            before = project.unresolved(cell)
            if project.has(cell_path(cell, "lock.txt")) or (before and unresolved.answers(before, cell)):
                return {}
            # The words of one machine's network belong into no commit.
            explanation = _NOT_REACHED
        reason = unresolved.dump(cell, result.status.value, explanation)
        texts = {"lock.txt": None, "Dockerfile": None, "unresolved.txt": reason}
    return {cell_path(cell, name): text for name, text in texts.items()}
