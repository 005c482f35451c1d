"""Probe places: find out what is known, run the rest, judge it, keep a record. Ports only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import ValidationError

from assay import __version__, probes, record
from assay.errors import GpuMissing, StoreError
from assay.model.outcome import Outcome
from assay.ports.executor import Executor, Leases, Limits, Place, Ran, Request
from assay.ports.store import RunFolder, Store
from assay.probes import Declaration, HarnessResult
from assay.record import FeatureResult, ProbeRecord

__all__ = ["Options", "ProbeFlow", "Subject", "exit_code"]

Diagnose = Callable[[str], str | None]
"""Text of a log -> an entry of knowledge/failures.yaml."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be probed, and what stands behind it."""

    place: Place
    cell: str
    image: str = ""
    lock_digest: str | None = None
    content_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to probe."""

    features: tuple[str, ...] = ()
    """None: all."""
    force: bool = False
    """Probe also what is recorded already."""
    gpus: int = 1
    """GPUs given to one run."""
    wait_seconds: float = 600.0
    """How long to wait for a GPU that another run holds."""
    limits: Limits = field(default_factory=Limits)
    warm: bool = True
    keep_cache: bool = True
    sabotage: Mapping[str, str] = field(default_factory=dict)
    """Feature -> kind of damage; results of a sabotaged run are shown and never recorded."""
    seed: int = 0


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
        self._known = probes.declarations(
            {path: data.decode() for path, data in suite.items() if path.startswith("features/")}
        )

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """All probes by feature."""
        return self._known

    def run(self, subjects: Sequence[Subject], options: Options) -> list[ProbeRecord]:
        """Probe all subjects; records in the order of the subjects. What was recorded already is joined to the rest.

        Ctrl-C ends what runs, records what it had measured, and comes out as KeyboardInterrupt.

        Raises:
            GpuMissing: probes that need a GPU were asked for and none can be given.
            EngineMissing: there is no engine.
        """
        chosen = probes.order(self._known, options.features)
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

    def _gpus(self, chosen: Sequence[Declaration], options: Options) -> tuple[str, ...]:
        if options.gpus == 0 or all(item.gpus == 0 for item in chosen):
            return ()
        gpus = self._executor.gpus()
        if len(gpus) < options.gpus:
            raise GpuMissing(f"{options.gpus} GPUs were asked for, {len(gpus)} can be given")
        return gpus

    def _subject(
        self,
        subject: Subject,
        chosen: Sequence[Declaration],
        gpus: tuple[str, ...],
        folder: RunFolder,
        options: Options,
    ) -> ProbeRecord:
        count = options.gpus if gpus else 0
        with self._leases.take(gpus, count, wait_seconds=options.wait_seconds, stop=self._stop) as held:
            old: dict[str, FeatureResult] = {}
            if not options.force and not options.sabotage:
                old = self._recorded(subject, held, folder, options)
            todo = [item for item in chosen if item.feature not in old]
            if not todo:
                self._say(f"{subject.cell}: all {len(chosen)} features are recorded already (--force probes again)")
                return self._newest(subject)
            # What the rest rests on runs again: a prerequisite must be seen to work in the same run.
            todo = probes.order(self._known, [item.feature for item in todo])
            ran = self._execute(subject, todo, held, folder, options)
        return self._keep(
            subject=subject,
            todo=todo,
            ran=ran,
            old=old,
            wanted={item.feature for item in chosen},
            folder=folder,
            options=options,
        )

    def _recorded(
        self, subject: Subject, gpus: tuple[str, ...], folder: RunFolder, options: Options
    ) -> dict[str, FeatureResult]:
        mine = [
            item
            for item in self._store.records(kind="probe")
            if isinstance(item, ProbeRecord) and item.image_digest == subject.place.digest
        ]
        if not any(item.suite_digest == self._digest for item in mine):
            return {}
        # Only the place itself can tell which GPU and driver it would get: a run of no probes reads that.
        ran = self._execute(subject, (), gpus, folder, options)
        there = probes.devices(_parse(ran)[0].facts)
        if not there:
            return {}
        return probes.known(mine, image_digest=subject.place.digest, suite_digest=self._digest, device=there[0])

    def _newest(self, subject: Subject) -> ProbeRecord:
        found = [
            item
            for item in self._store.records(kind="probe")
            if isinstance(item, ProbeRecord)
            and item.image_digest == subject.place.digest
            and item.suite_digest == self._digest
        ]
        return max(found, key=lambda item: item.created)

    def _execute(
        self,
        subject: Subject,
        todo: Sequence[Declaration],
        gpus: tuple[str, ...],
        folder: RunFolder,
        options: Options,
    ) -> Ran:
        job = probes.job(todo, work="", warm=options.warm, sabotage=options.sabotage, seed=options.seed)
        request = Request(
            place=subject.place,
            run=folder.name,
            job=job,
            suite=self._suite,
            gpus=gpus,
            limits=options.limits,
            keep_cache=options.keep_cache,
            progress=(lambda line: self._say(f"{subject.cell}: {line}")) if todo else None,
            stop=self._stop,
        )
        return self._executor.run(request)

    def _keep(
        self,
        *,
        subject: Subject,
        todo: Sequence[Declaration],
        ran: Ran,
        old: Mapping[str, FeatureResult],
        wanted: set[str],
        folder: RunFolder,
        options: Options,
    ) -> ProbeRecord:
        result, problem = _parse(ran)
        broke_off = ""
        if not result.finished:
            broke_off = f"the run broke off: {ran.message or problem or ran.ended}"
        elif ran.message:
            problem = ran.message
        features = probes.judge_all(result, todo, broke_off=broke_off)
        logs = self._logs(subject, result, ran, folder)
        for name, value in features.items():
            text = value.reason + "\n" + (result.probes[name].stderr if name in result.probes else "")
            cause = self._diagnose(text) if value.outcome in _CAUSED else None
            features[name] = value.model_copy(update={"cause": cause, "log": logs.get(name)})
        merged = {**{name: item for name, item in old.items() if name in wanted}, **features}
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
            notes=_notes(result, ran, broke_off or problem, old, features, seconds=ran.seconds),
        )
        if ran.ended == "stopped":
            done = sum(item.outcome is not Outcome.NOT_RUN for item in features.values())
            self._say(f"{subject.cell}: stopped; {done} of {len(todo)} probes had ended")
        if options.sabotage:
            self._say(f"{subject.cell}: sabotaged, so nothing is recorded")
        elif result.facts is None and not result.probes:
            self._say(f"{subject.cell}: nothing could be measured, so nothing is recorded: {broke_off or problem}")
        else:
            self._store.append(made)
        return made

    def _logs(self, subject: Subject, result: HarnessResult, ran: Ran, folder: RunFolder) -> dict[str, str]:
        """Write each probe's output into the run's folder; return feature -> path relative to build_logs/."""
        base = folder.cell(subject.cell)
        paths: dict[str, str] = {}
        try:
            relative = base.relative_to(folder.path)
            for name, ended in result.probes.items():
                if ended.not_run:
                    continue
                text = f"$ {ended.file}\n--- stdout ({ended.stdout_bytes} bytes)\n{ended.stdout}\n"
                text += f"--- stderr ({ended.stderr_bytes} bytes)\n{ended.stderr}\n"
                folder.write(str(relative / "probes" / f"{name}.log"), text.encode())
                paths[name] = f"{folder.name}/{relative}/probes/{name}.log"
            folder.write(str(relative / "probes" / "harness.log"), ran.log)
            if ran.result is not None:
                folder.write(str(relative / "probes" / "result.json"), ran.result)
        except OSError as error:
            raise StoreError(f"the logs of {subject.cell} cannot be written: {error}") from error
        return paths


_CAUSED = {Outcome.BROKEN, Outcome.WRONG, Outcome.INCONCLUSIVE}
_EMPTY = HarnessResult(schema_version=1, suite_digest="", python="", executable="")


def _parse(ran: Ran) -> tuple[HarnessResult, str]:
    """Return the result document, an empty one if there is none, and what is wrong with it."""
    if ran.result is None:
        return _EMPTY, ran.message or "there is no result document"
    try:
        return HarnessResult.model_validate(json.loads(ran.result)), ""
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
