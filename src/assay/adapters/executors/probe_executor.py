"""Run jobs of probes on a task host: copy the harness in, read its documents back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from assay.adapters.executors.probe_suite import ProbeSuites
from assay.errors import EngineError, EngineMissing, GpuMissing
from assay.evidence import suite as probes
from assay.foundation.digest import sha256_of
from assay.ports.engine import Exit
from assay.ports.executor import JobListener, Stop
from assay.ports.jobs import JobResult, LogReference, Place, ProbeJob, RunEnd
from assay.ports.task import Task, TaskHost, TaskSpec

__all__ = ["ExecutorSettings", "Heard", "ProbeExecutor", "gpus_for"]

_LOG_BYTES: Final = 1 << 20
_GRACE_SECONDS: Final = 5.0
"""How long the harness may take to end the probe that runs and itself; then it is killed."""
_NO_PROGRAM: Final = (126, 127)


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """Settings of an executor."""

    suites: ProbeSuites
    """The probe programs that are known here."""
    cache: Path | None = None
    """A folder of this machine for what is compiled at run time."""
    python: str | None = None
    """The interpreter that is probed where there is no image."""


class ProbeExecutor:
    """Implements `assay.ports.executor.Executor` on whatever things run on.

    Args:
        host: where things run.
        suites: the probe programs that are known here.
    """

    def __init__(self, host: TaskHost, suites: ProbeSuites) -> None:
        self._host = host
        self._suites = suites
        self.name = host.name

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs that can be given."""
        return self._host.gpus()

    def place(self, reference: str) -> Place:
        """Find what is to be probed."""
        return self._host.place(reference)

    def labels(self, reference: str) -> Mapping[str, str]:
        """Return the labels of an image; none if it is not there, or this is not an image."""
        return self._host.labels(reference)

    def sweep(self) -> Sequence[str]:
        """Remove what dead runs left here."""
        return self._host.sweep()

    def run(self, job: ProbeJob, *, listener: JobListener | None = None, stop: Stop | None = None) -> JobResult:
        """Run a job to its end; see the port."""
        began = time.monotonic()
        run = _HarnessRun(
            host=self._host,
            job=job,
            files=self._files(job),
            gpus=gpus_for(job, self._host.gpus),
            heard=Heard(listener or JobListener()),
            stop=stop or Stop(),
        )
        result = next((found for python in self._host.pythons if (found := run.attempt(python)) is not None), None)
        if result is None:
            tried = ", ".join(self._host.pythons)
            message = f"no Python starts (tried {tried}); it cannot be probed"
            result = run.result("no_python", message)
        result = result.model_copy(update={"seconds": time.monotonic() - began})
        if run.heard.error is not None:
            raise run.heard.error
        return result

    def _files(self, job: ProbeJob) -> Mapping[str, bytes | Path]:
        return {f"probes/{path}": data for path, data in self._suites.files(job.suite).items()}


def gpus_for(job: ProbeJob, there: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the GPUs that a job gets: those leased for it, or any of those that are there.

    Raises:
        GpuMissing: there are not so many.
    """
    wanted = job.devices
    if wanted.names or not wanted.count:
        return wanted.names
    names = there()
    if len(names) < wanted.count:
        raise GpuMissing(f"{wanted.count} GPUs are requested, but {len(names)} can be given")
    return names[: wanted.count]


@dataclass(kw_only=True)
class Heard:
    """The output of the harness so far, passed to a listener until the listener fails."""

    listener: JobListener = field(kw_only=False)
    latest: bytes | None = None
    error: Exception | None = None

    def said(self, lines: Sequence[bytes], document: bytes | None) -> None:
        """Take lines of the harness and its current document."""
        self.latest = document or self.latest
        if self.error is not None:
            return
        try:
            for line in lines:
                self.listener.line(line.decode(errors="replace"))
            # The harness writes a line when it has written down how a probe ended.
            if document is not None and (found := probes.read_result(document)[0]) is not None:
                self.listener.measured(found)
        except Exception as error:  # noqa: BLE001 - raised when the run has ended: it loses nothing by it
            self.error = error


@dataclass(frozen=True, kw_only=True)
class _HarnessRun:
    host: TaskHost
    job: ProbeJob
    files: Mapping[str, bytes | Path]
    gpus: tuple[str, ...]
    heard: Heard
    stop: Stop

    def attempt(self, python: str) -> JobResult | None:
        """Run with one interpreter; None if it is not there."""
        started = False
        try:
            with self.host.task(self._spec(python)) as task:
                task.put({**self.files, "job.json": self._harness_job(task)})
                task.start()
                started = True
                try:
                    end = self._until_end(task)
                except EngineError as error:
                    # What was measured before may still be readable; if not, nothing more is claimed.
                    return self.result("engine_lost", error.message, _document(task))
                document = _document(task)
                if end.code in _NO_PROGRAM and end.seconds < _GRACE_SECONDS and document is None:
                    return None
                ended, message = _how(end, stopped=self.stop.is_set())
                log = task.log(limit=_LOG_BYTES)
                if document is None and ended == "failed":
                    message += ": " + log.decode(errors="replace").strip()[-500:]
                return self.result(ended, message, document, log)
        except GpuMissing:
            raise
        except EngineError as error:
            if isinstance(error, EngineMissing) and not started:
                raise
            # It died under a container that ran: what is left there is swept when the engine is back.
            return self.result("engine_lost", error.message)

    def result(self, ended: RunEnd, message: str, document: bytes | None = None, log: bytes = b"") -> JobResult:
        """Make the result of what came; of an engine that was lost, what it gave out before is all there is."""
        document = document or self.heard.latest
        found, problem = probes.read_result(document) if document is not None else (None, "")
        if document is not None and found is None:
            log += b"\n--- the result document, which cannot be read:\n" + document[: 64 << 10]
        if log:
            self.heard.listener.log(log)
        return JobResult(
            job=self.job.digest,
            executor=self.host.name,
            ended=ended,
            message=message,
            harness=found,
            unreadable=problem,
            log=LogReference(digest=sha256_of(log), bytes=len(log)) if log else None,
        )

    def _spec(self, python: str) -> TaskSpec:
        job = self.job
        return TaskSpec(
            run=job.run,
            reference=job.place.reference,
            argv=(python, "-u", "{work}/probes/harness.py", "{work}/job.json", "{work}/result.json"),
            env={"PYTHONDONTWRITEBYTECODE": "1", **job.env},
            gpus=self.gpus,
            mounts=job.mounts,
            cache=(job.place.digest or job.place.reference) if job.keep_cache else None,
            read_only=True,
            memory_bytes=job.limits.memory_bytes,
            pids=job.limits.pids,
            shm_bytes=job.limits.shm_bytes,
        )

    def _harness_job(self, task: Task) -> bytes:
        job = self.job
        programs = {path: data for path, data in self.files.items() if isinstance(data, bytes)}
        declared = probes.declared(programs, job.features, below="probes/")
        made = probes.job(
            declared, work=f"{task.work}/run", cache=task.cache, warm=job.warm, sabotage=job.sabotage, seed=job.seed
        )
        return json.dumps(made).encode()

    def _until_end(self, task: Task) -> Exit:
        over = threading.Event()
        threads = [
            threading.Thread(target=self._end_when_told, args=(task, over), daemon=True),
            threading.Thread(target=self._follow, args=(task,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            return task.wait(self.job.limits.seconds)
        finally:
            over.set()
            threads[1].join(_GRACE_SECONDS)

    def _end_when_told(self, task: Task, over: threading.Event) -> None:
        while not over.wait(0.1):
            if self.stop.is_set():
                with suppress(EngineError):
                    task.kill("SIGTERM")
                    if not over.wait(_GRACE_SECONDS):
                        task.kill()
                return

    def _follow(self, task: Task) -> None:
        rest = b""
        with suppress(EngineError):
            for data in task.follow():
                *lines, rest = (rest + data).split(b"\n")
                if lines:
                    self.heard.said(lines, _document(task))


def _document(task: Task) -> bytes | None:
    try:
        return task.read("result.json")
    except EngineError:
        return None


def _how(end: Exit, *, stopped: bool) -> tuple[RunEnd, str]:
    signal = end.signal or (end.code - 128 if end.code > 128 else None)
    if stopped and end.code != 0:
        return "stopped", "it was stopped"
    if end.timed_out:
        return "timed_out", f"the whole run took longer than its {end.seconds:.0f} s and was killed"
    if end.oom_killed and end.code != 0:
        return "out_of_memory", "the memory given to it was used up"
    if signal is not None:
        return "killed", f"it was killed from outside (signal {signal})"
    if end.code != 0:
        return "failed", f"the harness ended with code {end.code}" + (f": {end.error}" if end.error else "")
    return "finished", ""
