"""The job pool: runs several jobs at once, with one set of rules for every step of the pipeline.

A step gives the pool a function that works on one job, and takes the results:

    def work(job: Cell, control: JobControl) -> Record:
        control.step("audit")                      # progress
        return build(job, stop=control.stop)       # ends soon after control.stop is set

    pool = JobPool(work, at_once=4, timeout=7200, listener=progress, name=lambda cell: cell.id)
    for record in pool.run(cells): ...             # as they come
    records = pool.run_in_order(cells)             # or all, in the order of the jobs

The rules:

- **Keep going.** What fails in a job is part of its result, and the other jobs continue. What `work` *raises* is no
  result: the other jobs are stopped, waited for, and the error comes out of the pool.
- **Fail fast.** With `fail_fast`, the first result that counts as failed stops the jobs that run; those that have not
  begun get the result that `FailFast.skipped` makes.
- **Time-outs.** After `timeout` seconds `control.stop` of this job is set and `control.timed_out` is true. `work` makes
  the result.
- **Room.** With `admit`, a job begins when the context that `admit` returns for it is entered, and gives its room back
  when it ends. Time spent waiting there is no part of the time-out.
- **Ctrl-C**, and a caller that stops taking results: every `control.stop` is set, no further job begins, jobs that run
  are waited for (so that they can record how far they came), and KeyboardInterrupt comes out of the pool.
- **Progress.** The listener hears of each job's start, steps and end, by the job's name, from several threads. A
  listener that raises is not called again; the jobs continue, and its error comes out after the last result.

A pool is used for one run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

__all__ = ["FailFast", "JobControl", "JobPool", "PoolListener", "SilentListener"]

Job = TypeVar("Job")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)


class PoolListener(Protocol[Result_contra]):
    """Hears how jobs go; called from several threads."""

    def started(self, name: str) -> None:
        """Hear that a job begins."""
        ...

    def step(self, name: str, words: str) -> None:
        """Hear what a job does now."""
        ...

    def finished(self, name: str, result: Result_contra) -> None:
        """Hear what came of a job."""
        ...


class SilentListener:
    """Hears everything and does nothing."""

    def started(self, name: str) -> None:
        """Do nothing."""

    def step(self, name: str, words: str) -> None:
        """Do nothing."""

    def finished(self, name: str, result: object) -> None:
        """Do nothing."""


@dataclass(eq=False, kw_only=True)
class JobControl:
    """What travels beside one job: whether it has to end, and where its progress goes."""

    step: Callable[[str], None]
    """Takes a few words on what the job does now."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the job has to end: time-out, fail-fast, Ctrl-C."""
    timed_out: bool = False
    """The job has to end because its time is over."""

    def end_by_timeout(self) -> None:
        """Ask the job to end because its time is over."""
        if not self.stop.is_set():
            self.timed_out = True
            self.stop.set()


@dataclass(frozen=True, kw_only=True)
class FailFast(Generic[Job, Result]):
    """How the first failure ends a run."""

    failed: Callable[[Result], bool]
    skipped: Callable[[Job], Result]
    """Returns the result of a job that never began."""


class JobPool(Generic[Job, Result]):
    """Runs jobs, `at_once` at a time; see the rules above.

    Args:
        work: returns the result of one job.
        at_once: jobs that run at the same time; or, by lane, jobs of each lane.
        timeout: seconds for one job.
        admit: waits on entering until there is room for a job, or until the job has to end.
        fail_fast: stops at the first failure; None keeps going.
        listener: hears of progress.
        name: returns what the listener calls a job.
        lane: returns the lane of a job; the jobs of a lane begin in their order, whatever other lanes do.
    """

    def __init__(
        self,
        work: Callable[[Job, JobControl], Result],
        *,
        at_once: int | Mapping[str, int] = 1,
        timeout: float | None = None,
        admit: Callable[[Job, JobControl], AbstractContextManager[object]] | None = None,
        fail_fast: FailFast[Job, Result] | None = None,
        listener: PoolListener[Result] | None = None,
        name: Callable[[Job], str] = str,
        lane: Callable[[Job], str] = lambda _: "",
    ) -> None:
        self._work = work
        self._at_once = {"": at_once} if isinstance(at_once, int) else at_once
        self._lane = lane
        self._timeout = timeout
        self._admit = admit
        self._fail_fast = fail_fast
        self._listener: PoolListener[Result] = listener or SilentListener()
        self._name = name
        self._changed = threading.Condition()
        self._running: set[JobControl] = set()
        self._stopping = False
        self._listener_error: Exception | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the result of each job as it ends.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the jobs that ran have ended.
            Exception: what `work` raised first, or the listener.
        """
        with closing(self._numbered(jobs)) as numbered:
            for _, result in numbered:
                yield result

    def run_in_order(self, jobs: Iterable[Job]) -> list[Result]:
        """Return the results of all jobs in the order of the jobs; raises what `run` raises."""
        results = dict(self._numbered(jobs))
        return [results[number] for number in sorted(results)]

    def _numbered(self, jobs: Iterable[Job]) -> Generator[tuple[int, Result], None, None]:
        lanes = {
            name: ThreadPoolExecutor(max(1, number), thread_name_prefix="job") for name, number in self._at_once.items()
        }
        try:
            futures = {lanes[self._lane(job)].submit(self._one, job): number for number, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            self._stop()
            # An executor forgets the thread that it starts in the moment of a Ctrl-C, so it cannot be asked to wait.
            for pool in lanes.values():
                pool.shutdown(wait=False, cancel_futures=True)
            with self._changed:
                self._changed.wait_for(lambda: not self._running)
        if self._listener_error is not None:
            raise self._listener_error

    def _stop(self) -> None:
        with self._changed:
            self._stopping = True
            for control in self._running:
                control.stop.set()

    def _one(self, job: Job) -> Result:
        name = self._name(job)
        control = JobControl(step=lambda words: self._tell(lambda: self._listener.step(name, words)))
        with self._changed:
            begins = not self._stopping
            if begins:
                self._running.add(control)
        if not begins:
            if self._fail_fast is None:
                raise CancelledError  # the run is over, and nobody takes this
            return self._fail_fast.skipped(job)
        try:
            self._tell(lambda: self._listener.started(name))
            with self._admit(job, control) if self._admit is not None else nullcontext():
                result = self._timed(job, control)
            if self._fail_fast is not None and self._fail_fast.failed(result):
                self._stop()
            self._tell(lambda: self._listener.finished(name, result))
        except BaseException:
            self._stop()
            raise
        finally:
            with self._changed:
                self._running.discard(control)
                self._changed.notify_all()
        return result

    def _timed(self, job: Job, control: JobControl) -> Result:
        if self._timeout is None:
            return self._work(job, control)
        timer = threading.Timer(self._timeout, control.end_by_timeout)
        timer.daemon = True
        timer.start()
        try:
            return self._work(job, control)
        finally:
            timer.cancel()

    def _tell(self, call: Callable[[], None]) -> None:
        if self._listener_error is not None:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised when the jobs are done: they lose nothing by it
            self._listener_error = error
