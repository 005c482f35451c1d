"""Audits its share of cells: `python -m assay.cli.audit_worker JOB.json FOLDER`.

This is what a pool starts for `assay audit --on POOL`. After each few cells it writes a sealed document into the
folder, whole or not at all. The exit code says whether the share is done: 0, or that of the error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.audit.findings import AuditReport
from assay.cli.audit_composition import make_auditor
from assay.cli.common import load
from assay.cli.worker import run_worker
from assay.errors import AssayError, UsageError
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.pipeline.audit_farm import AskedCell, AuditedCell, AuditJob, AuditPart, without_cost
from assay.pipeline.audit_many import audit_many
from assay.ports.jobs import seal, unseal

__all__ = ["main", "parts"]

_CELLS: Final = 20
"""Cells of one document: what a killed worker loses at most."""
_WHEELS: Final = 8
"""Wheels that are read at the same time."""
Item = TypeVar("Item")


def _portions(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    left = iter(items)
    while portion := list(islice(left, size)):
        yield portion


def parts(job: AuditJob) -> Iterator[AuditPart]:
    """Do what a job asks for; yield what is done since the last one.

    Raises:
        UsageError: the project is not the same here.
    """
    files, plan = load(Path(job.project))
    cells = {cell.id: cell for cell in plan.cells}
    locks: dict[str, Lock] = {}
    for asked in job.cells:
        lock = files.lock(cells[asked.id]) if asked.id in cells else None
        if lock is None or lock_digest(lock) != asked.lock:
            raise UsageError(
                f"the lock of {asked.id} in {job.project} is a different one on this machine",
                hint="share the project's folder with the nodes",
            )
        locks[asked.id] = lock
    matrix = plan.project.matrix
    facts = Path(job.facts) if job.facts else None
    auditor = make_auditor(matrix.indexes, root=files.root, facts=facts, quick=job.quick)
    if job.wheels:
        for portion in _portions(job.wheels, _WHEELS):
            these = [_only(lock, portion) for lock in locks.values()]
            auditor.read_ahead(lock for lock in these if lock.wheels)
            yield AuditPart(wheels=tuple(portion))
        return
    names = {"targets": tuple(target.name for target in job.targets)} if job.targets else {}
    for asked_cells in _portions(job.cells, _CELLS):
        pairs = [(cells[asked.id].model_copy(update=names), locks[asked.id]) for asked in asked_cells]
        audited = audit_many(auditor, pairs, matrix, targets=job.targets, cores=1)
        yield AuditPart(
            reports=tuple(_reported(asked, found) for asked, found in zip(asked_cells, audited, strict=True))
        )


def _only(lock: Lock, wheels: Sequence[str]) -> Lock:
    return lock.model_copy(update={"wheels": tuple(wheel for wheel in lock.wheels if wheel.sha256 in wheels)})


def _reported(asked: AskedCell, audited: tuple[Cell, AuditReport | AssayError]) -> AuditedCell:
    found = audited[1]
    if isinstance(found, AssayError):
        return AuditedCell(cell=asked, error=found.message, hint=found.hint)
    return AuditedCell(cell=asked, report=without_cost(found))


def _do(document: Path, results: Path) -> None:
    job = unseal(read_regular(document), AuditJob, source=document.name)
    for number, part in enumerate(parts(job)):
        write_whole(results / f"{job.name}-{number:05}.json", seal(part))


def main(argv: Sequence[str]) -> int:
    """Do the job that the command line names; return the exit code."""
    return run_worker(argv, program="audit_worker", description="Audit the cells of one job.", do=_do)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
