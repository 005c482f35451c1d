"""No lock is committed whose audit failed or that was never built."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.files.kept_records import is_intact
from assay.adapters.files.project import ProjectFiles
from assay.evidence.record import BuildRecord, BuildStatus, parse
from assay.matrix.lockfile import lock_digest
from assay.matrix.plan import make

ROOT = Path(__file__).parents[2]
FILES = ProjectFiles(ROOT)
LOCKED = {
    cell.id: lock_digest(lock)
    for cell in make(FILES.load()).cells
    if cell.kind == "build" and cell.base == "slim" and (lock := FILES.lock(cell)) is not None
}


@pytest.mark.parametrize("cell", LOCKED)
def test_each_locked_cell_without_a_registry_was_built_of_this_very_lock(cell: str) -> None:
    """After a change of a lock: build the cell, and copy its build record into docs/records/builds."""
    paths = (ROOT / "docs" / "records").rglob("*-build-*.json")
    records = [parse(raw, source=path.name) for path in paths if is_intact(path, raw := path.read_bytes())]
    built = {
        record.lock_digest
        for record in records
        if isinstance(record, BuildRecord) and record.cell == cell and record.status is BuildStatus.BUILT
    }

    assert LOCKED[cell] in built
