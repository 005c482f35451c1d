"""Pools: other machines that run jobs. One port for all kinds; jobs and results are sealed documents.

What an engine says of a job never decides whether it is done: an intact, complete result does. States only tell when
a job has to be submitted once more, and what to tell people.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol

from assay.errors import EngineError
from assay.evidence.record import Moment
from assay.foundation.strict import Value
from assay.ports.jobs import JobResult, ProbeJob
from assay.ports.store import RunFolder

__all__ = [
    "ADVICE",
    "GONE",
    "JobOutput",
    "JobState",
    "Loss",
    "Phase",
    "PlannedJob",
    "PoolBook",
    "PoolItem",
    "PoolRun",
    "PoolSilent",
    "ProbePool",
    "Submission",
    "WorkerPool",
]


class PoolSilent(EngineError):
    """The pool, or all that is left of it, does not answer now; how its jobs are is unknown."""


class Phase(StrEnum):
    """How far a job is, as its engine says."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    """Its engine will not run it again."""
    GONE = "gone"
    """Its engine does not have it: never submitted, or removed."""
    UNKNOWN = "unknown"
    """The machine that has it does not answer."""


class Loss(StrEnum):
    """Why a pool did not bring a job to its end; none of them says anything about a cell."""

    PULL_FAILED = "pull_failed"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    QUOTA = "quota"
    HELD = "held"
    REFUSED = "refused"
    NO_RESULT = "no_result"


ADVICE: Final[Mapping[Loss, str]] = {
    Loss.PULL_FAILED: "is the image in that registry, reachable from the nodes, and has the pool a pull secret?",
    Loss.NODE_LOST: "look at the node; assay submits the job again",
    Loss.PREEMPTED: "use a partition or queue that is not preempted, or wait",
    Loss.EVICTED: "the node lacked disk or memory; raise the pool's `scratch` or `memory`",
    Loss.KILLED: "somebody or something outside of the job killed it",
    Loss.OUT_OF_MEMORY: "raise the memory of the pool's jobs (`memory`, or --memory)",
    Loss.TIME_LIMIT: "raise --timeout, or the pool's time limit",
    Loss.QUOTA: "the namespace or account is at its quota; the job starts when there is room",
    Loss.HELD: "the engine holds the job; assay replaces it",
    Loss.REFUSED: "the engine refused the job; `assay doctor --pools` checks the pool",
    Loss.NO_RESULT: "the job ended and left no intact result; its log may say why",
}
"""What a person can do about each loss."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What an engine says of one job."""

    phase: Phase
    loss: Loss | None = None
    """Why it does not run, or ended without an own end."""
    said: str = ""
    """The engine's own words."""
    where: str = ""
    """The node."""


GONE: Final = JobState(phase=Phase.GONE)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is sent: the job, and the programs that run it."""

    job: ProbeJob
    suite: bytes
    """A zip of the probe programs, see `assay.adapters.pools.bundle`."""


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """What a job left: a sealed result, complete or not, and its log."""

    name: str = ""
    """The job's name; empty if only the result tells which job it is of."""
    result: bytes | None = None
    log: bytes = b""


class PlannedJob(Value):
    """One job of a run: an image on one kind of GPU, and the cell it is of."""

    job: ProbeJob
    """Its first attempt."""
    cell: str
    image: str = ""
    lock_digest: str | None = None
    content_key: str | None = None

    def attempt(self, number: int) -> ProbeJob:
        """Return the job as it is submitted the n-th time."""
        return self.job.model_copy(update={"attempt": number})

    @property
    def key(self) -> str:
        """The name of the job whatever the attempt."""
        return self.job.name.rpartition("-")[0]


class PoolRun(Value):
    """All jobs of one run, kept in its folder, so that any process can go on with it."""

    schema_version: Literal[1] = 1
    run: str
    pool: str
    created: Moment
    """By the clock of the machine that planned it first."""
    jobs: tuple[PlannedJob, ...]


class PoolBook(Protocol):
    """The folder of one run on a pool: its plan, and the result of each job that is done."""

    @property
    def folder(self) -> RunFolder:
        """Where logs are written."""
        ...

    def result(self, key: str) -> JobResult | None:
        """Return the result of a job that is done: it is recorded, or was given up; None if it is open."""
        ...

    def keep(self, key: str, result: bytes, log: bytes) -> None:
        """Keep the exact bytes of a result; the job is done."""
        ...

    def deciding(self, key: str) -> AbstractContextManager[bool]:
        """Be the only process that records a job; False while another one does."""
        ...


class PoolItem(Value):
    """One thing that a pool was asked for by `assay doctor --pools`."""

    name: str
    ok: bool | None
    """None: it cannot be known from here, or is not needed."""
    found: str
    mend: str = ""


class ProbePool(Protocol):
    """One pool. Methods are called by one thread; any may raise `PoolSilent`, and is then called again later."""

    @property
    def kind(self) -> str:
        """The executor's name in records."""
        ...

    @property
    def room(self) -> int:
        """How many jobs may be submitted and not ended at the same time."""
        ...

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Submit jobs. One that the engine has already, by name, is left as it is.

        Returns:
            Name of a job -> why the engine refused it, for those that it refused.
        """
        ...

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every job of a run that the engine has, by name."""
        ...

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:
        """Return what these jobs have left since the last call."""
        ...

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """End jobs and remove them from the engine; those that it does not have are ignored."""
        ...

    def sweep(self, run: str) -> None:
        """Remove everything that the run left in the engine, results too."""
        ...

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return the files with which people submit the jobs themselves: path -> content."""
        ...

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:
        """Return what the pool has and what is missing.

        Args:
            registry: host of the registry that its nodes have to reach.
        """
        ...


class WorkerPool(Protocol):
    """A pool whose machines have assay and share a folder with this one; any method may raise `PoolSilent`."""

    @property
    def room(self) -> int:
        """How many jobs may be submitted and not ended at the same time."""
        ...

    def submit(self, run: str, name: str, job: bytes) -> str:
        """Start a worker on a job's document, unless there was one of that name; return why it was refused."""
        ...

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every worker of a run that the engine has, by name."""
        ...

    def documents(self, run: str) -> Iterator[bytes]:
        """Yield what workers of a run have written since the last call."""
        ...

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """End workers."""
        ...

    def sweep(self, run: str) -> None:
        """Remove everything that a run left."""
        ...
