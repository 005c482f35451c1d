"""Audits many cells on workers of a pool: what is intact comes home in the order of the cells, whoever was killed.

First each wheel that nobody has read is given to one worker; then the cells are. Facts and verdicts lie in a folder
that all workers share. A worker writes a document after each few cells; what a lost one did not write goes to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from assay import __version__
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.errors import AssayError, StoreError
from assay.foundation.digest import digest_of
from assay.foundation.strict import Value
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.matrix.model import Matrix
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_many import CellAudit
from assay.ports.jobs import Sealed, seal, unseal
from assay.ports.pools import JobState, Loss, Phase, PoolSilent, WorkerPool

__all__ = ["AskedCell", "AuditFarm", "AuditJob", "AuditPart", "AuditedCell", "FarmLimits", "without_cost"]

_LIVE: Final = frozenset({Phase.WAITING, Phase.RUNNING, Phase.UNKNOWN})
_TELL_SECONDS: Final = 5.0


AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")]


class AskedCell(Value):
    """A cell, and which lock of it."""

    id: str
    lock: str
    """Digest of the lock: on all machines the project has to be the same."""


class AuditJob(Sealed):
    """What one worker does: read wheels, or judge cells."""

    schema_version: Literal[1] = 1
    kind: Literal["audit"] = "audit"
    name: Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9-]*)?$", max_length=100)]
    """Also how the documents begin that come of it, which lie in a folder of its run."""
    project: AbsolutePath
    """Its folder, the same on all machines."""
    facts: AbsolutePath | None = None
    """Folder of cached wheel facts; null: that of the worker's machine."""
    quick: bool = False
    cells: tuple[AskedCell, ...]
    targets: tuple[TargetGpu, ...] | None = None
    """GPUs to judge for, in place of the cells' own."""
    wheels: tuple[str, ...] = ()
    """sha256 of wheels of these cells that are to be read; none: the cells are judged."""


class AuditedCell(Value):
    """What came of one cell."""

    cell: AskedCell
    report: AuditReport | None = None
    error: str = ""
    """Why there is no report."""
    hint: str | None = None

    @property
    def outcome(self) -> AuditReport | AssayError:
        """The report, or why there is none."""
        return self.report if self.report is not None else AssayError(self.error, hint=self.hint)


class AuditPart(Sealed):
    """What a worker has done since its last document."""

    schema_version: Literal[1] = 1
    kind: Literal["audited"] = "audited"
    reports: tuple[AuditedCell, ...] = ()
    wheels: tuple[str, ...] = ()
    """sha256 of wheels that were read, or cannot be."""


def without_cost(report: AuditReport) -> AuditReport:
    """Return a report without what it cost, which differs between machines."""
    return report.model_copy(update={"seconds": 0.0, "fetched_bytes": 0})


@dataclass(frozen=True, kw_only=True)
class FarmLimits:
    """How patient a run is, in seconds, and how large the share of a worker."""

    attempts: int = 5
    """Workers that get one share, one after the other."""
    patience: float = 600.0
    """For a pool that does not answer, refuses or holds."""
    grace: float = 5.0
    """Between the end of a worker and what it wrote last: file systems lag."""
    every: float = 1.0
    """Between two looks."""
    share: int = 50
    """Cells for which one more worker pays; it reads project and knowledge by itself."""


@dataclass(kw_only=True)
class _Portion:
    """What one worker gets, and what of it is not done."""

    name: str
    job: AuditJob
    todo: set[str]
    attempt: int = 1
    submitted: bool = False
    since: float | None = None
    """When something began to be wrong with it."""

    @property
    def worker(self) -> str:
        return f"{self.name}-{self.attempt}"


@dataclass(frozen=True, kw_only=True)
class AuditFarm:
    """Audits cells on a pool; called as `audit_many` is."""

    pool: WorkerPool
    make: Callable[[], Auditor]
    """Makes an auditor over the shared folder."""
    project: str
    facts: str | None = None
    quick: bool = False
    limits: FarmLimits = field(default_factory=FarmLimits)
    say: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep

    def __call__(
        self, asked: Sequence[tuple[Cell, Lock]], matrix: Matrix, targets: Sequence[TargetGpu] | None
    ) -> Iterator[CellAudit]:
        """Yield what is found of each cell, in their order.

        Raises:
            PoolSilent: the pool did not answer for long.
        """
        auditor = self.make()
        kept = [auditor.kept_report(cell, lock, matrix, targets=targets) for cell, lock in asked]
        found: Mapping[str, AuditedCell] = {}
        if None in kept:
            cells = [AskedCell(id=cell.id, lock=lock_digest(lock)) for cell, lock in asked]
            done = {cell.id for (cell, _), report in zip(asked, kept, strict=True) if report is not None}
            unread = auditor.unread(lock for _, lock in asked)
            found = _FarmRun(self, cells, tuple(targets) if targets else None).bring(asked, done, unread)
            # What was read elsewhere is found by one that has looked at nothing yet.
            auditor = self.make()
        for (cell, lock), report in zip(asked, kept, strict=True):
            if report is not None:
                yield cell, without_cost(report)
            elif cell.id in found:
                yield cell, found[cell.id].outcome
            else:
                try:
                    yield cell, without_cost(auditor.cell(cell, lock, matrix, targets=targets))
                except AssayError as error:
                    yield cell, error


class _FarmRun:
    """One set of cells on its way through the pool."""

    def __init__(self, farm: AuditFarm, cells: Sequence[AskedCell], targets: tuple[TargetGpu, ...] | None) -> None:
        self._farm, self._cells, self._targets = farm, cells, targets
        names = [[cell.id, cell.lock] for cell in cells]
        gpus = [repr(target) for target in targets or ()]
        # The same command finds what an earlier one left, also one that was killed.
        self._run = f"audit-{digest_of([farm.project, farm.facts, farm.quick, __version__, names, gpus])[7:17]}"
        self._found: dict[str, AuditedCell] = {}
        self._locks = {cell.id: cell.lock for cell in cells}
        self._told = -_TELL_SECONDS

    def bring(
        self, asked: Sequence[tuple[Cell, Lock]], done: set[str], unread: Sequence[str]
    ) -> Mapping[str, AuditedCell]:
        """Return what workers found of cells, by id; without those of which the pool lost every worker.

        Args:
            asked: the cells with their locks.
            done: ids of those of which a verdict is kept.
            unread: sha256 of wheels that nobody has read.
        """
        pool, limits = self._farm.pool, self._farm.limits
        workers = max(1, min(pool.room, -(-len(self._cells) // limits.share)))
        shares: list[_Portion] = []
        try:
            if unread:
                shares = self._reading(asked, unread, workers)
                self._follow(shares, "wheels to read")
            parts = [self._cells[number::workers] for number in range(workers)]
            shares = [
                self._share(f"{number}", part, {cell.id for cell in part} - done - self._found.keys())
                for number, part in enumerate(parts)
            ]
            self._follow(shares, "cells to audit")
        except KeyboardInterrupt:
            pool.cancel([share.worker for share in shares], run=self._run)
            raise
        pool.sweep(self._run)
        return self._found

    def _share(self, name: str, cells: Sequence[AskedCell], todo: set[str], wheels: Sequence[str] = ()) -> _Portion:
        farm = self._farm
        job = AuditJob(
            name="",
            project=farm.project,
            facts=farm.facts,
            quick=farm.quick,
            cells=tuple(cells),
            targets=self._targets,
            wheels=tuple(wheels),
        )
        return _Portion(name=f"{self._run}-{name}", job=job, todo=todo)

    def _reading(self, asked: Sequence[tuple[Cell, Lock]], unread: Sequence[str], workers: int) -> list[_Portion]:
        """Return shares of wheels: each wheel is read by one worker, for all."""
        of: dict[str, AskedCell] = {}
        for cell, (_, lock) in zip(self._cells, asked, strict=True):
            for wheel in lock.wheels:
                of.setdefault(wheel.sha256, cell)
        parts = [unread[number::workers] for number in range(workers)]
        return [
            self._share(f"w{number}", list({of[one].id: of[one] for one in part}.values()), set(part), part)
            for number, part in enumerate(parts)
            if part
        ]

    def _follow(self, shares: Sequence[_Portion], what: str) -> None:
        """Stay until all shares are done, or given up."""
        limits, silent, first = self._farm.limits, None, True
        total = sum(len(share.todo) for share in shares)
        self._farm.say(f"{self._run}: {total} {what}, on {sum(bool(share.todo) for share in shares)} workers")
        while any(share.todo for share in shares):
            now = self._farm.clock()
            try:
                for data in self._farm.pool.documents(self._run):
                    self._take(data, shares)
                states = self._farm.pool.poll(self._run)
                if first:
                    _found(shares, states, limits.attempts)
                    first = False
                self._look([share for share in shares if share.todo], states)
                silent = None
            except PoolSilent as error:
                silent = now if silent is None else silent
                if now - silent > limits.patience:
                    hint = "workers that were started continue; run the same command again when the pool answers"
                    raise PoolSilent(error.message, hint=hint) from error
            left = sum(len(share.todo) for share in shares)
            if left and now - self._told >= _TELL_SECONDS:
                self._told = now
                self._farm.say(f"{self._run}: {total - left} of {total} done")
            if left:
                self._farm.wait(limits.every)

    def _take(self, data: bytes, shares: Sequence[_Portion]) -> None:
        try:
            part = unseal(data, AuditPart, source="what a worker wrote")
        except StoreError as error:
            self._farm.say(f"{self._run}: {error.message}; it is ignored")
            return
        for one in part.reports:
            if self._locks.get(one.cell.id) == one.cell.lock:
                self._found[one.cell.id] = one
        for share in shares:
            share.todo -= set(part.wheels) if share.job.wheels else self._found.keys()

    def _look(self, shares: Sequence[_Portion], states: Mapping[str, JobState]) -> None:
        """Start workers, and others in place of those that are lost."""
        farm, now = self._farm, self._farm.clock()
        busy = sum(state.phase in _LIVE for state in states.values())
        for share in shares:
            state = states.get(share.worker, JobState(phase=Phase.GONE))
            held = state.phase is Phase.WAITING and state.loss is Loss.HELD
            if share.submitted and (held or state.phase not in _LIVE):
                share.since = now if share.since is None else share.since
                if now - share.since >= farm.limits.grace:
                    self._again(share, state)
            elif share.submitted:
                share.since = None
            if share.todo and not share.submitted and busy < farm.pool.room:
                job = share.job.model_copy(update={"name": share.worker})
                why = farm.pool.submit(self._run, share.worker, seal(job))
                share.submitted = not why
                busy += not why
                share.since = (now if share.since is None else share.since) if why else None
                if share.since is not None and now - share.since > farm.limits.patience:
                    self._give_up(share, why)

    def _again(self, share: _Portion, state: JobState) -> None:
        said = f" ({state.said})" if state.said else ""
        if share.attempt >= self._farm.limits.attempts:
            self._give_up(share, state.said)
            return
        self._farm.pool.cancel([share.worker], run=self._run)
        self._farm.say(
            f"{self._run}: the pool lost a worker{said}; another one takes over the remaining {len(share.todo)}"
        )
        share.attempt += 1
        share.submitted, share.since = False, None

    def _give_up(self, share: _Portion, said: str) -> None:
        self._farm.say(
            f"{self._run}: the pool lost {share.attempt} workers ({said}); "
            f"this machine does the remaining {len(share.todo)}"
        )
        share.todo.clear()


def _found(shares: Sequence[_Portion], states: Mapping[str, JobState], attempts: int) -> None:
    """Go on where an earlier process stopped: the highest attempt that the pool has is the one that counts."""
    for share in shares:
        for number in range(1, attempts + 1):
            if f"{share.name}-{number}" in states:
                share.attempt, share.submitted = number, True
