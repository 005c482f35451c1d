"""An executor without processes and leases without files, for tests; as unkind as the real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from assay.adapters.executors.probe_executor import Heard, gpus_for
from assay.adapters.executors.probe_suite import ProbeSuites
from assay.errors import GpuMissing, Interrupted, UsageError
from assay.evidence import suite as probes
from assay.evidence.suite import Declaration, HarnessResult, ProbeEnded, ProbeFacts
from assay.foundation.digest import sha256_of
from assay.foundation.nearest import suggestion
from assay.foundation.outcome import Outcome
from assay.ports.executor import JobListener, Stop
from assay.ports.jobs import JobResult, LogReference, Place, ProbeJob, RunEnd

__all__ = ["FakeEnd", "FakeExecutor", "FakeLeases"]

FakeEnd = Outcome | Literal["crashes", "hangs", "dies"]
"""How a probe ends: with an outcome, by a signal, not at all, or with the whole run killed."""

DEVICE: Final[dict[str, Any]] = {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 1, "uuid": "GPU-1"}


class FakeExecutor:
    """Answers as the harness would; see `assay.ports.executor.Executor`.

    Args:
        suites: the suites it knows.
        places: reference -> digest of what can be probed.
        gpus: how many there are.
        ends: feature -> how its probe ends; the rest works.
    """

    name = "fake"

    def __init__(
        self,
        suites: ProbeSuites,
        *,
        places: Mapping[str, str],
        gpus: int = 0,
        ends: Mapping[str, FakeEnd] | None = None,
    ) -> None:
        self._suites = suites
        self._places = dict(places)
        self._gpus = tuple(str(index) for index in range(gpus))
        self.ends = dict(ends or {})
        self.image_labels: dict[str, Mapping[str, str]] = {}
        """Reference -> labels."""
        self.jobs: list[ProbeJob] = []
        """All that were run, in order."""
        self.left: list[str] = []
        """What a dead run left here."""

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs."""
        if not self._gpus:
            raise GpuMissing("no GPU can be given: this executor is a fake without one")
        return self._gpus

    def place(self, reference: str) -> Place:
        """Find what is to be probed."""
        if reference not in self._places:
            raise UsageError(f"there is no image {reference!r} here{suggestion(reference, self._places)}")
        return Place(reference=reference, digest=self._places[reference])

    def labels(self, reference: str) -> Mapping[str, str]:
        """Return the labels of an image; none if it is not there, or this is not an image."""
        return self.image_labels.get(reference, {})

    def sweep(self) -> Sequence[str]:
        """Remove what dead runs left here."""
        left, self.left = self.left, []
        return left

    def run(self, job: ProbeJob, *, listener: JobListener | None = None, stop: Stop | None = None) -> JobResult:
        """Run a job to its end; see the port."""
        began = time.monotonic()
        heard = Heard(listener or JobListener())
        chosen = probes.declared(self._suites.files(job.suite), job.features)
        gpus = gpus_for(job, self.gpus)
        self.jobs.append(job)
        done: dict[str, ProbeEnded] = {}
        log = b""
        ended: RunEnd = "finished"
        stop = stop or Stop()
        for item in chosen:
            found = self.probe(item, done, stop, began + job.limits.seconds)
            if not isinstance(found, ProbeEnded):
                ended = found
                break
            done[item.feature] = found
            line = f"probe: {item.feature}: {found.signal or found.exit_code}".encode()
            log += line + b"\n"
            heard.said([line], self._document(job, gpus, done, finished=False).model_dump_json().encode())
        harness = self._document(job, gpus, done, finished=ended == "finished")
        if log:
            heard.listener.log(log)
        if heard.error is not None:
            raise heard.error
        return JobResult(
            job=job.digest,
            executor=self.name,
            ended=ended,
            message="" if ended == "finished" else f"it was {ended}",
            harness=harness,
            log=LogReference(digest=sha256_of(log), bytes=len(log)) if log else None,
            seconds=time.monotonic() - began,
        )

    def probe(
        self, item: Declaration, done: Mapping[str, ProbeEnded], stop: Stop, deadline: float
    ) -> ProbeEnded | Literal["killed", "stopped", "timed_out"]:
        """Run one probe; a word instead is how the whole run ended."""
        if stop.is_set():
            return "stopped"
        missing = [name for name in item.requires if not _works(done.get(name))]
        if missing:
            return ProbeEnded(feature=item.feature, file=item.file, not_run=f"prerequisite {missing[0]} does not work")
        end = self.ends.get(item.feature, Outcome.WORKS)
        if end == "dies":
            return "killed"
        if end == "crashes":
            return ProbeEnded(feature=item.feature, file=item.file, signal="SIGABRT", stderr="said on stderr")
        if end == "hangs":
            left = deadline - time.monotonic()
            if stop.wait(min(item.timeout, max(left, 0))):
                return "stopped"
            if left < item.timeout:
                return "timed_out"
            return ProbeEnded(feature=item.feature, file=item.file, timed_out=True, signal="SIGKILL")
        document: dict[str, Any] = {
            "outcome": end.value,
            "reason": "the fake says so",
            "metrics": {},
            "notes": [],
            "seconds": 0.1,
        }
        return ProbeEnded(feature=item.feature, file=item.file, exit_code=0, document=document, stderr="said on stderr")

    def _document(
        self, job: ProbeJob, gpus: tuple[str, ...], done: Mapping[str, ProbeEnded], *, finished: bool
    ) -> HarnessResult:
        devices = tuple(DEVICE for _ in gpus)
        return HarnessResult(
            schema_version=1,
            suite_digest=job.suite,
            python="3.12.1",
            executable="/usr/bin/python3",
            facts=ProbeFacts(devices=devices, driver="580.1", cuda="13.0", packages={"torch": "2.11.0"}),
            probes=dict(done),
            finished=finished,
        )


def _works(ended: ProbeEnded | None) -> bool:
    document = ended.document if ended is not None else None
    return document is not None and document.get("outcome") in {Outcome.WORKS, Outcome.DEGRADED}


class FakeLeases:
    """Leases within this process; see `assay.ports.executor.Leases`."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def take(
        self, gpus: tuple[str, ...], count: int, *, wait_seconds: float, stop: threading.Event | None = None
    ) -> Iterator[tuple[str, ...]]:
        """Hold `count` of the GPUs; see the port."""
        if count > len(gpus):
            raise GpuMissing(f"{count} GPUs are needed, {len(gpus)} can be given")
        deadline = time.monotonic() + wait_seconds
        while True:
            with self._lock:
                free = [name for name in gpus if name not in self._held][:count]
                if len(free) == count:
                    self._held.update(free)
                    break
            if time.monotonic() > deadline:
                raise GpuMissing(f"no {count} of {len(gpus)} GPUs became free within {wait_seconds:g} s")
            if (stop or threading.Event()).wait(0.02):
                raise Interrupted("stopped while waiting for a GPU")
        try:
            yield tuple(free)
        finally:
            with self._lock:
                self._held.difference_update(free)
