"""Probe images: find existing records, run the rest, judge it, write a record. Ports only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from assay import __version__
from assay.errors import EngineError, EngineMissing, GpuMissing, StoreError
from assay.evidence import record
from assay.evidence import suite as probes
from assay.evidence.record import FeatureResult, ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.outcome import Outcome
from assay.pipeline import unfinished
from assay.pipeline.pool import JobControl, JobPool
from assay.ports.executor import Executor, JobListener, Leases
from assay.ports.jobs import DevicesWanted, JobLimits, JobResult, Place, ProbeJob
from assay.ports.store import RunFolder, Store

__all__ = ["ProbeFlow", "ProbeOptions", "ProbeSubject", "exit_code"]

Diagnose = Callable[[str], str | None]
"""Text of a log -> an entry of knowledge/failures/."""

_CAUSED: Final = {Outcome.BROKEN, Outcome.WRONG, Outcome.INCONCLUSIVE}
_EMPTY: Final = HarnessResult(schema_version=1, suite_digest="", python="", executable="")


@dataclass(frozen=True, kw_only=True)
class ProbeSubject:
    """The image or environment to probe, and its cell."""

    place: Place
    cell: str
    image: str = ""
    lock_digest: str | None = None
    content_key: str | None = None


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
    old: Mapping[str, FeatureResult]
    latest: HarnessResult = _EMPTY
    """The newest result document that could be read."""
    ended: dict[str, FeatureResult] = field(default_factory=dict)
    """The probes that have ended, judged."""
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
        self._store = store
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
        with self._store.new_run() as folder:

            def work(subject: ProbeSubject, control: JobControl) -> ProbeRecord:
                return self._subject(
                    _ProbeRun(chosen=chosen, gpus=gpus, folder=folder, options=options), subject, control
                )

            return JobPool(work, at_once=at_once, name=lambda subject: subject.cell).run_in_order(subjects)

    def _after_the_dead(self) -> None:
        """Record what runs that were killed had measured, and remove what of them is still there."""
        unfinished.adopt(self._store, self._say)
        try:
            removed = self._executor.sweep()
        except EngineMissing:
            raise
        except EngineError as error:
            self._say(f"what a killed run left behind could not be removed: {error.message}")
        else:
            if removed:
                self._say(f"removed what a killed run left behind: {', '.join(removed)}")

    def _gpus(self, chosen: Sequence[Declaration], options: ProbeOptions) -> tuple[str, ...]:
        if options.gpus == 0 or all(item.gpus == 0 for item in chosen):
            return ()
        gpus = self._executor.gpus()
        if len(gpus) < options.gpus:
            raise GpuMissing(f"{options.gpus} GPUs were asked for, {len(gpus)} can be given")
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
            work = _Work(subject=subject, job=job, todo=todo, old=old, run=run)
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
            self._store.records(kind="probe"), image_digest=nothing.place.digest, suite_digest=self._digest
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
            if not work.drafting or not harness.probes.keys() - work.ended.keys():
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
                work.run.folder.draft(self._record(work, result)[0])
            except StoreError as error:
                work.drafting = False
                self._say(f"{work.subject.cell}: what is measured is kept at the end only: {error.message}")

    def _keep(self, work: _Work, result: JobResult) -> ProbeRecord:
        """Record what came of a run."""
        with work.lock:
            work.drafting = False
        made, problem = self._record(work, result)
        cell = work.subject.cell
        if result.ended == "stopped":
            done = sum(made.features[item.feature].outcome is not Outcome.NOT_RUN for item in work.todo)
            self._say(f"{cell}: stopped; {done} of {len(work.todo)} probes had ended")
        if work.run.options.sabotage:
            self._say(f"{cell}: sabotaged, so nothing is recorded")
        elif work.latest.facts is None and not work.latest.probes:
            self._say(f"{cell}: nothing could be measured, so nothing is recorded: {problem}")
        else:
            self._store.append(made)
        return made

    def _record(self, work: _Work, result: JobResult) -> tuple[ProbeRecord, str]:
        """Return the record of a run as it stands, and what went wrong with it."""
        if result.harness is not None:
            work.latest = result.harness
        # Of an engine that was lost, what it gave out before is all there is.
        harness = work.latest
        problem = result.message or result.unreadable or ("" if result.harness else "there is no result document")
        if broke_off := "" if harness.finished else f"the run broke off: {problem or result.ended}":
            problem = broke_off
        subject = work.subject
        features = probes.judge_all(harness, work.todo, broke_off=broke_off)
        self._logs(work)
        for name in harness.probes.keys() & features.keys() - work.ended.keys():
            work.ended[name] = self._explained(work, name, features[name])
        features |= work.ended
        wanted = {item.feature for item in work.run.chosen}
        merged = {**{name: item for name, item in work.old.items() if name in wanted}, **features}
        made = ProbeRecord(
            created=record.now(),
            run=work.job.run,
            cell=subject.cell,
            image=subject.image,
            image_digest=subject.place.digest,
            lock_digest=subject.lock_digest,
            content_key=subject.content_key,
            assay_version=__version__,
            suite_digest=harness.suite_digest or self._digest,
            executor=result.executor,
            devices=probes.devices(harness.facts),
            packages=dict(harness.facts.packages) if harness.facts else {},
            features=merged,
            notes=_notes(harness, result, problem, work.old, features),
        )
        return made, problem

    def _explained(self, work: _Work, name: str, judged: FeatureResult) -> FeatureResult:
        """Add to a verdict what the probe's output says of the cause, and where that output is."""
        ended = work.latest.probes[name]
        cause = self._diagnose(f"{judged.reason}\n{ended.stderr}") if judged.outcome in _CAUSED else None
        log = None if ended.not_run else f"{work.job.run}/{work.subject.cell}/probes/{name}.log"
        return judged.model_copy(update={"cause": cause, "log": log})

    def _logs(self, work: _Work) -> None:
        """Write what is new of each probe's output, and the harness's document, into the run's folder."""
        folder = f"{work.subject.cell}/probes"
        for name, ended in work.latest.probes.items():
            if ended.not_run or name in work.ended:
                continue
            text = f"$ {ended.file}\n--- stdout ({ended.stdout_bytes} bytes)\n{ended.stdout}\n"
            text += f"--- stderr ({ended.stderr_bytes} bytes)\n{ended.stderr}\n"
            work.run.folder.write(f"{folder}/{name}.log", text.encode())
        if work.latest is not _EMPTY:
            work.run.folder.write(f"{folder}/result.json", work.latest.model_dump_json(indent=1).encode())


def _notes(
    harness: HarnessResult,
    result: JobResult,
    problem: str,
    old: Mapping[str, FeatureResult],
    new: Mapping[str, FeatureResult],
) -> tuple[str, ...]:
    own = sum(item.seconds for item in harness.probes.values())
    notes = [
        f"{len(new)} probes in {result.seconds:.1f} s, of which {own:.1f} s were the probes' own",
        f"Python {harness.python} at {harness.executable}",
    ]
    if harness.facts is not None:
        notes.append(f"{harness.facts.libc}, kernel {harness.facts.kernel}")
        if not harness.facts.devices:
            notes.append("no GPU inside: " + harness.facts.no_devices)
    if harness.warm is not None:
        told = (
            "forked from a process with torch imported" if harness.warm.get("ok") else str(harness.warm.get("reason"))
        )
        notes.append(f"warm start: {told}")
    if kept := sorted(set(old) - set(new)):
        notes.append("kept from earlier records of the same image, suite, GPU and driver: " + ", ".join(kept))
    if problem:
        notes.append(problem)
    if result.ended != "finished":
        notes.append(f"ended: {result.ended}")
    return tuple(notes)


def exit_code(records: Iterable[ProbeRecord]) -> int:
    """Return 0 if nothing is wrong, broken or left open, else 1: `unsupported` and `not_run` are answers."""
    bad = {Outcome.WRONG, Outcome.BROKEN, Outcome.INCONCLUSIVE}
    results = [item for made in records for item in made.features.values()]
    return int(any(item.outcome in bad or item.reason.startswith("the run broke off") for item in results))
