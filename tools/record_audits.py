# ruff: noqa: INP001
"""Keeps docs/records/audits up to date: `python tools/record_audits.py [CELL...]`, by default of all locked cells.

Audits each cell for every GPU of the matrix that comes with the cell's platform. A record is written, and older ones of
the cell are deleted, where there is none of this lock or the audit predicts something else than the newest one. These
records ship with assay: `assay recommend`, `up` and `launch` answer from them, in place of reading the wheels.

Facts of the wheels that are not cached are read from the package index: up to 6 GB for all cells.
"""

from __future__ import annotations

import sys
from pathlib import Path

from assay.adapters.files.kept_records import intact_records
from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.cli.audit_composition import make_auditor
from assay.evidence.record import AuditRecord, file_name
from assay.matrix.plan import make
from assay.pipeline.audit import record_of
from assay.pipeline.bases import gpu_targets

ROOT = Path(__file__).parents[1]
AUDITS = ROOT / "docs" / "records" / "audits"


def same(one: AuditRecord, other: AuditRecord) -> bool:
    """Return whether two audits of a cell say the same of the same lock."""
    return all(
        getattr(one, name) == getattr(other, name) for name in ("lock_digest", "targets", "verdicts", "predictions")
    )


def main(names: list[str]) -> int:
    """Audit cells and write what changed."""
    files = ProjectFiles(ROOT)
    plan = make(files.load())
    matrix = plan.project.matrix
    auditor = make_auditor(matrix.indexes, root=ROOT)
    kept = [one for one in intact_records(ROOT) if isinstance(one, AuditRecord)]
    store = FileStore(ROOT / "docs")
    for cell in plan.cells:
        lock = files.lock(cell)
        if cell.kind != "build" or lock is None or (names and cell.id not in names):
            continue
        targets = [name for name, target in matrix.targets.items() if cell.platform in (target.platforms or ())]
        report = auditor.cell(cell, lock, matrix, targets=gpu_targets(matrix, targets))
        made = record_of(report, run="audit", cell=cell, image_digest=None, lock=lock)
        old = [one for one in kept if one.cell == cell.id and one.image_digest is None]
        if old and same(old[-1], made):
            print(f"{cell.id}: nothing changed")
            continue
        store.append(made)
        AUDITS.mkdir(parents=True, exist_ok=True)
        (ROOT / "docs" / "records" / file_name(made)).rename(AUDITS / file_name(made))
        for one in old:
            (AUDITS / file_name(one)).unlink(missing_ok=True)
        print(f"{cell.id}: {', '.join(f'{target} {verdict}' for target, verdict in made.verdicts.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
