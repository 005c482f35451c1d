"""A project whose changes are kept in memory until somebody wants them: for proposals and patches."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from assay.adapters.files.project import GENERATED, ProjectFiles
from assay.matrix import lockfile
from assay.matrix.cell import Cell
from assay.matrix.loading import Project
from assay.matrix.lock import Lock

__all__ = ["StagedFiles"]


class StagedFiles(ProjectFiles):
    """The files of a project as they would be; what is written here changes nothing on disk until `flush`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._staged: dict[str, str | None] = {}

    def text(self, relative: str) -> str:
        """Return the text of a file, as it would be.

        Raises:
            ConfigError: it cannot be read.
        """
        return self._read(self.root / relative)

    def trial(self, texts: Mapping[str, str]) -> Project:
        """Return the configuration with other texts of some files, which are not kept.

        Raises:
            ConfigError: it is not valid.
        """
        kept, self._staged = self._staged, self._staged | dict(texts)
        try:
            return self.load()
        finally:
            self._staged = kept

    def flush(self) -> list[str]:
        """Write everything to disk; return the paths that changed.

        Raises:
            StoreError: the disk is full, or a folder cannot be written.
        """
        on_disk = ProjectFiles(self.root)
        changed = [path for path, text in self._staged.items() if on_disk.write(path, text)]
        self._staged.clear()
        return changed

    def patch(self) -> str:
        """Return the changes as `git apply` reads them; empty without changes."""
        return "".join(self._patches())

    def _patches(self) -> Iterator[str]:
        for path, text in sorted(self._staged.items()):
            place = self.root / path
            before = place.read_text(encoding="utf-8") if place.is_file() else None
            if before == text:
                continue
            yield f"diff --git a/{path} b/{path}\n"
            if before is None:
                yield "new file mode 100644\n"
            if text is None:
                yield "deleted file mode 100644\n"
            yield from difflib.unified_diff(
                (before or "").splitlines(keepends=True),
                (text or "").splitlines(keepends=True),
                f"a/{path}" if before is not None else "/dev/null",
                f"b/{path}" if text is not None else "/dev/null",
            )

    def _read(self, path: Path) -> str:
        staged = self._staged.get(self._name(path))
        return staged if staged is not None else super()._read(path)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def _lock(self, folder: Path) -> Lock | None:
        name = self._name(folder / "lock.txt")
        if name not in self._staged:
            return super()._lock(folder)
        text = self._staged[name]
        return None if text is None else lockfile.parse(text, file=name)

    def unresolved(self, cell: Cell) -> str | None:
        """Return why a cell has no lock, or None; see `ProjectFiles`."""
        name = self._name(self.cell_folder(cell) / "unresolved.txt")
        return self._staged[name] if name in self._staged else super().unresolved(cell)

    def has(self, relative: str) -> bool:
        """Return whether there would be such a file or folder."""
        if relative in self._staged:
            return self._staged[relative] is not None
        return super().has(relative)

    def differs(self, relative: str, text: str) -> bool:
        """Return whether a file would be missing or have another text."""
        if relative in self._staged:
            return self._staged[relative] != text
        return super().differs(relative, text)

    def write(self, relative: str, text: str | None) -> bool:
        """Keep the text of a file, or that it is removed; return whether anything changed."""
        if text is None:
            there = self.has(relative)
            if there or relative in self._staged:
                self._staged[relative] = None
            return there
        if not self.differs(relative, text):
            return False
        self._staged[relative] = text
        return True

    def remove_generated(self, relative: str) -> list[str]:
        """Keep that the generated files of a stray folder are removed; return what else it holds."""
        folder = self.root / relative
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        for name in GENERATED:
            self.write(f"{relative}/{name}", None)
        return sorted(name for name in names if name not in GENERATED)
