"""A project beside the user's own, for cells that its matrix does not name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from assay.adapters.files.project import ProjectFiles
from assay.matrix.cell import Cell

__all__ = ["scratch_project"]

_LINKED: Final = ("templates", "probes", "knowledge", "build_logs")
"""What testing a cell needs of the project beside its matrix and its image."""


def scratch_project(root: Path, project: ProjectFiles, texts: Mapping[str, str], cells: Iterable[Cell]) -> ProjectFiles:
    """Make a project with its own matrix, images and locks; everything else is the project's own, by links.

    Args:
        root: its folder.
        project: the user's own project.
        texts: matrix and images: relative path -> text.
        cells: the cells of the new project. A lock that the project has of them counts: the image that it gave and the
            records of it stay valid.
    """
    scratch = ProjectFiles(root)
    for relative, text in texts.items():
        scratch.write(relative, text)
    for name in _LINKED:
        link, meant = root / name, (project.root / name).resolve()
        if name == "build_logs" or meant.is_dir():
            link.unlink(missing_ok=True)
            link.symlink_to(meant, target_is_directory=True)
    for cell in cells:
        if (committed := project.cell_file(cell, "lock.txt")) is not None:
            scratch.write(str((scratch.cell_folder(cell) / "lock.txt").relative_to(root)), committed)
    return scratch
