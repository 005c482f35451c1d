"""Audits many cells, in several processes where that pays: each reads the facts it needs and judges its share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.errors import AssayError
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.model import Matrix
from assay.pipeline.audit import Auditor
from assay.pipeline.obtain import Obtained

__all__ = ["CellAudit", "audit_many"]

SHARE: Final = 20
"""Cells that one more process has to have for its start to pay: it reads knowledge and facts by itself."""
AT_ONCE: Final = 4
"""Cells that a process gets at a time."""


CellAudit = tuple[Cell, AuditReport | AssayError]
"""A cell with its report, or with why there is none."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What a process judges with."""

    auditor: Auditor
    matrix: Matrix
    targets: Sequence[TargetGpu] | None

    def judge(self, cell: Cell, lock: Lock, ahead: Mapping[str, Obtained]) -> CellAudit:
        try:
            return cell, self.auditor.cell(cell, lock, self.matrix, targets=self.targets, ahead=ahead)
        except AssayError as error:
            return cell, error


_mine: list[_Share] = []
"""In a process of the pool: what it judges with."""


def audit_many(
    auditor: Auditor,
    asked: Sequence[tuple[Cell, Lock]],
    matrix: Matrix,
    *,
    targets: Sequence[TargetGpu] | None = None,
    make: Callable[[], Auditor] | None = None,
    cores: int | None = None,
) -> Iterator[CellAudit]:
    """Yield what is found of each cell, in their order.

    Args:
        auditor: reads what is not known yet, and judges what other processes do not.
        asked: cells with their locks.
        matrix: the matrix of the cells.
        targets: GPUs to judge for, in place of the cells' own.
        make: makes the same auditor in another process, and can be pickled; none: all are judged in this one.
        cores: processes at most; by default the cores that this one may use.
    """
    here = _Share(auditor=auditor, matrix=matrix, targets=targets)
    ahead = auditor.read_ahead(lock for _, lock in asked)
    kept = [auditor.kept_report(cell, lock, matrix, targets=targets) for cell, lock in asked]
    left = [pair for pair, report in zip(asked, kept, strict=True) if report is None]
    processes = min(cores or len(os.sched_getaffinity(0)), len(left) // SHARE)
    # What was read just now is counted by the process that read it.
    judged = (
        _in_processes(processes, make, here, left)
        if make is not None and processes > 1 and not ahead
        else (here.judge(cell, lock, ahead) for cell, lock in left)
    )
    for (cell, _), report in zip(asked, kept, strict=True):
        yield next(judged) if report is None else (cell, report)


def _in_processes(
    processes: int, make: Callable[[], Auditor], here: _Share, asked: Sequence[tuple[Cell, Lock]]
) -> Iterator[CellAudit]:
    # Started anew, not forked: this process has threads.
    pool = ProcessPoolExecutor(
        processes,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(make, here.matrix, here.targets),
    )
    with pool:
        try:
            cells, locks = zip(*asked, strict=True)
            yield from pool.map(_judge, cells, locks, chunksize=AT_ONCE)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(make: Callable[[], Auditor], matrix: Matrix, targets: Sequence[TargetGpu] | None) -> None:
    # Ctrl-C reaches every process of a terminal: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mine.append(_Share(auditor=make(), matrix=matrix, targets=targets))


def _judge(cell: Cell, lock: Lock) -> CellAudit:
    return _mine[0].judge(cell, lock, {})
