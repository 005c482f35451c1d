"""Probes on a pool: which jobs a command line means, and the record that a result becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from assay.errors import NothingSelected, RegistryError
from assay.evidence import record
from assay.evidence import suite as probes
from assay.evidence.record import BuildRecord, ProbeRecord
from assay.evidence.reference import Reference, Repository
from assay.evidence.suite import Declaration
from assay.foundation.digest import digest_of
from assay.matrix.cell import Cell
from assay.matrix.plan import Plan
from assay.pipeline.pooled_values import PooledEnd
from assay.pipeline.probe import ProbeOptions, exit_code
from assay.pipeline.probe_record import Diagnose, ProbeRecording, ProbeSubject
from assay.pipeline.probe_subjects import built
from assay.ports.jobs import DevicesWanted, JobResult, Place, ProbeJob
from assay.ports.pools import PlannedJob, PoolBook, PoolRun
from assay.ports.store import Store

__all__ = ["PoolRecorder", "plan_run", "pooled_exit_code", "registry_subjects"]


def registry_subjects(
    select: Sequence[str],
    plan: Plan,
    store: Store,
    *,
    repository: Callable[[str], str],
    digests: Callable[[str], str],
    warn: Callable[[str], None],
) -> list[ProbeSubject]:
    """Return the selected cells whose image a registry has, and the images named by reference, all by digest.

    Args:
        repository: image of the matrix -> the repository that nodes pull it from.
        digests: reference -> digest, or RegistryError.

    Raises:
        NothingSelected: none of them is in its registry.
        RegistryError: a reference cannot be resolved.
    """
    references = [word for word in select if "/" in word or ":" in word]
    words = tuple(word for word in select if word not in references)
    found: list[ProbeSubject] = []
    if words or not references:
        made = built(store)
        for cell in plan.select(words, default=True):
            subject = _of_cell(cell, made.get(cell.id), Repository.parse(repository(cell.image)), digests, warn)
            found += [subject] if subject is not None and cell.kind != "control" else []
    for word in references:
        reference = Reference.parse(word)
        digest = reference.digest or digests(word)
        place = Place(reference=reference.repository.at(digest), digest=digest)
        found.append(ProbeSubject(place=place, cell=word))
    if not found:
        raise NothingSelected("no registry has an image of the selected cells", hint="`assay build`, then push them")
    return found


def _of_cell(
    cell: Cell,
    made: BuildRecord | None,
    repository: Repository,
    digests: Callable[[str], str],
    warn: Callable[[str], None],
) -> ProbeSubject | None:
    """Return the subject of a cell: what was built here if the registry has it, else what its tag names there."""
    tag = made.content_key.removeprefix("sha256:") if made and made.content_key else cell.tag
    asked = [repository.at(made.image_digest)] if made and made.image_digest else []
    for reference in (*asked, repository.tagged(tag)):
        try:
            digest = digests(reference)
        except RegistryError as error:
            said = error.message
            continue
        return ProbeSubject(
            place=Place(reference=repository.at(digest), digest=digest),
            cell=cell.id,
            image=cell.image,
            lock_digest=made.lock_digest if made else None,
            content_key=made.content_key if made else None,
        )
    warn(f"{cell.id}: not probed: {said}")
    return None


def plan_run(
    subjects: Sequence[ProbeSubject],
    options: ProbeOptions,
    *,
    pool: str,
    suite: str,
    chosen: Sequence[Declaration],
    gpus: Sequence[str],
    run: str | None = None,
) -> PoolRun:
    """Return the jobs: one for each image and kind of GPU.

    The same subjects, options and suite on the same pool give the same names on every machine, so that whoever runs
    the same command goes on with what is there.

    Args:
        pool: its name.
        suite: digest of the probe programs.
        chosen: the probes, prerequisites first.
        gpus: the GPU products to run on; none: jobs without a GPU.
        run: its name; without it, one that follows from everything else, and with `options.force` a new one.
    """
    count = options.gpus if gpus else 0
    models = tuple(gpus) if count else ("",)
    subject_keys = [[item.cell, item.place.reference, item.place.digest or ""] for item in subjects]
    settings = [options.limits.model_dump(mode="json"), options.warm, options.seed, dict(options.sabotage), count]
    what = [pool, suite, [item.feature for item in chosen], list(models), subject_keys, settings]
    now = record.now()
    if options.force and run is None:
        what.append(now.isoformat())
    name = run or f"pool-{digest_of(what)[7:17]}"
    jobs = [
        PlannedJob(
            job=ProbeJob(
                run=name,
                place=item.place,
                suite=suite,
                features=tuple(probe.feature for probe in chosen),
                devices=DevicesWanted(count=count, model=model),
                limits=options.limits,
                warm=options.warm,
                # Nodes come and go: what one job compiled is of no use to the next one.
                keep_cache=False,
                sabotage=dict(options.sabotage),
                seed=options.seed,
            ),
            cell=item.cell,
            image=item.image,
            lock_digest=item.lock_digest,
            content_key=item.content_key,
        )
        for item in subjects
        for model in models
    ]
    # Of two cells with one image, one is measured: it is the same image.
    unique = {item.key: item for item in reversed(jobs)}
    return PoolRun(run=name, pool=pool, created=now, jobs=tuple(reversed(unique.values())))


@dataclass(frozen=True, kw_only=True)
class PoolRecorder:
    """Makes the record of a result, the same bytes whoever makes it, and keeps it."""

    store: Store
    book: PoolBook
    known: Mapping[str, Declaration]
    """The probes of the run's suite, by feature."""
    diagnose: Diagnose = lambda _: None
    say: Callable[[str], None] = lambda _: None

    def __call__(self, planned: PlannedJob, result: JobResult, log: bytes, created: datetime) -> ProbeRecord | None:
        """Return the record; None if nothing was measured."""
        job = planned.job
        recording = ProbeRecording(
            subject=ProbeSubject(
                place=job.place,
                cell=planned.cell,
                image=planned.image,
                lock_digest=planned.lock_digest,
                content_key=planned.content_key,
            ),
            run=self.book.folder,
            suite_digest=job.suite,
            wanted=frozenset(job.features),
            todo=probes.order(self.known, job.features),
            diagnose=self.diagnose,
        )
        if log:
            self.book.folder.write(f"{planned.cell}/probes/{job.devices.model or 'harness'}.log", log)
        made, problem = recording.record(result, created=created)
        if not recording.measured:
            self.say(f"{planned.cell}: nothing could be measured, so nothing is recorded: {problem}")
            return None
        if not job.sabotage:
            self.store.append(made)
        return made


def pooled_exit_code(ends: Sequence[PooledEnd], planned: int) -> int:
    """Return 0 if every job has a record and nothing in it is wrong, broken or left open; 4 if the pool lost one."""
    if any(end.loss is not None for end in ends):
        return 4
    if len(ends) < planned:
        return 1
    return exit_code([end.record for end in ends if end.record is not None])
