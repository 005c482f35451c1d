"""The audit step: judge the wheels of locked cells, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.errors import AssayError
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.model import Matrix
from assay.pipeline.audit import Auditor, keep_record
from assay.pipeline.audit_many import CellAudit, audit_many
from assay.ports.store import Store

__all__ = ["AuditPorts", "audit"]


@dataclass(frozen=True, kw_only=True)
class AuditPorts:
    """What auditing cells needs from the world."""

    auditor: Auditor
    """Reads wheels, and judges them."""
    make: Callable[[], Auditor] | None = None
    """Makes the same auditor in another process; None judges all cells in this one."""
    elsewhere: (
        Callable[[Sequence[tuple[Cell, Lock]], Matrix, Sequence[TargetGpu] | None], Iterator[CellAudit]] | None
    ) = None
    """Audits cells on other machines, in place of this one."""
    store: Store | None = None
    """Keeps a record of each report; None keeps none."""
    failed: Callable[[Cell, AssayError], None] | None = None
    """Hears of a cell that could not be audited, while the others go on; None: its error ends the run."""


def audit(
    cells: Sequence[LockedCell], matrix: Matrix, ports: AuditPorts, *, targets: Sequence[TargetGpu] = ()
) -> Iterator[AuditReport]:
    """Audit the wheels of cells; yield a report for each cell that has a lock.

    Args:
        cells: the cells with their locks.
        matrix: the matrix of the cells.
        ports: the world.
        targets: GPUs to judge for; none: those of each cell.
    """
    found = [(item.cell, item.lock) for item in cells if item.lock is not None]
    if targets:
        names = tuple(target.name for target in targets)
        found = [(cell.model_copy(update={"targets": names}), lock) for cell, lock in found]
    locks = {cell.id: lock for cell, lock in found}
    audited = (
        ports.elsewhere(found, matrix, targets or None)
        if ports.elsewhere is not None
        else audit_many(ports.auditor, found, matrix, targets=targets or None, make=ports.make)
    )
    for cell, found_out in audited:
        if isinstance(found_out, AssayError):
            if ports.failed is None:
                raise found_out
            ports.failed(cell, found_out)
            continue
        if ports.store is not None:
            keep_record(ports.store, found_out, run="audit", cell=cell, image_digest=None, lock=locks[cell.id])
        yield found_out
