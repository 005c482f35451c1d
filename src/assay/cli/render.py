"""`assay render`: Dockerfiles and docker-bake.json from recipes, locks and templates; `--check` finds drift."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from assay.adapters.files.project import ProjectFiles, write_text
from assay.cli import console
from assay.cli.common import load, project_option
from assay.errors import NothingSelected
from assay.matrix import lockfile, render
from assay.matrix.cell import Cell
from assay.matrix.plan import Plan
from assay.matrix.select import select as select_cells
from assay.pipeline import schema

__all__ = ["command", "drifted", "edited_locks", "generated", "write_generated"]


@click.command("render")
@project_option
@click.option("--check", is_flag=True, help="Change nothing; fail if a generated file is outdated.")
def command(project: Path | None, *, check: bool) -> int:
    """Write the Dockerfile of each locked cell, images/docker-bake.json and the schemas for editors."""
    files, plan = load(project)
    if not check:
        changed = write_generated(files, plan)
        console.say(f"{changed} files changed" if changed else "everything is as it should be")
        return 0
    drift = [str(path.relative_to(files.root)) for path, text in generated(files, plan).items() if _differs(path, text)]
    drift += [str(path.relative_to(files.root)) for path in edited_locks(files, plan.cells)]
    drift += [f"{path.relative_to(files.root)}: the matrix has no such cell" for path in _stray(files, plan)]
    for line in drift:
        console.data(line)
    if drift:
        console.say("generated files differ from what recipes, locks and templates give; run `assay render`")
    return 1 if drift else 0


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_bytes() != text.encode()


def edited_locks(files: ProjectFiles, cells: Iterable[Cell]) -> list[Path]:
    """Return the lock files that are not what assay writes for the lock they hold."""
    found: list[Path] = []
    for cell in cells:
        lock = None if cell.kind == "external" else files.lock(cell)
        path = files.cell_folder(cell) / "lock.txt"
        if lock is not None and _differs(path, lockfile.dump(lock)):
            found.append(path)
    return found


def drifted(files: ProjectFiles, plan: Plan, cells: Iterable[Cell]) -> list[str]:
    """Return the generated files of cells that are not what recipes, locks and templates give, by relative path."""
    chosen = list(cells)
    folders = {files.cell_folder(cell) for cell in chosen}
    paths = [path for path, text in generated(files, plan).items() if path.parent in folders and _differs(path, text)]
    return [str(path.relative_to(files.root)) for path in (*paths, *edited_locks(files, chosen))]


def generated(files: ProjectFiles, plan: Plan) -> dict[Path, str]:
    """Return every file that follows from recipes, locks and templates, with its text."""
    templates = files.templates()
    project = plan.project
    result: dict[Path, str] = {}
    baked: list[tuple[Cell, str]] = []
    for cell in plan.cells:
        lock = None if cell.kind == "external" else files.lock(cell)
        if lock is None:
            continue
        text = render.dockerfile(
            cell, lock, project.matrix.bases[cell.base], indexes=project.matrix.indexes, templates=templates
        )
        result[files.cell_folder(cell) / "Dockerfile"] = text
        baked.append((cell, render.content_key(text)))
    groups: dict[str, list[str]] = {}
    for name in project.matrix.groups:
        try:
            found = select_cells(plan.cells, [name], groups=project.matrix.groups, axes=project.matrix.axes)
        except NothingSelected:
            found = []
        groups[name] = [cell.id for cell in found]
    result[files.root / "images" / "docker-bake.json"] = render.bake_file(baked, groups)
    if (files.root / "schemas").is_dir():
        result |= {files.root / "schemas" / name: text for name, text in schema.documents().items()}
    return result


def _stray(files: ProjectFiles, plan: Plan) -> list[Path]:
    return files.stray_cells({(cell.image, cell.id) for cell in plan.cells})


def write_generated(files: ProjectFiles, plan: Plan) -> int:
    """Write what follows from recipes, locks and templates, remove what no cell owns; return how much changed."""
    stray = _stray(files, plan)
    for path in stray:
        files.remove(path)
    return len(stray) + sum(write_text(path, text) for path, text in generated(files, plan).items())
