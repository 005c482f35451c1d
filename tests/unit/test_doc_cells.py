"""No lock is committed whose audit failed or that was never built."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.files.kept_records import is_intact
from assay.adapters.files.project import ProjectFiles
from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, parse
from assay.foundation.outcome import Verdict
from assay.foundation.platforms import Platform
from assay.matrix.lockfile import lock_digest
from assay.matrix.plan import make

ROOT = Path(__file__).parents[2]
FILES = ProjectFiles(ROOT)
PLAN = make(FILES.load())
MATRIX = PLAN.project.matrix
TARGETS = {cell.id: cell.targets for cell in PLAN.cells}
LOCKS = {
    cell.id: (cell.platform, lock_digest(lock))
    for cell in PLAN.cells
    if cell.kind == "build" and cell.base == "slim" and (lock := FILES.lock(cell)) is not None
}
LOCKED = {cell: digest for cell, (platform, digest) in LOCKS.items() if platform is Platform.AMD64}


def _records() -> list[AnyRecord]:
    paths = sorted((ROOT / "docs" / "records").rglob("*.json"))
    return [parse(raw, source=path.name) for path in paths if is_intact(path, raw := path.read_bytes())]


@pytest.mark.parametrize("cell", LOCKED)
def test_each_locked_cell_without_a_registry_was_built_of_this_very_lock(cell: str) -> None:
    """After a change of a lock: build the cell, and copy its build record into docs/records/builds."""
    built = {
        record.lock_digest
        for record in _records()
        if isinstance(record, BuildRecord) and record.cell == cell and record.status is BuildStatus.BUILT
    }

    assert LOCKED[cell] in built


@pytest.mark.parametrize("cell", LOCKS)
def test_each_locked_cell_was_audited_of_this_very_lock_for_every_gpu_of_its_platform(cell: str) -> None:
    """After a change of a lock or the matrix: `python tools/record_audits.py`."""
    platform, digest = LOCKS[cell]
    gpus = {name for name, target in MATRIX.targets.items() if platform in (target.platforms or ())}
    audits = [one for one in _records() if isinstance(one, AuditRecord) and one.cell == cell and not one.image_digest]

    assert [(platform, digest, gpus)] == [(one.platform, one.lock_digest, set(one.targets)) for one in audits]
    own = {one.verdicts[target] for one in audits for target in TARGETS[cell]}
    assert Verdict.FAIL not in own
