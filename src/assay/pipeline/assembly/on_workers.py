"""Images assembled by workers of a pool, one plain job for each: they push by digest, and this machine sets the tags.

A worker that is lost, or whose disk or registry fails, says nothing about the cell: another one gets it, and after
`attempts` of them this machine assembles the image itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from assay import __version__
from assay.errors import StoreError
from assay.evidence.reference import Reference
from assay.foundation.digest import digest_of
from assay.foundation.strict import Value
from assay.pipeline.assembly.builder import AssemblingBuilder
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.jobs import Digest, Sealed, seal, unseal
from assay.ports.pools import JobState, Loss, Phase, PoolSilent, WorkerPool
from assay.wheels.layer import Packing

__all__ = ["AssembleJob", "AssembledPart", "LayerRules", "WorkerBuilder", "WorkerLimits"]

_LIVE: Final = frozenset({Phase.WAITING, Phase.RUNNING, Phase.UNKNOWN})


AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")]


class LayerRules(Value):
    """How layers are made, and where they are kept: a folder that all workers share."""

    folder: AbsolutePath
    packing: Packing = Packing.ZSTD
    largest: int | None = None
    """Bytes that a layer may have."""


class AssembleJob(Sealed):
    """What one worker does: assemble the image of a Dockerfile, and push it by digest."""

    schema_version: Literal[1] = 1
    kind: Literal["assemble"] = "assemble"
    name: Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9-]*)?$", max_length=100)]
    """Also the name of the document that comes of it."""
    project: AbsolutePath
    """Its folder, the same on all machines."""
    version: str
    """Of assay: another one may give the image another digest."""
    dockerfile: str
    labels: dict[str, str]
    repository: str
    layers: LayerRules
    seconds: float | None = None
    """Time limit."""


class AssembledPart(Sealed):
    """What came of it."""

    schema_version: Literal[1] = 1
    kind: Literal["assembled"] = "assembled"
    name: str
    """The job's."""
    end: BuildEnd
    digest: Digest | None = None
    seconds: float = 0.0
    reason: str = ""
    source: bool = False
    """The lock has a source archive, which no worker can install."""
    machine: str = ""
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """How patient a build is, in seconds."""

    attempts: int = 5
    """Workers that get one cell, one after the other."""
    patience: float = 600.0
    """For a pool that does not answer, or refuses."""
    grace: float = 5.0
    """Between the end of a worker and what it wrote: file systems lag."""
    every: float = 1.0
    """Between two looks."""


@dataclass
class _Try:
    """The worker that has the cell now."""

    run: str
    number: int = 1
    submitted: bool = False
    ran: bool = False
    """It was seen running; if it waits again, its node was lost."""
    since: float | None = None
    """When something began to be wrong."""

    @property
    def name(self) -> str:
        return f"{self.run}-{self.number}"

    def lost(self) -> None:
        self.number, self.submitted, self.ran, self.since = self.number + 1, False, False, None


@dataclass(frozen=True, kw_only=True)
class WorkerBuilder:
    """Satisfies `assay.ports.builder.Builder`, and tells beforehand what it will do; called from several threads."""

    pool: WorkerPool
    here: AssemblingBuilder
    """Builds what cannot be assembled, and assembles what the pool lost too often."""
    name: Callable[[Sequence[str], str, str], None]
    """Gives a pushed image its tags: (references, digest, worker)."""
    project: str
    layers: LayerRules
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    say: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic

    def obstacle(self, dockerfile: str) -> str:
        """Return what keeps an image from being assembled; empty where nothing does."""
        return self.here.obstacle(dockerfile)

    def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
        """Return the digest that an image will have; None where the catalogue lacks a layer."""
        return self.here.digest(dockerfile, labels)

    def begin(self, dockerfile: str) -> None:
        """Begin nothing: workers have, or make, their bases."""

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line that builds the same Dockerfile; see the port."""
        return self.here.command(task, dockerfile=dockerfile)

    def build(self, task: BuildTask) -> BuildOutcome:
        """Have one image assembled by a worker, or build it here; see the port."""
        if self.obstacle(task.dockerfile):
            return self.here.build(task)
        job = AssembleJob(
            name="",
            project=self.project,
            version=__version__,
            dockerfile=task.dockerfile,
            labels=dict(task.labels),
            repository=str(Reference.parse(task.tags[0]).repository),
            layers=self.layers,
            seconds=task.timeout,
        )
        # The same command finds what an earlier one, which was killed, has begun.
        run = f"build-{digest_of(job.model_dump(mode='json'))[7:17]}"
        found = self._followed(task, job, _Try(run=run))
        if isinstance(found, str):
            self.say(f"{task.tags[0]}: {found}; this machine assembles it")
            return self.here.build(task)
        self.pool.sweep(run)
        if found is None:
            return BuildOutcome(end=BuildEnd.STOPPED, reason="stopped")
        try:
            task.log.write_text(found.log)
        except OSError as error:
            raise StoreError(f"{task.log} cannot be written: {error.strerror}") from error
        if found.end is BuildEnd.BUILT:
            self.name(task.tags, found.digest or "", found.machine)
        return BuildOutcome(
            end=found.end, digest=found.digest, seconds=found.seconds, reason=found.reason, builder=found.machine
        )

    def _followed(self, task: BuildTask, job: AssembleJob, attempt: _Try) -> AssembledPart | str | None:
        """Return what a worker made of a cell; why this machine has to do it; or None if the caller stopped it."""
        stop, first, silent = task.stop or threading.Event(), True, None
        tell = task.progress or (lambda _: None)
        while not stop.wait(0 if first else self.limits.every):
            try:
                states = self.pool.poll(attempt.run)
                while first and f"{attempt.run}-{attempt.number + 1}" in states:
                    attempt.number += 1
                attempt.submitted |= first and attempt.name in states
                first, silent = False, None
                if (part := self._part(attempt)) is not None:
                    if part.source:
                        return part.reason
                    if part.end not in {BuildEnd.ENGINE, BuildEnd.REGISTRY}:
                        return part
                    self._lost(task, attempt, f"{part.machine}: {part.reason}")
                elif why := self._looked(
                    task, job, attempt, states.get(attempt.name, JobState(phase=Phase.GONE)), tell
                ):
                    return why
                if attempt.number > self.limits.attempts:
                    return f"the pool lost {self.limits.attempts} workers during this job"
            except PoolSilent as error:
                first, now = False, self.clock()
                silent = now if silent is None else silent
                if now - silent > self.limits.patience:
                    return error.message
        self.pool.cancel([attempt.name], run=attempt.run)
        return None

    def _part(self, attempt: _Try) -> AssembledPart | None:
        """Return what a worker has written: an image counts whoever made it, a failure if it is of this worker."""
        for data in self.pool.documents(attempt.run):
            try:
                part = unseal(data, AssembledPart, source="what a worker wrote")
            except StoreError as error:
                self.say(f"{attempt.run}: {error.message}; it is ignored")
                continue
            if part.end is BuildEnd.BUILT or part.name == attempt.name:
                return part
        return None

    def _looked(
        self, task: BuildTask, job: AssembleJob, attempt: _Try, state: JobState, tell: Callable[[str], None]
    ) -> str:
        """Start a worker, or note that it is lost; return why this machine has to do the cell."""
        now = self.clock()
        if not attempt.submitted:
            why = self.pool.submit(attempt.run, attempt.name, seal(job.model_copy(update={"name": attempt.name})))
            attempt.submitted = not why
            attempt.since = (now if attempt.since is None else attempt.since) if why else None
            return why if attempt.since is not None and now - attempt.since > self.limits.patience else ""
        waits_again = state.phase is Phase.WAITING and (attempt.ran or state.loss is Loss.HELD)
        if state.phase in _LIVE and not waits_again:
            attempt.since, attempt.ran = None, attempt.ran or state.phase is Phase.RUNNING
            tell(f"{state.said} {state.where}".strip())
            return ""
        attempt.since = now if attempt.since is None else attempt.since
        if now - attempt.since >= self.limits.grace:
            self.pool.cancel([attempt.name], run=attempt.run)
            self._lost(task, attempt, f"the pool lost a worker ({state.said or 'gone'})")
        return ""

    def _lost(self, task: BuildTask, attempt: _Try, why: str) -> None:
        self.say(f"{task.tags[0]}: {why}; the cell moves")
        attempt.lost()
