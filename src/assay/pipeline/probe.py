"""Probe places: find out what is known, run the rest, judge it, keep a record. Ports only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import ValidationError

from assay import __version__
from assay.errors import EngineError, EngineMissing, GpuMissing, StoreError
from assay.evidence import record
from assay.evidence import suite as probes
from assay.evidence.record import FeatureResult, ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.foreign import read_json
from assay.foundation.outcome import Outcome
from assay.pipeline import unfinished
from assay.ports.executor import Executor, JobLimits, Leases, Place, ProbeRequest, Ran
from assay.ports.store import RunFolder, Store

__all__ = ["ProbeFlow", "ProbeOptions", "ProbeSubject", "exit_code"]

Diagnose = Callable[[str], str | None]
"""Text of a log -> an entry of knowledge/failures/."""


@dataclass(frozen=True, kw_only=True)
class ProbeSubject:
    """What is to be probed, and what stands behind it."""

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


@dataclass(kw_only=True)
class _Work:
    """The probes of one subject, and what has come of them so far."""

    subject: ProbeSubject
    todo: Sequence[Declaration]
    old: Mapping[str, FeatureResult]
    wanted: set[str]
    folder: RunFolder
    latest: HarnessResult
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
        self._suite = suite
        self._digest = suite_digest
        self._diagnose = diagnose
        self._say = say
        self._stop = threading.Event()
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
        with self._store.new_run() as folder, ThreadPoolExecutor(at_once, thread_name_prefix="probe") as pool:
            try:
                futures = [pool.submit(self._subject, subject, chosen, gpus, folder, options) for subject in subjects]
                return [future.result() for future in futures]
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

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

    def _subject(
        self,
        subject: ProbeSubject,
        chosen: Sequence[Declaration],
        gpus: tuple[str, ...],
        folder: RunFolder,
        options: ProbeOptions,
    ) -> ProbeRecord:
        count = options.gpus if gpus else 0
        with self._leases.take(gpus, count, wait_seconds=options.wait_seconds, stop=self._stop) as held:
            if held:
                # Who had the GPU before may have been killed while this run waited for it.
                with self._sweeping:
                    self._after_the_dead()
            before: list[ProbeRecord] = []
            if not options.force and not options.sabotage:
                before = self._recorded(subject, held, folder, options)
            old = probes.known(before)
            todo = [item for item in chosen if item.feature not in old]
            if not todo:
                self._say(f"{subject.cell}: all {len(chosen)} features are recorded already (--force probes again)")
                return before[-1].model_copy(update={"features": {**before[-1].features, **old}})
            # What the rest rests on runs again: a prerequisite must be seen to work in the same run.
            todo = probes.order(self._known, [item.feature for item in todo])
            if len(todo) < len(chosen):
                self._say(f"{subject.cell}: {len(chosen) - len(todo)} of {len(chosen)} features are recorded already")
            work = _Work(
                subject=subject,
                todo=todo,
                old=old,
                wanted={item.feature for item in chosen},
                folder=folder,
                latest=_EMPTY,
            )
            keep = None if options.sabotage else lambda document: self._draft(work, document)
            ran = self._execute(subject, todo, held, folder, options, keep=keep)
        return self._keep(work, ran, options)

    def _recorded(
        self, subject: ProbeSubject, gpus: tuple[str, ...], folder: RunFolder, options: ProbeOptions
    ) -> list[ProbeRecord]:
        """Return what was recorded in the very place that is to be probed, oldest first."""
        mine = probes.of_image(
            self._store.records(kind="probe"), image_digest=subject.place.digest, suite_digest=self._digest
        )
        if not mine:
            return []
        # Only the place itself can tell which GPU and driver it would get: a run of no probes reads that.
        ran = self._execute(subject, (), gpus, folder, options)
        facts = _parse(ran.result)[0].facts
        there = probes.devices(facts)
        # A GPU that was given and is not seen inside may be back by now: nothing is known of such a place.
        if facts is None or (gpus and not there):
            return []
        return probes.on_device(mine, there[0] if there else None)

    def _execute(
        self,
        subject: ProbeSubject,
        todo: Sequence[Declaration],
        gpus: tuple[str, ...],
        folder: RunFolder,
        options: ProbeOptions,
        *,
        keep: Callable[[bytes], None] | None = None,
    ) -> Ran:
        job = probes.job(todo, work="", warm=options.warm, sabotage=options.sabotage, seed=options.seed)
        request = ProbeRequest(
            place=subject.place,
            run=folder.name,
            job=job,
            suite=self._suite,
            gpus=gpus,
            limits=options.limits,
            keep_cache=options.keep_cache,
            progress=(lambda line: self._say(f"{subject.cell}: {line}")) if todo else None,
            keep=keep,
            stop=self._stop,
        )
        return self._executor.run(request)

    def _draft(self, work: _Work, document: bytes) -> None:
        """Keep what has been measured so far, should this process not live to record it."""
        with work.lock:
            if not work.drafting:
                return
            if not _parse(document)[0].probes.keys() - work.ended.keys():
                return
            seconds = time.monotonic() - work.began
            ran = Ran(result=document, ended="killed", message="assay was killed", seconds=seconds)
            try:
                work.folder.draft(self._record(work, ran)[0])
            except StoreError as error:
                work.drafting = False
                self._say(f"{work.subject.cell}: what is measured is kept at the end only: {error.message}")

    def _keep(self, work: _Work, ran: Ran, options: ProbeOptions) -> ProbeRecord:
        """Record what came of a run."""
        with work.lock:
            work.drafting = False
        made, problem = self._record(work, ran)
        cell = work.subject.cell
        if ran.ended == "stopped":
            done = sum(made.features[item.feature].outcome is not Outcome.NOT_RUN for item in work.todo)
            self._say(f"{cell}: stopped; {done} of {len(work.todo)} probes had ended")
        if options.sabotage:
            self._say(f"{cell}: sabotaged, so nothing is recorded")
        elif work.latest.facts is None and not work.latest.probes:
            self._say(f"{cell}: nothing could be measured, so nothing is recorded: {problem}")
        else:
            self._store.append(made)
        return made

    def _record(self, work: _Work, ran: Ran) -> tuple[ProbeRecord, str]:
        """Return the record of a run as it stands, and what went wrong with it."""
        read, problem = _parse(ran.result)
        if not problem:
            work.latest = read
        # Of an engine that was lost, what it gave out before is all there is.
        result = work.latest
        problem = ran.message or problem
        if broke_off := "" if result.finished else f"the run broke off: {problem or ran.ended}":
            problem = broke_off
        subject, folder = work.subject, work.folder
        features = probes.judge_all(result, work.todo, broke_off=broke_off)
        self._logs(work, ran)
        for name in result.probes.keys() & features.keys() - work.ended.keys():
            work.ended[name] = self._explained(work, name, features[name])
        features |= work.ended
        merged = {**{name: item for name, item in work.old.items() if name in work.wanted}, **features}
        made = ProbeRecord(
            created=record.now(),
            run=folder.name,
            cell=subject.cell,
            image=subject.image,
            image_digest=subject.place.digest,
            lock_digest=subject.lock_digest,
            content_key=subject.content_key,
            assay_version=__version__,
            suite_digest=result.suite_digest or self._digest,
            executor=self._executor.name,
            devices=probes.devices(result.facts),
            packages=dict(result.facts.packages) if result.facts else {},
            features=merged,
            notes=_notes(result, ran, problem, work.old, features, seconds=ran.seconds),
        )
        return made, problem

    def _explained(self, work: _Work, name: str, judged: FeatureResult) -> FeatureResult:
        """Add to a verdict what the probe's output says of the cause, and where that output is."""
        ended = work.latest.probes[name]
        cause = self._diagnose(f"{judged.reason}\n{ended.stderr}") if judged.outcome in _CAUSED else None
        log = None if ended.not_run else f"{work.folder.name}/{work.subject.cell}/probes/{name}.log"
        return judged.model_copy(update={"cause": cause, "log": log})

    def _logs(self, work: _Work, ran: Ran) -> None:
        """Write what is new of each probe's output, and the result document, into the run's folder."""
        folder = f"{work.subject.cell}/probes"
        for name, ended in work.latest.probes.items():
            if ended.not_run or name in work.ended:
                continue
            text = f"$ {ended.file}\n--- stdout ({ended.stdout_bytes} bytes)\n{ended.stdout}\n"
            text += f"--- stderr ({ended.stderr_bytes} bytes)\n{ended.stderr}\n"
            work.folder.write(f"{folder}/{name}.log", text.encode())
        if ran.log:
            work.folder.write(f"{folder}/harness.log", ran.log)
        if ran.result is not None:
            work.folder.write(f"{folder}/result.json", ran.result)


_CAUSED = {Outcome.BROKEN, Outcome.WRONG, Outcome.INCONCLUSIVE}
_EMPTY = HarnessResult(schema_version=1, suite_digest="", python="", executable="")


def _parse(document: bytes | None) -> tuple[HarnessResult, str]:
    """Return the result document, an empty one if there is none, and what is wrong with it."""
    if document is None:
        return _EMPTY, "there is no result document"
    try:
        return HarnessResult.model_validate(read_json(document, constants=True)), ""
    except (ValueError, ValidationError) as error:
        return _EMPTY, f"the result document cannot be read: {str(error).splitlines()[0]}"


def _notes(
    result: HarnessResult,
    ran: Ran,
    problem: str,
    old: Mapping[str, FeatureResult],
    new: Mapping[str, FeatureResult],
    *,
    seconds: float,
) -> tuple[str, ...]:
    own = sum(item.seconds for item in result.probes.values())
    notes = [
        f"{len(new)} probes in {seconds:.1f} s, of which {own:.1f} s were the probes' own",
        f"Python {result.python} at {result.executable}",
    ]
    if result.facts is not None:
        notes.append(f"{result.facts.libc}, kernel {result.facts.kernel}")
        if not result.facts.devices:
            notes.append("no GPU inside: " + result.facts.no_devices)
    if result.warm is not None:
        told = "forked from a process with torch imported" if result.warm.get("ok") else str(result.warm.get("reason"))
        notes.append(f"warm start: {told}")
    if kept := sorted(set(old) - set(new)):
        notes.append("kept from earlier records of the same image, suite, GPU and driver: " + ", ".join(kept))
    if problem:
        notes.append(problem)
    if ran.ended != "finished":
        notes.append(f"ended: {ran.ended}")
    return tuple(notes)


def exit_code(records: Iterable[ProbeRecord]) -> int:
    """Return 0 if nothing is wrong, broken or left open, else 1: `unsupported` and `not_run` are answers."""
    bad = {Outcome.WRONG, Outcome.BROKEN, Outcome.INCONCLUSIVE}
    results = [item for made in records for item in made.features.values()]
    return int(any(item.outcome in bad or item.reason.startswith("the run broke off") for item in results))
