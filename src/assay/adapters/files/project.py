"""The project's own files: configuration and templates are read, generated files are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.adapters.files.records import write_whole
from assay.audit.findings import Finding
from assay.errors import ConfigError, Problem, UsageError
from assay.matrix import loading as matrix
from assay.matrix import lockfile, recipe
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock

__all__ = ["ProjectFiles", "find_root"]


def find_root(start: Path | None = None) -> Path:
    """Return the folder with matrix.yaml: this one or one above it.

    Raises:
        UsageError: there is none.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "matrix.yaml").is_file():
            return candidate
    raise UsageError(
        f"no matrix.yaml in {folder} or above it",
        hint="run assay inside a checkout of your images, or name it with --project DIR",
    )


class ProjectFiles:
    """The files of one checkout.

    Args:
        root: the folder with matrix.yaml.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self) -> matrix.Project:
        """Read the configuration; see `assay.matrix.loading.load`."""
        texts = {path.parent.name: self._read(path) for path in sorted(self.root.glob("images/*/image.yaml"))}
        return matrix.load(self._read(self.root / "matrix.yaml"), texts)

    def templates(self) -> Mapping[str, str]:
        """Return the texts below templates/, by relative path."""
        folder = self.root / "templates"
        return {
            str(path.relative_to(folder)): self._read(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in {".j2", ".txt", ".cu", ".py"} and path.is_file()
        }

    def _read(self, path: Path) -> str:
        name = str(path.relative_to(self.root))
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            wrong = f"not UTF-8: byte 0x{error.object[error.start]:02x}"
            raise ConfigError([Problem(file=name, line=line, column=column, message=wrong)]) from error
        except OSError as error:
            raise ConfigError([Problem(file=name, message=f"cannot be read: {error.strerror}")]) from error

    def cell_folder(self, cell: Cell) -> Path:
        """Return the folder of a cell's generated files."""
        return self.root / "images" / cell.image / "cells" / cell.id

    def lock(self, cell: Cell) -> Lock | None:
        """Return the committed lock of a cell, or None."""
        path = self.cell_folder(cell) / "lock.txt"
        if not path.is_file():
            return None
        return lockfile.parse(self._read(path), file=str(path.relative_to(self.root)))

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
        """Add to a cell's recipe the constraints that mend findings of its audit, each with the reason as a comment.

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

    def remove(self, relative: str) -> None:
        """Remove a stray folder of generated files."""
        shutil.rmtree(self.root / relative)
