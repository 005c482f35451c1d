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
LOCKS = {
    cell.id: (cell.platform, lock_digest(lock))
    for cell in make(FILES.load()).cells
    if cell.kind == "build" and cell.base == "slim" and (lock := FILES.lock(cell)) is not None
}
LOCKED = {cell: digest for cell, (platform, digest) in LOCKS.items() if platform is Platform.AMD64}
FOREIGN = {cell: digest for cell, (platform, digest) in LOCKS.items() if platform is not Platform.AMD64}


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


@pytest.mark.parametrize("cell", FOREIGN)
def test_each_locked_cell_for_arm64_was_audited_of_this_very_lock(cell: str) -> None:
    """After a change of a lock: audit the cell, and copy its audit record into docs/records/audits."""
    audits = [
        record
        for record in _records()
        if isinstance(record, AuditRecord) and record.cell == cell and record.lock_digest == FOREIGN[cell]
    ]

    assert {Platform.ARM64} == {record.platform for record in audits}
    assert Verdict.FAIL not in {record.verdict for record in audits}
