"""The project's own files: configuration and templates are read, generated files are written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from assay import resources
from assay.adapters.files.card_names import load_cards
from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_config
from assay.audit.findings import Finding
from assay.errors import UsageError
from assay.matrix import loading as matrix
from assay.matrix import lockfile, pools, recipe
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.pools import PoolsFile

__all__ = ["GENERATED", "NoProject", "ProjectFiles", "find_root"]

GENERATED: Final = ("lock.txt", "Dockerfile", "unresolved.txt")


class NoProject(UsageError):
    """A command needs a project, and this folder is in none."""


def find_root(start: Path | None = None) -> Path:
    """Return the folder with matrix.yaml: this one or one above it.

    Raises:
        NoProject: there is none.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "matrix.yaml").is_file():
            return candidate
    raise NoProject("no matrix.yaml here or above", hint="`assay init` makes a project; --project DIR names one")


class ProjectFiles:
    """The files of one project.

    Args:
        root: the folder with matrix.yaml, and with the records in build_logs/.
        example: outside of a project, where records alone are the user's: read the matrix and images that ship.
    """

    def __init__(self, root: Path, *, example: bool = False) -> None:
        self.root = root
        self.example = example
        self._configured = resources.example() if example else root

    def load(self) -> matrix.Project:
        """Read the configuration; see `assay.matrix.loading.load`."""
        texts = {path.parent.name: self._read(path) for path in sorted(self._configured.glob("images/*/image.yaml"))}
        return matrix.load(self._read(self._configured / "matrix.yaml"), texts, cards=load_cards(self._configured))

    def pools(self) -> PoolsFile:
        """Read pools.yaml; see `assay.matrix.pools.load_pools`.

        Raises:
            UsageError: there is none.
        """
        if not (self.root / pools.FILE).is_file():
            raise UsageError(
                f"there is no {pools.FILE} in {self.root}", hint="docs/how-to/pools.md has one for each kind of pool"
            )
        return pools.load_pools(self._read(self.root / pools.FILE))

    def templates(self) -> Mapping[str, str]:
        """Return the texts of templates by relative path: the shipped ones, and the project's own in their place."""
        return {
            name: self._read(path)
            for name, path in resources.files("templates", self.root).items()
            if path.suffix in {".j2", ".txt", ".cu", ".py"}
        }

    def _read(self, path: Path) -> str:
        name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
        return read_config(path, name=name)

    def cell_folder(self, cell: Cell) -> Path:
        """Return the folder of a cell's generated files."""
        return self._configured / "images" / cell.image / "cells" / cell.id

    def lock(self, cell: Cell) -> Lock | None:
        """Return the committed lock of a cell, or None."""
        return self._lock(self.cell_folder(cell))

    def lock_in(self, relative: str) -> Lock | None:
        """Return the lock in a folder of generated files, or None."""
        return self._lock(self.root / relative)

    def _lock(self, folder: Path) -> Lock | None:
        path = folder / "lock.txt"
        if not path.is_file():
            return None
        return lockfile.parse(self._read(path), file=str(path.relative_to(self._configured)))

    def unresolved(self, cell: Cell) -> str | None:
        """Return why a cell has no lock, as `assay lock` wrote it down, or None."""
        path = self.cell_folder(cell) / "unresolved.txt"
        return self._read(path) if path.is_file() else None

    def cell_file(self, cell: Cell, name: str) -> str | None:
        """Return the text of a generated file of a cell, or None."""
        path = self.cell_folder(cell) / name
        return self._read(path) if path.is_file() else None

    def has(self, relative: str) -> bool:
        """Return whether there is such a file or folder; see `assay.ports.project`."""
        return (self.root / relative).exists()

    def differs(self, relative: str, text: str) -> bool:
        """Return whether a file is missing or has another text."""
        path = self.root / relative
        return not path.is_file() or path.read_bytes() != text.encode()

    def write(self, relative: str, text: str | None) -> bool:
        """Write a file whole or not at all, or remove it; return whether anything changed.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        path = self.root / relative
        if text is None:
            there = path.exists()
            path.unlink(missing_ok=True)
            return there
        if not self.differs(relative, text):
            return False
        write_whole(path, text.encode())
        return True

    def add_constraints(self, cell: Cell, findings: Sequence[Finding]) -> None:
        """Add the constraints that fix findings of an audit to the cell's recipe, each with its reason as a comment.

        Raises:
            UsageError: the recipe has a form to which nothing can be added.
        """
        name = f"images/{cell.image}/image.yaml"
        text = recipe.with_constraints(
            self._read(self.root / name),
            {axis: value.id for axis, value in cell.point.items()},
            [item.constraint for item in findings],
            comments=[f"{item.rule}: {item.package} {item.message.partition(':')[0]}" for item in findings],
            file=name,
        )
        self.write(name, text)

    def stray_cells(self, known: set[tuple[str, str]]) -> list[str]:
        """Return folders of cells that the matrix no longer has; `known` holds (image, cell id)."""
        return [
            str(path.relative_to(self.root))
            for path in sorted(self.root.glob("images/*/cells/*"))
            if path.is_dir() and (path.parents[1].name, path.name) not in known
        ]

    def remove_generated(self, relative: str) -> list[str]:
        """Remove the generated files of a stray folder, and the folder with them; return what else it holds."""
        folder = self.root / relative
        for name in GENERATED:
            (folder / name).unlink(missing_ok=True)
        kept = sorted(path.name for path in folder.iterdir())
        if not kept:
            folder.rmdir()
        return kept
