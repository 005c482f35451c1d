"""The generated files of a project: what recipes, locks and templates give, and which files differ from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from assay.errors import ConfigError, NothingSelected
from assay.matrix import lockfile, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.plan import Plan
from assay.matrix.select import select as select_cells
from assay.pipeline import schema
from assay.pipeline.lock import LockResult, LockStatus
from assay.ports.project import ProjectTree

__all__ = ["cell_files", "drifted", "generated", "locked_cells", "stray", "write_generated"]

SCHEMAS: Final = "schemas"


def _path(cell: Cell, name: str) -> str:
    return f"images/{cell.image}/cells/{cell.id}/{name}"


def _lock(project: ProjectTree, cell: Cell) -> Lock | None:
    return None if cell.kind == "external" else project.lock(cell)


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


def cell_files(result: LockResult) -> dict[str, str | None]:
    """Return the files that a lock's result changes: relative path -> text, or None to remove the file."""
    if result.lock is not None:
        texts: dict[str, str | None] = {"lock.txt": lockfile.dump(result.lock), "unresolved.txt": None}
    elif result.status is LockStatus.UNREACHABLE:
        # An index that cannot be reached says nothing about the lock that is there.
        texts = {}
    else:
        reason = f"{result.status.value}\n\n{result.explanation}\n"
        texts = {"lock.txt": None, "Dockerfile": None, "unresolved.txt": reason}
    return {_path(result.cell, name): text for name, text in texts.items()}


def generated(project: ProjectTree, plan: Plan) -> dict[str, str]:
    """Return every file that follows from recipes, locks and templates: relative path -> text."""
    templates = project.templates()
    matrix = plan.project.matrix
    result: dict[str, str] = {}
    baked: list[tuple[Cell, str]] = []
    for cell in plan.cells:
        lock = _lock(project, cell)
        if lock is None:
            continue
        text = render.dockerfile(cell, lock, matrix.bases[cell.base], indexes=matrix.indexes, templates=templates)
        result[_path(cell, "Dockerfile")] = text
        baked.append((cell, render.content_key(text)))
    groups: dict[str, list[str]] = {}
    for name in matrix.groups:
        try:
            found = select_cells(plan.cells, [name], groups=matrix.groups, axes=matrix.axes)
        except NothingSelected:
            found = []
        groups[name] = [cell.id for cell in found]
    result["images/docker-bake.json"] = render.bake_file(baked, groups)
    if project.has(SCHEMAS):
        result |= {f"{SCHEMAS}/{name}": text for name, text in schema.documents().items()}
    return result


def drifted(project: ProjectTree, plan: Plan, cells: Sequence[Cell] | None = None) -> list[str]:
    """Return the generated files that differ from what recipes, locks and templates give, by relative path.

    Args:
        project: the files.
        plan: its plan.
        cells: look at the files of these cells alone; None: at all generated files.
    """
    expected = generated(project, plan)
    if cells is not None:
        expected = {path: text for cell in cells if (text := expected.get(path := _path(cell, "Dockerfile")))}
    for cell in plan.cells if cells is None else cells:
        # A lock that is not what assay writes for it was edited by hand.
        if (lock := _lock(project, cell)) is not None:
            expected[_path(cell, "lock.txt")] = lockfile.dump(lock)
    return [path for path, text in expected.items() if project.differs(path, text)]


def stray(project: ProjectTree, plan: Plan) -> Sequence[str]:
    """Return the folders of generated files whose cell the matrix no longer has."""
    return project.stray_cells({(cell.image, cell.id) for cell in plan.cells})


def write_generated(project: ProjectTree, plan: Plan) -> int:
    """Write what follows from recipes, locks and templates, remove what belongs to no cell; return how much changed."""
    removed = stray(project, plan)
    for path in removed:
        project.remove(path)
    return len(removed) + sum(project.write(path, text) for path, text in generated(project, plan).items())
