"""Probe images: find existing records, run the rest, judge it, write a record. Ports only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from assay.errors import EngineError, EngineMissing, GpuMissing, StoreError
from assay.evidence import suite as probes
from assay.evidence.record import ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.outcome import Outcome
from assay.pipeline import unfinished
from assay.pipeline.pool import JobControl, JobPool
from assay.pipeline.probe_record import Diagnose, ProbeRecording, ProbeSubject
from assay.ports.executor import Executor, JobListener, Leases
from assay.ports.jobs import DevicesWanted, JobLimits, JobResult, ProbeJob
from assay.ports.store import RunFolder, Store

__all__ = ["ProbeFlow", "ProbeOptions", "ProbeSubject", "exit_code"]


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How to probe."""

    features: tuple[str, ...] = ()
    """None: all."""
    force: bool = False
    """Probe also what is recorded already."""
    gpus: int = 1
    """GPUs given to one run."""
    wait_seconds: float = 600.0
    """How long to wait for a GPU that another run holds."""
    limits: JobLimits = field(default_factory=JobLimits)
    warm: bool = True
    keep_cache: bool = True
    sabotage: Mapping[str, str] = field(default_factory=dict)
    """Feature -> kind of damage; results of a sabotaged run are shown and never recorded."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _ProbeRun:
    """What all subjects of a run share."""

    chosen: Sequence[Declaration]
    gpus: tuple[str, ...]
    folder: RunFolder
    options: ProbeOptions


@dataclass(kw_only=True)
class _Work:
    """The probes of one subject, and what has come of them so far."""

    run: _ProbeRun
    subject: ProbeSubject
    job: ProbeJob
    todo: Sequence[Declaration]
    judged: ProbeRecording
    began: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    drafting: bool = True
    """Drafts are still wanted."""


class ProbeFlow:
    """Probes subjects, several at once when there are several GPUs."""

    def __init__(
        self,
        *,
        executor: Executor,
        leases: Leases,
        store: Store,
        suite: Mapping[str, bytes],
        suite_digest: str,
        diagnose: Diagnose = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._executor = executor
        self._leases = leases
        self.store = store
        self._digest = suite_digest
        self._diagnose = diagnose
        self._say = say
        self._sweeping = threading.Lock()
        self._known = probes.declarations(
            {path: data.decode() for path, data in suite.items() if path.startswith("features/")}
        )

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """All probes by feature."""
        return self._known

    def run(self, subjects: Sequence[ProbeSubject], options: ProbeOptions) -> list[ProbeRecord]:
        """Probe all subjects; records in the order of the subjects. What was recorded already is joined to the rest.

        Ctrl-C ends what runs, records what it had measured, and comes out as KeyboardInterrupt. When this process is
        killed, the next one records what was measured and removes what is left of it.

        Raises:
            GpuMissing: probes that need a GPU were asked for and none can be given.
            EngineMissing: there is no engine.
        """
        chosen = probes.order(self._known, options.features)
        self._after_the_dead()
        gpus = self._gpus(chosen, options)
        at_once = max(1, len(gpus) // max(1, options.gpus)) if gpus else 1
        with self.store.new_run() as folder:

            def work(subject: ProbeSubject, control: JobControl) -> ProbeRecord:
                return self._subject(
                    _ProbeRun(chosen=chosen, gpus=gpus, folder=folder, options=options), subject, control
                )

            return JobPool(work, at_once=at_once, name=lambda subject: subject.cell).run_in_order(subjects)

    def _after_the_dead(self) -> None:
        """Record what runs that were killed had measured, and remove what of them is still there."""
        unfinished.adopt(self.store, self._say)
        try:
            removed = self._executor.sweep()
        except EngineMissing:
            raise
        except EngineError as error:
            self._say(f"the leftovers of a killed run could not be removed: {error.message}")
        else:
            if removed:
                self._say(f"removed leftovers of a killed run: {', '.join(removed)}")

    def _gpus(self, chosen: Sequence[Declaration], options: ProbeOptions) -> tuple[str, ...]:
        if options.gpus == 0 or all(item.gpus == 0 for item in chosen):
            return ()
        gpus = self._executor.gpus()
        if len(gpus) < options.gpus:
            raise GpuMissing(f"{options.gpus} GPUs are requested, but {len(gpus)} can be given")
        return gpus

    def _subject(self, run: _ProbeRun, subject: ProbeSubject, control: JobControl) -> ProbeRecord:
        chosen, options = run.chosen, run.options
        count = options.gpus if run.gpus else 0
        with self._leases.take(run.gpus, count, wait_seconds=options.wait_seconds, stop=control.stop) as held:
            if held:
                # Who had the GPU before may have been killed while this run waited for it.
                with self._sweeping:
                    self._after_the_dead()
            before: list[ProbeRecord] = []
            if not options.force and not options.sabotage:
                before = self._recorded(self._job(run, subject, (), held), control)
            old = probes.known(before)
            todo = [item for item in chosen if item.feature not in old]
            if not todo:
                self._say(f"{subject.cell}: all {len(chosen)} features are recorded already (--force probes again)")
                return before[-1].model_copy(update={"features": {**before[-1].features, **old}})
            # What the rest rests on runs again: a prerequisite must be seen to work in the same run.
            todo = probes.order(self._known, [item.feature for item in todo])
            if len(todo) < len(chosen):
                self._say(f"{subject.cell}: {len(chosen) - len(todo)} of {len(chosen)} features are recorded already")
            job = self._job(run, subject, [item.feature for item in todo], held)
            recording = ProbeRecording(
                subject=subject,
                run=run.folder,
                suite_digest=self._digest,
                wanted=frozenset(item.feature for item in chosen),
                todo=todo,
                old=old,
                diagnose=self._diagnose,
            )
            work = _Work(subject=subject, job=job, todo=todo, judged=recording, run=run)
            result = self._execute(work, control)
        return self._keep(work, result)

    def _job(self, run: _ProbeRun, subject: ProbeSubject, features: Sequence[str], gpus: tuple[str, ...]) -> ProbeJob:
        options = run.options
        return ProbeJob(
            run=run.folder.name,
            place=subject.place,
            suite=self._digest,
            features=tuple(features),
            devices=DevicesWanted(count=len(gpus), names=gpus),
            limits=options.limits,
            warm=options.warm,
            keep_cache=options.keep_cache,
            sabotage=dict(options.sabotage),
            seed=options.seed,
        )

    def _recorded(self, nothing: ProbeJob, control: JobControl) -> list[ProbeRecord]:
        """Return what was recorded in the very place that is to be probed, oldest first.

        Only the place itself can tell which GPU and driver it would get: a job that probes nothing reads that.
        """
        mine = probes.of_image(
            self.store.records(kind="probe"), image_digest=nothing.place.digest, suite_digest=self._digest
        )
        if not mine:
            return []
        harness = self._executor.run(nothing, stop=control.stop).harness
        facts = harness.facts if harness else None
        there = probes.devices(facts)
        # A GPU that was given and is not seen inside may be back by now: nothing is known of such a place.
        if facts is None or (nothing.devices.names and not there):
            return []
        return probes.on_device(mine, there[0] if there else None)

    def _execute(self, work: _Work, control: JobControl) -> JobResult:
        cell, folder = work.subject.cell, work.run.folder

        def keep_log(data: bytes) -> None:
            folder.write(f"{cell}/probes/harness.log", data)

        def draft(harness: HarnessResult) -> None:
            if not work.run.options.sabotage:
                self._draft(work, harness)

        listener = JobListener(line=lambda line: self._say(f"{cell}: {line}"), measured=draft, log=keep_log)
        return self._executor.run(work.job, listener=listener, stop=control.stop)

    def _draft(self, work: _Work, harness: HarnessResult) -> None:
        """Keep what has been measured so far, should this process not live to record it."""
        with work.lock:
            if not work.drafting or not harness.probes.keys() - work.judged.ended.keys():
                return
            result = JobResult(
                job=work.job.digest,
                executor=self._executor.name,
                ended="killed",
                message="assay was killed",
                harness=harness,
                seconds=time.monotonic() - work.began,
            )
            try:
                work.run.folder.draft(work.judged.record(result)[0])
            except StoreError as error:
                work.drafting = False
                self._say(f"{work.subject.cell}: results are saved only at the end: {error.message}")

    def _keep(self, work: _Work, result: JobResult) -> ProbeRecord:
        """Record what came of a run."""
        with work.lock:
            work.drafting = False
        made, problem = work.judged.record(result)
        cell = work.subject.cell
        if result.ended == "stopped":
            done = sum(made.features[item.feature].outcome is not Outcome.NOT_RUN for item in work.todo)
            self._say(f"{cell}: stopped; {done} of {len(work.todo)} probes had ended")
        if work.run.options.sabotage:
            self._say(f"{cell}: sabotaged, so nothing is recorded")
        elif not work.judged.measured:
            self._say(f"{cell}: nothing could be measured, so nothing is recorded: {problem}")
        else:
            self.store.append(made)
        return made


def exit_code(records: Iterable[ProbeRecord]) -> int:
    """Return 0 if nothing is wrong, broken or left open, else 1: `unsupported` and `not_run` are answers."""
    bad = {Outcome.WRONG, Outcome.BROKEN, Outcome.INCONCLUSIVE}
    results = [item for made in records for item in made.features.values()]
    return int(any(item.outcome in bad or item.reason.startswith("the run broke off") for item in results))
