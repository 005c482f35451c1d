"""`unresolved.txt`: why a cell has no lock, and for which recipe that was found. Pure."""

from __future__ import annotations

from typing import Final

from assay.foundation.digest import sha256_of
from assay.matrix import lockfile
from assay.matrix.cell import Cell

__all__ = ["answers", "dump"]

_RECIPE: Final = "recipe: "


def dump(cell: Cell, status: str, explanation: str) -> str:
    """Return the text of an unresolved.txt: the status, the resolver's explanation and the digest of the recipe."""
    return f"{status}\n\n{explanation.strip()}\n\n{_RECIPE}{_digest(cell)}\n"


def answers(text: str, cell: Cell) -> bool:
    """Return whether an unresolved.txt was written for the recipe that the cell has now."""
    return text.endswith(f"\n{_RECIPE}{_digest(cell)}\n")


def _digest(cell: Cell) -> str:
    """Return the digest of all that a lock of the cell has to answer."""
    parts = (cell.id, cell.python, cell.base, cell.as_of or "", *lockfile.wanted(cell), "--", *cell.constraints)
    return sha256_of("\n".join(parts).encode())
