"""Run jobs on a pool and bring every result home, whatever its engine does.

What decides is an intact, complete result, by content; the engine's states only tell when to submit a job once more.
This process may die at any time: everything is in the engine and in the run's folder, and the next one goes on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Final

from assay.errors import StoreError
from assay.evidence import record
from assay.evidence.record import ProbeRecord
from assay.pipeline.pooled_values import Board, PooledEnd, PoolLimits, measured_at
from assay.ports.jobs import COMPLETE, JobResult, unseal
from assay.ports.pools import (
    GONE,
    JobOutput,
    JobState,
    Loss,
    Phase,
    PlannedJob,
    PoolBook,
    PoolRun,
    PoolSilent,
    ProbePool,
    Submission,
)

__all__ = ["Coordinator"]

_CHUNK: Final = 25
"""Jobs submitted between two looks at what is there."""
_OVERDUE_SECONDS: Final = 300.0
"""A job that its engine calls running so long after its own time limit is lost."""
_WIDE_SECONDS: Final = 60.0
"""How often results are looked for of jobs that this process did not submit and the engine does not name."""


@dataclass(kw_only=True)
class _Open:
    """A job that has no complete result."""

    planned: PlannedJob
    key: str
    """That of the plan, which is a digest and takes time to compute."""
    names: tuple[str, ...]
    """Of its attempts."""
    attempt: int = 1
    submitted: bool = False
    since: float | None = None
    """When what is wrong with it began."""
    ran_since: float | None = None
    best: tuple[bytes, JobResult] | None = None
    """The result that came furthest."""
    log: bytes = b""
    own_ends: int = 0
    """How often it ended by itself without a result."""
    state: JobState = GONE

    @property
    def name(self) -> str:
        return self.names[self.attempt - 1]

    def begin_again(self) -> None:
        self.attempt += 1
        self.submitted, self.since, self.ran_since, self.state = False, None, None, GONE


Recorder = Callable[[PlannedJob, JobResult, bytes, datetime], ProbeRecord | None]
"""Makes and appends the record of a result, with its log and the time it was measured."""


class Coordinator:
    """Brings the jobs of one run home.

    Args:
        pool: where they run.
        plan: the run.
        book: the run's folder.
        suite: the zip of the probe programs.
        record: makes records.
        limits: how patient it is.
        say: is told what happens.
        show: is given the state of all, after each look.
    """

    def __init__(
        self,
        pool: ProbePool,
        plan: PoolRun,
        book: PoolBook,
        *,
        suite: bytes,
        record: Recorder,
        limits: PoolLimits,
        say: Callable[[str], None] = lambda _: None,
        show: Callable[[Board], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._plan, self._book, self._suite = pool, plan, book, suite
        self._record, self._limits, self._say, self._show, self._clock = record, limits, say, show, clock
        self._open: dict[str, _Open] = {}
        self._ends: dict[str, PooledEnd] = {}
        self._retried = 0
        self._skewed: set[str] = set()
        self._silent_since: float | None = None
        self._first = True
        self._wide_at = 0.0
        # A look costs as much as there are jobs in the pool, not as there are in the plan.
        self._live: dict[str, _Open] = {}
        self._named: dict[str, _Open] = {}
        self._keys: dict[str, str] = {}
        self._order = [planned.key for planned in plan.jobs]
        for key, planned in zip(self._order, plan.jobs, strict=True):
            jobs = [planned.attempt(number) for number in _to(limits.attempts)]
            self._keys |= {job.digest: key for job in jobs}
            if (there := book.result(key)) is not None:
                # Recorded by an earlier process; the record of the same bytes is the same record.
                made = self._recorded(planned, there, b"")
                self._ends[key] = PooledEnd(planned=planned, record=made)
            else:
                item = self._open[key] = _Open(planned=planned, key=key, names=tuple(job.name for job in jobs))
                self._named |= dict.fromkeys(item.names, item)

    @property
    def ends(self) -> Sequence[PooledEnd]:
        """What came of each job that is done, in the order of the plan."""
        return [self._ends[key] for key in self._order if key in self._ends]

    @property
    def open(self) -> int:
        """How many jobs have no end yet."""
        return len(self._open)

    def is_done(self, key: str) -> bool:
        """Return whether a job has come to its end."""
        return key in self._ends

    def states(self) -> Mapping[str, JobState]:
        """Return what the pool says of each open job, by its key; nothing is changed."""
        states = self._pool.poll(self._plan.run)
        self._found(states)
        return {key: states.get(item.name, GONE) for key, item in self._open.items()}

    def run(self, stop: threading.Event | None = None) -> Sequence[PooledEnd]:
        """Bring all jobs home; return what came of each. Ends early when `stop` is set; jobs continue in the pool."""
        stop = stop or threading.Event()
        while self._open and not stop.is_set():
            submitted = self.look(submit=True)
            if self._open and submitted < _CHUNK:
                stop.wait(self._limits.every)
        if not self._open:
            self._tidy()
        return self.ends

    def submit_all(self) -> int:
        """Submit what the pool has room for, and return how many jobs were not."""
        left = len(self._open) + 1
        while (now := sum(not item.submitted for item in self._open.values())) < left or self._first:
            left = now
            self.look(submit=True)
            self.look(submit=False)
        return left

    def look(self, *, submit: bool) -> int:
        """Take the results that are there, look at the states, submit what is to be (again); return how many were."""
        try:
            states = self._pool.poll(self._plan.run)
        except PoolSilent as error:
            self._quiet(error)
            self._collect()
            return 0
        self._silent_since = None
        if self._first:
            self._found(states)
            if there := sum(item.submitted for item in self._open.values()):
                self._say(f"{self._plan.run}: {there} of {len(self._open)} jobs are in the pool already")
            # The pool may have forgotten the attempt that brought a result.
            self._collect(self._limits.attempts)
            self._first, self._wide_at = False, self._clock()
        found = (self._named.get(name) for name in states)
        self._live |= {item.key: item for item in found if item and item.key in self._open}
        self._collect()
        busy = any(state.phase is Phase.RUNNING for state in states.values())
        for item in list(self._live.values()):
            item.state = states.get(item.name, GONE)
            item.submitted = item.submitted or item.state.phase is not Phase.GONE
            if submit:
                self._judge(item, busy=busy)
        submitted = self._submit(states) if submit else 0
        self._show(self._board())
        return submitted

    def cancel(self) -> None:
        """End all jobs in the pool; those that are done stay done."""
        names = [name for item in self._open.values() for name in item.names[: item.attempt]]
        self._pool.cancel(names, run=self._plan.run)

    def give_up(self) -> Sequence[PooledEnd]:
        """Record what of the open jobs was measured, and return what came of all."""
        for item in list(self._open.values()):
            self._lost(item, Loss.KILLED, "it was cancelled")
        return self.ends

    def _tidy(self) -> None:
        try:
            self._pool.sweep(self._plan.run)
        except PoolSilent as error:
            self._say(f"files of the run {self._plan.run} stay in the pool: {error.message}")

    def _quiet(self, error: PoolSilent) -> None:
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
            self._say(f"{error.message}; its jobs continue, and assay asks again")
        elif now - self._silent_since > self._limits.patience:
            hint = "submitted jobs continue; run the same command again when the pool answers"
            raise PoolSilent(error.message, hint=hint)

    def _found(self, states: Mapping[str, JobState]) -> None:
        """Go on where an earlier process stopped: the highest attempt that the pool has is the one that counts."""
        for item in self._open.values():
            for number, name in enumerate(item.names, 1):
                if name in states:
                    item.attempt, item.submitted = number, True

    # ------------------------------------------------------------------------------------------------------- results

    def _collect(self, attempts: int = 0) -> None:
        wide = attempts > 0 or self._clock() - self._wide_at >= _WIDE_SECONDS
        self._wide_at = self._clock() if wide else self._wide_at
        asked = list((self._open if wide else self._live).values())
        names = {name: item for item in asked for name in item.names[: max(item.attempt, attempts)]}
        try:
            outputs = self._pool.collect(list(names), run=self._plan.run)
        except PoolSilent:
            outputs = []
        for output in outputs:
            self._take(output, names.get(output.name))
        for item in asked:
            self._found_done(item)

    def _found_done(self, item: _Open) -> bool:
        """Return whether a job is done; another process may have finished it."""
        if item.key in self._open and (there := self._book.result(item.key)) is not None:
            self._done(item, there, b"")
        return item.key not in self._open

    def _take(self, collected: JobOutput, named: _Open | None) -> None:
        """Take a result for the job that it says it is of, whatever it is called."""
        if named is not None:
            named.log = collected.log or named.log
        if collected.result is None:
            return
        cell = named.planned.cell if named is not None else "a job"
        try:
            result = unseal(collected.result, JobResult, source=f"the result of {cell}")
        except StoreError as error:
            self._say(f"{error.message}; it is ignored")
            return
        item = self._open.get(self._keys.get(result.job, ""))
        if item is None:
            if named is not None and result.job not in self._keys:
                self._say(f"the result of {cell} is that of another job; it is ignored")
            return
        item.log = collected.log or item.log
        if item.best is None or _reach(result) >= _reach(item.best[1]):
            item.best = (collected.result, result)
        if self._complete(item, result):
            self._keep(item, collected.result, result)

    def _complete(self, item: _Open, result: JobResult) -> bool:
        if result.ended not in COMPLETE:
            return False
        # What broke off or got no GPU is tried once more: a node may be at fault.
        facts = result.harness.facts if result.harness else None
        blind = bool(item.planned.job.devices.count) and (facts is None or not facts.devices)
        return item.attempt > 1 or not (blind or result.ended in {"failed", "no_python"})

    def _keep(self, item: _Open, data: bytes, result: JobResult) -> None:
        with self._book.deciding(item.key) as mine:
            if not mine:
                return
            if (there := self._book.result(item.key)) is not None:
                result = there
            self._done(item, result, item.log)
            if there is None:
                self._book.keep(item.key, data, item.log)

    def _done(self, item: _Open, result: JobResult, log: bytes) -> None:
        made = self._recorded(item.planned, result, log)
        self._ends[item.key] = PooledEnd(planned=item.planned, record=made, attempts=item.attempt)
        self._close(item)

    def _close(self, item: _Open) -> None:
        self._open.pop(item.key, None)
        self._live.pop(item.key, None)

    def _recorded(self, planned: PlannedJob, result: JobResult, log: bytes) -> ProbeRecord | None:
        moment, skew = measured_at(result.written, self._plan.created, record.now())
        if skew and result.machine not in self._skewed:
            self._skewed.add(result.machine)
            self._say(f"the clock of {result.machine} is off by {skew}; records carry the time of the run instead")
        return self._record(planned, result, log, moment)

    # -------------------------------------------------------------------------------------------------------- losses

    def _judge(self, item: _Open, *, busy: bool) -> None:
        state, now = item.state, self._clock()
        match state.phase:
            case Phase.RUNNING:
                item.since = None
                item.ran_since = item.ran_since or now
                if now - item.ran_since > item.planned.job.limits.seconds + _OVERDUE_SECONDS:
                    self._again(item, Loss.TIME_LIMIT, "it runs long after its own time limit")
            case Phase.WAITING if state.loss is None:
                item.since = None
            case Phase.WAITING if state.loss is Loss.HELD:
                self._again(item, Loss.HELD, state.said)
            case Phase.WAITING:
                if state.loss is Loss.QUOTA and busy:
                    item.since = None
                elif self._lasts(item, self._limits.patience):
                    self._lost(item, state.loss or Loss.REFUSED, state.said)
            case Phase.UNKNOWN:
                if self._lasts(item, self._limits.unknown):
                    self._again(item, Loss.NODE_LOST, state.said)
            case Phase.ENDED:
                if self._lasts(item, self._limits.grace):
                    self._again(item, state.loss or Loss.NO_RESULT, state.said)
            case Phase.GONE:
                if item.submitted and self._lasts(item, self._limits.grace):
                    self._again(item, Loss.NODE_LOST, "its engine no longer has it")

    def _lasts(self, item: _Open, seconds: float) -> bool:
        item.since = self._clock() if item.since is None else item.since
        return self._clock() - item.since >= seconds

    def _again(self, item: _Open, loss: Loss, said: str) -> None:
        """Submit a job once more, if it may be."""
        item.own_ends += loss is Loss.NO_RESULT
        if item.attempt >= self._limits.attempts or item.own_ends >= 3:
            self._lost(item, loss, said)
            return
        try:
            self._pool.cancel([item.name], run=self._plan.run)
        except PoolSilent:
            return
        where = f" on {item.state.where}" if item.state.where else ""
        self._say(f"{item.planned.cell}: {loss.replace('_', ' ')}{where} ({said}); attempt {item.attempt + 1}")
        item.begin_again()
        self._retried += 1

    def _lost(self, item: _Open, loss: Loss, said: str) -> None:
        """Give a job up; what was measured of it is recorded."""
        self._close(item)
        end = PooledEnd(planned=item.planned, loss=loss, said=said, attempts=item.attempt)
        self._say(f"{item.planned.cell}: {end.words}")
        if item.best is not None and item.best[1].harness is not None and item.best[1].harness.probes:
            best = item.best[1]
            ended = "engine_lost" if best.ended == "unfinished" else best.ended
            said = best.message or f"the pool lost it: {loss.replace('_', ' ')}"
            result = best.model_copy(update={"ended": ended, "message": said})
            # It stays open in the run's folder: the same command tries again.
            end = replace(end, record=self._recorded(item.planned, result, item.log))
        self._ends[item.key] = end
        try:
            self._pool.cancel([item.name], run=self._plan.run)
        except PoolSilent:
            return

    # ---------------------------------------------------------------------------------------------------- submissions

    def _submit(self, states: Mapping[str, JobState]) -> int:
        """Submit jobs that no look has seen in the pool; submitting one twice does nothing."""
        busy = sum(state.phase in {Phase.WAITING, Phase.RUNNING, Phase.UNKNOWN} for state in states.values())
        free = max(0, self._pool.room - busy)
        waiting = (item for item in self._open.values() if not item.submitted)
        todo = [item for item in list(islice(waiting, min(free, _CHUNK))) if not self._found_done(item)]
        if not todo:
            return 0
        self._live |= {item.key: item for item in todo}
        jobs = [Submission(job=item.planned.attempt(item.attempt), suite=self._suite) for item in todo]
        try:
            refused = self._pool.submit(jobs)
        except PoolSilent as error:
            self._quiet(error)
            return 0
        for item in todo:
            if (why := refused.get(item.name)) is None:
                item.since = None
            else:
                item.state = JobState(phase=Phase.GONE, loss=Loss.REFUSED, said=why)
                if self._lasts(item, self._limits.patience):
                    self._lost(item, Loss.REFUSED, why)
        return len(todo) - len(refused)

    def _board(self) -> Board:
        phases = Counter(item.state.phase for item in self._live.values())
        lost = sum(end.record is None for end in self._ends.values())
        return Board(
            done=len(self._ends) - lost,
            lost=lost,
            running=phases[Phase.RUNNING],
            waiting=len(self._open) - phases[Phase.RUNNING],
            retried=self._retried,
        )


def _to(number: int) -> range:
    return range(1, number + 1)


def _reach(result: JobResult) -> tuple[bool, int]:
    """Return how far a result came, for comparison."""
    return result.ended in COMPLETE, len(result.harness.probes) if result.harness else 0
