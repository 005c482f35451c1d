"""A project of many cells whose wheels are known, and what is audited of them elsewhere."""

from __future__ import annotations

from pathlib import Path

from project_tools import IMAGE, MATRIX, Project
from wheels import facts, library

from assay.adapters.files.facts_cache import FactsCache
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.lockfile import dump


def many_cells(root: Path, count: int, pools: str) -> Project:
    """Return a project of so many cells without wheels."""
    project = Project(root)
    values = ", ".join(f"{number}.0" for number in range(1, count + 1))
    project.write("matrix.yaml", MATRIX.replace("values: [1.0, 2.0, 3.0]", f"values: [{values}]"))
    project.write("images/sundae/image.yaml", IMAGE.replace("flavour: [1.0, 2.0, 3.0]", f"flavour: [{values}]"))
    project.write("pools.yaml", pools)
    for number in range(1, count + 1):
        locked(project, number)
    return project


def locked(project: Project, number: int, *wheels: LockedWheel) -> None:
    """Write the lock of a cell."""
    cell = project.cell(f"{number}.0")
    lock = Lock(cell=cell, python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="tiny", wheels=wheels)
    project.write(f"images/sundae/cells/{cell}/lock.txt", dump(lock))


def known_wheels(project: Project, count: int, *folders: Path) -> None:
    """Give each cell a wheel of its own that lacks a library, with its facts in folders."""
    for number in range(1, count + 1):
        name, sha256 = f"thing{number % 50}", f"{number:064x}"
        needed = (f"libgone{number % 7}.so",)
        made = library(f"{name}/_C.abi3.so", needed=needed, sass=("90",))
        found = facts(name, f"1.{number}", made, sha256=sha256)
        for folder in folders:
            FactsCache(folder).put(found)
        locked(project, number, LockedWheel(name=name, version=found.version, filename=found.filename, sha256=sha256))


def written_by(folder: Path, mark: Path) -> int:
    """Return how many documents the worker of a mark has written."""
    return len(list((folder / mark.parent.parent.name / "results").glob(f"{mark.name}-*.json")))
