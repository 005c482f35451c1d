"""A pool in memory, as unkind as the real ones were measured to be; its clock moves by one second with each poll."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from assay.evidence.suite import HarnessResult, ProbeEnded, ProbeFacts
from assay.ports.jobs import JobResult, ProbeJob, seal
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, PoolSilent, Submission

__all__ = ["FakePool", "Fate", "sealed_result"]

Fate = Literal[
    "finishes", "late", "no_result", "cut_off", "foreign", "node_lost", "vanishes", "held", "pull_failed", "refused",
    "half", "done_but_pending", "broke_off", "hangs",
]  # fmt: skip
"""What becomes of one attempt."""


def sealed_result(job: ProbeJob, *, ended: str = "finished", probes: int | None = None, when: str = "") -> bytes:
    """Return a result in which the first `probes` features of a job work."""
    features = job.features[: len(job.features) if probes is None else probes]
    document = {"outcome": "works", "reason": ""}
    harness = HarnessResult(
        schema_version=1,
        suite_digest=job.suite,
        python="3.12.3",
        executable="/usr/bin/python3",
        facts=ProbeFacts(
            devices=tuple(
                {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 1 << 37} for _ in range(job.devices.count)
            )
        ),
        probes={name: ProbeEnded(feature=name, file=name, exit_code=0, document=document) for name in features},
        finished=ended == "finished",
    )
    written = datetime.fromisoformat(when) if when else datetime.now(UTC).replace(microsecond=0)
    made = JobResult.model_validate(
        {"job": job.digest, "executor": "fake", "ended": ended, "harness": harness, "machine": "n1", "written": written}
    )
    return seal(made)


@dataclass
class FakePool:
    """See `assay.ports.pools.ProbePool`.

    Args:
        fate: returns what becomes of a job's attempt.
        room: jobs at the same time.
        silent: polls at which nothing answers.
    """

    fate: Callable[[ProbeJob], Fate] = lambda _: "finishes"
    room: int = 100
    silent: Collection[int] = ()
    kind: str = "fake"
    when: str = ""
    polls: int = 0
    submitted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    _jobs: dict[str, tuple[ProbeJob, int]] = field(default_factory=dict)

    def clock(self) -> float:
        """Return the time, in polls."""
        return float(self.polls)

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Submit jobs; see the port."""
        self._answer()
        refused = {}
        for item in jobs:
            if self.fate(item.job) == "refused":
                refused[item.job.name] = "no such partition"
            elif item.job.name not in self._jobs:
                self._jobs[item.job.name] = (item.job, self.polls)
                self.submitted.append(item.job.name)
        return refused

    def _answer(self) -> None:
        if self.polls in self.silent:
            raise PoolSilent("the pool does not answer")

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return states; see the port."""
        self.polls += 1
        self._answer()
        found = {name: self._state(job, since) for name, (job, since) in self._jobs.items() if job.run == run}
        return {name: state for name, state in found.items() if state is not None}

    def _state(self, job: ProbeJob, since: int) -> JobState | None:
        if self.polls - since < 2 or self.fate(job) == "hangs":
            return JobState(phase=Phase.RUNNING, where="n1")
        match self.fate(job):
            case "node_lost" | "half":
                return JobState(phase=Phase.ENDED, loss=Loss.NODE_LOST, said="node fail", where="n1")
            case "held" | "done_but_pending":
                return JobState(phase=Phase.WAITING, loss=Loss.HELD, said="launch failed requeued held")
            case "pull_failed":
                return JobState(phase=Phase.WAITING, loss=Loss.PULL_FAILED, said="ErrImagePull")
            case "vanishes":
                return None
            case _:
                return JobState(phase=Phase.ENDED, said="completed", where="n1")

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:  # noqa: ARG002 - the port names it
        """Return results; see the port."""
        found = []
        for name in [name for name in names if name in self._jobs]:
            job, since = self._jobs[name]
            if self.polls - since < 2:
                continue
            result = self._result(job, since)
            found += [JobOutput(name=name, result=result, log=b"log\n")] if result else []
        return found

    def _result(self, job: ProbeJob, since: int) -> bytes | None:
        match self.fate(job):
            case "finishes" | "done_but_pending":
                return sealed_result(job, when=self.when)
            case "late":
                return sealed_result(job) if self.polls - since > 4 else None
            case "cut_off":
                return sealed_result(job)[:-20]
            case "foreign":
                return sealed_result(job.model_copy(update={"run": "another"}))
            case "half":
                return sealed_result(job, ended="unfinished", probes=1)
            case "broke_off":
                return sealed_result(job, ended="failed", probes=1)
            case _:
                return None

    def cancel(self, names: Collection[str], *, run: str) -> None:  # noqa: ARG002 - the port names it
        """End jobs; see the port."""
        self._answer()
        self.cancelled += names
        self._jobs = {name: item for name, item in self._jobs.items() if name not in names}

    def sweep(self, run: str) -> None:
        """Remove a run; see the port."""
        self.swept.append(run)
        self._jobs = {name: item for name, item in self._jobs.items() if item[0].run != run}

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return one file for each job."""
        return {f"{item.job.name}.json": seal(item.job) for item in jobs}

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:
        """Return one thing."""
        return [PoolItem(name="registry", ok=registry is not None, found=str(registry))]
