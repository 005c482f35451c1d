"""The generated files of a project: what recipes, locks and templates give, and which files differ from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from assay.errors import ConfigError, NothingSelected
from assay.matrix import lockfile, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.plan import Plan
from assay.matrix.select import select as select_cells
from assay.pipeline.cell_files import cell_path
from assay.ports.project import ProjectTree

__all__ = ["drifted", "generated", "keep_renamed", "stray", "write_generated"]

SCHEMAS: Final = "schemas"

Say = Callable[[str], None]


def _lock(project: ProjectTree, cell: Cell) -> Lock | None:
    return None if cell.kind == "external" else project.lock(cell)


def _dockerfiles(project: ProjectTree, plan: Plan, cells: Sequence[Cell]) -> dict[str, tuple[Cell, str]]:
    """Return the Dockerfile of each cell that has a lock: relative path -> cell, text."""
    templates, matrix = project.templates(), plan.project.matrix
    found: dict[str, tuple[Cell, str]] = {}
    for cell in cells:
        if (lock := _lock(project, cell)) is not None:
            base = matrix.bases[cell.base]
            text = render.dockerfile(cell, lock, base, indexes=matrix.indexes, templates=templates)
            found[cell_path(cell, "Dockerfile")] = (cell, text)
    return found


def generated(project: ProjectTree, plan: Plan) -> dict[str, str]:
    """Return every file that follows from recipes, locks and templates: relative path -> text."""
    matrix = plan.project.matrix
    dockerfiles = _dockerfiles(project, plan, plan.cells)
    result = {path: text for path, (_, text) in dockerfiles.items()}
    groups: dict[str, list[str]] = {}
    for name in matrix.groups:
        try:
            found = select_cells(plan.cells, [name], groups=matrix.groups, axes=matrix.axes)
        except NothingSelected:
            found = []
        groups[name] = [cell.id for cell in found]
    baked = [(cell, render.content_key(text)) for cell, text in dockerfiles.values()]
    result["images/docker-bake.json"] = render.bake_file(baked, groups)
    if project.has(SCHEMAS):
        from assay.pipeline import schema  # noqa: PLC0415 - it imports the documents of all commands

        result |= {f"{SCHEMAS}/{name}": text for name, text in schema.documents().items()}
    return result


def drifted(project: ProjectTree, plan: Plan, cells: Sequence[Cell] | None = None) -> list[str]:
    """Return the generated files that differ from what recipes, locks and templates give, by relative path.

    Args:
        project: the files.
        plan: its plan.
        cells: look at the files of these cells alone; None: at all generated files.
    """
    if cells is None:
        expected = generated(project, plan)
    else:
        expected = {path: text for path, (_, text) in _dockerfiles(project, plan, cells).items()}
    for cell in plan.cells if cells is None else cells:
        # A lock that is not what assay writes for it was edited by hand.
        if (lock := _lock(project, cell)) is not None:
            expected[cell_path(cell, "lock.txt")] = lockfile.dump(lock)
    return [path for path, text in expected.items() if project.differs(path, text)]


def stray(project: ProjectTree, plan: Plan) -> Sequence[str]:
    """Return the folders of generated files whose cell the matrix no longer has."""
    return project.stray_cells({(cell.image, cell.id) for cell in plan.cells})


def keep_renamed(project: ProjectTree, plan: Plan, say: Say) -> None:
    """Give the lock of a cell that is gone to a cell without a lock whose recipe it answers: the cell was renamed."""
    for path in stray(project, plan):
        try:
            lock = project.lock_in(path)
        except ConfigError:
            continue
        _, image, _, old = path.split("/")
        if lock is None:
            continue
        for cell in plan.cells:
            if cell.image != image or cell.kind == "external" or project.has(cell_path(cell, "lock.txt")):
                continue
            base = plan.project.matrix.bases[cell.base]
            moved = lock.model_copy(update={"cell": cell.id})
            if lockfile.stale_reason(moved, cell, glibc=base.glibc, pulled=base.kind == "registry") is None:
                project.write(cell_path(cell, "lock.txt"), lockfile.dump(moved))
                say(f"renamed: {cell.id} keeps the lock of {old}")
                break


def write_generated(project: ProjectTree, plan: Plan, say: Say) -> int:
    """Write what follows from recipes, locks and templates, remove what belongs to no cell; return how much changed."""
    removed = stray(project, plan)
    for path in removed:
        kept = project.remove_generated(path)
        say(f"removed {path}: matrix.yaml has no such cell" + (f" (kept: {', '.join(kept)})" if kept else ""))
    return len(removed) + sum(project.write(path, text) for path, text in generated(project, plan).items())
