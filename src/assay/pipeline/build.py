"""The build step: what is there is skipped, what must fail is refused, the rest is built and recorded."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from assay import __version__
from assay.audit.judgement import AuditJudgement
from assay.errors import AssayError, EngineError, RegistryError, StoreError
from assay.evidence.record import BuildRecord, BuildStatus, LayerSize, RunSummary, dump, now
from assay.evidence.reference import Reference
from assay.foundation.outcome import Verdict
from assay.matrix import lockfile, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.matrix.model import Base, RegistryBase
from assay.ports.builder import BuildEnd, Builder, BuildOutcome, BuildTask
from assay.ports.engine import ImageInfo
from assay.ports.store import SUMMARY, RunFolder, Store

__all__ = [
    "DISK_FACTOR",
    "THERE",
    "BuildFlow",
    "BuildJob",
    "BuildOptions",
    "ImageJudge",
    "Images",
    "Judge",
    "Listener",
    "PreparedBuild",
    "exit_code",
]

DISK_FACTOR: Final = 11
"""A build from nothing takes about this much disk for each byte of its wheels, which are packed about 1:2.5: each is
unpacked in its stage, in its layer and in the image, and packed in the image store (measured on the starter cells:
60 GB for 5.5 GB of wheels)."""
THERE: Final = "the image of this content key is there"
KEY_LABEL: Final = f"{render.LABEL_PREFIX}content-key"
LOCK_LABEL: Final = f"{render.LABEL_PREFIX}lock"
REVISION_LABEL: Final = "org.opencontainers.image.revision"

_STATUS: Final = {
    BuildEnd.BUILT: BuildStatus.BUILT,
    BuildEnd.FAILED: BuildStatus.FAILED,
    BuildEnd.TIMED_OUT: BuildStatus.TIMED_OUT,
    BuildEnd.STOPPED: BuildStatus.ABORTED,
    BuildEnd.ENGINE: BuildStatus.ENGINE_FAILED,
    BuildEnd.REGISTRY: BuildStatus.REGISTRY_FAILED,
}
_GOOD: Final = {BuildStatus.BUILT, BuildStatus.CACHED}


class Images(Protocol):
    """The engine's images, as far as building needs them."""

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that are there, by reference."""
        ...

    def image(self, reference: str) -> ImageInfo | None: ...


Judge = Callable[[Cell, Lock, str], AuditJudgement | None]
"""(cell, lock, run) -> what the wheels say; None where nothing could be read. Keeps its own record."""
ImageJudge = Callable[[Cell, Lock, str, str], AuditJudgement | None]
"""(cell, lock, image reference, run) -> what is really installed."""


class Listener(Protocol):
    """Hears how a run goes; called from several threads."""

    def started(self, cell: Cell) -> None: ...

    def step(self, cell: Cell, words: str) -> None: ...

    def finished(self, cell: Cell, record: BuildRecord) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a run is done."""

    jobs: int = 2
    fail_fast: bool = False
    force: bool = False
    """Build what the audit refuses, and what is there already."""
    timeout: float | None = 7200.0
    """Seconds for one cell."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    """Registry -> the mirror that bases are pulled from instead."""
    revision: str = ""
    """Of the recipes' repository."""


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """A cell with its lock."""

    cell: Cell
    lock: Lock | None
    unresolved: str | None = None
    """Why there is no lock."""


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A cell that has all it needs, and whether something is left to do."""

    job: BuildJob
    lock: Lock
    dockerfile: str
    key: str
    stale: str | None
    """Why it has to be built; None when the image is there."""


def exit_code(records: Sequence[BuildRecord], controls: Mapping[str, bool]) -> int:
    """Return 0 when every cell ended as it should, 4 when the engine failed, 5 when a registry did, else 1.

    Args:
        records: one for each cell.
        controls: cell id -> whether a negative control failed as it must.
    """
    bad = [record for record in records if not controls.get(record.cell, record.status in _GOOD)]
    if any(record.status is BuildStatus.ENGINE_FAILED for record in bad):
        return EngineError.exit_code
    if any(record.status is BuildStatus.REGISTRY_FAILED for record in bad):
        return RegistryError.exit_code
    return 1 if bad else 0


class BuildFlow:
    """Builds cells.

    Args:
        bases: base name -> base.
        ensure_base: makes sure that a base can be built on (a bootstrapped one is made); told what it is doing.
        render_cell: cell and lock -> Dockerfile.
        builder, images, store: the world.
        judge, judge_image: the audit before and after; None leaves it out.
        listener: hears of progress.
    """

    def __init__(
        self,
        *,
        bases: Mapping[str, Base],
        ensure_base: Callable[[str, Base, Callable[[str], None]], None],
        render_cell: Callable[[Cell, Lock], str],
        builder: Builder,
        images: Images,
        store: Store,
        listener: Listener,
        judge: Judge | None = None,
        judge_image: ImageJudge | None = None,
        diagnose: Callable[[Path], str | None] | None = None,
    ) -> None:
        self._bases = bases
        self._ensure_base = ensure_base
        self._render = render_cell
        self._builder = builder
        self._images = images
        self._store = store
        self._listener = listener
        self._judge = judge
        self._judge_image = judge_image
        self._diagnose = diagnose
        self._base_locks = {name: threading.Lock() for name in bases}
        self._bases_done: set[str] = set()
        self._stop = threading.Event()

    def prepare(self, jobs: Sequence[BuildJob], *, force: bool = False) -> list[PreparedBuild | BuildJob]:
        """Render and take keys; a job without a lock stays as it is.

        Raises:
            ConfigError: a template is wrong.
            EngineMissing: no engine answers.
        """
        references = [job.cell.local_reference for job in jobs if job.lock is not None]
        with ThreadPoolExecutor(1) as pool:
            # The engine takes its time to answer; meanwhile there is something to do.
            asked = pool.submit(self._images.labels, references)
            texts = {job.cell.id: self._render(job.cell, job.lock) for job in jobs if job.lock is not None}
            there = asked.result()
        result: list[PreparedBuild | BuildJob] = []
        for job in jobs:
            if job.lock is None:
                result.append(job)
                continue
            text = texts[job.cell.id]
            key = render.content_key(text)
            stale = "asked for by --force" if force else _stale(there.get(job.cell.local_reference), key, job.lock)
            result.append(PreparedBuild(job=job, lock=job.lock, dockerfile=text, key=key, stale=stale))
        return result

    def run(self, items: Sequence[PreparedBuild | BuildJob], options: BuildOptions) -> Iterator[BuildRecord]:
        """Build; yield a record for each cell as it is done.

        Ctrl-C stops what runs, records it as aborted, and comes out as KeyboardInterrupt.
        """
        with self._store.new_run() as run, ThreadPoolExecutor(max(1, options.jobs)) as pool:
            ended: dict[str, BuildStatus] = {}
            waiting: list[Future[BuildRecord]] = []
            doubtful = self._not_built_well() if self._judge_image is not None else frozenset()
            try:
                for item in items:
                    there = isinstance(item, PreparedBuild) and item.stale is None
                    if isinstance(item, PreparedBuild) and there and (item.job.cell.id, item.key) in doubtful:
                        waiting.append(pool.submit(self._audited_again, item, run))
                    elif isinstance(item, PreparedBuild) and there:
                        record = self._described(item, run, BuildStatus.CACHED, reason=THERE)
                        ended[record.cell] = record.status
                        self._listener.finished(item.job.cell, record)
                        yield record
                    else:
                        waiting.append(pool.submit(self._one, item, run, options))
                for done in as_completed(waiting):
                    record = done.result()
                    ended[record.cell] = record.status
                    yield record
                    if options.fail_fast and record.status not in _GOOD and record.status is not BuildStatus.ABORTED:
                        self._stop.set()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            run.write(SUMMARY, dump(RunSummary(run=run.name, cells=ended)))

    def _not_built_well(self) -> frozenset[tuple[str, str]]:
        """Return (cell, content key) of what was last built and did not end well: refused by its audit, or cut off."""
        builds = (record for record in self._store.records(kind="build") if isinstance(record, BuildRecord))
        newest = {
            (record.cell, record.content_key or ""): record.status
            for record in sorted(builds, key=lambda record: record.created)
            if record.status is not BuildStatus.REFUSED
        }
        return frozenset(key for key, status in newest.items() if status not in _GOOD)

    def _audited_again(self, item: PreparedBuild, run: RunFolder) -> BuildRecord:
        """Audit an image that is there although its build did not end well: being there does not make it good."""
        self._listener.started(item.job.cell)
        record = self._described(item, run, BuildStatus.BUILT, reason="there already; its build had not ended well")
        record = self._keep(self._checked(item, run, record), item.lock)
        self._listener.finished(item.job.cell, record)
        return record

    def _one(self, item: PreparedBuild | BuildJob, run: RunFolder, options: BuildOptions) -> BuildRecord:
        cell = item.cell if isinstance(item, BuildJob) else item.job.cell
        if self._stop.is_set():
            return self._keep(
                self._record(item, run, BuildStatus.ABORTED, reason="the run was stopped before it began")
            )
        self._listener.started(cell)
        try:
            record = self._steps(item, run, options)
        except StoreError:
            raise
        except EngineError as error:
            record = self._record(item, run, BuildStatus.ENGINE_FAILED, reason=str(error))
        except RegistryError as error:
            record = self._record(item, run, BuildStatus.REGISTRY_FAILED, reason=str(error))
        except AssayError as error:
            record = self._record(item, run, BuildStatus.FAILED, reason=str(error))
        self._keep(record, item.lock if isinstance(item, PreparedBuild) else None)
        self._listener.finished(cell, record)
        return record

    def _keep(self, record: BuildRecord, lock: Lock | None = None) -> BuildRecord:
        if lock is not None:
            # The record names its lock by digest; the next `assay lock` writes over the file.
            self._store.put_document(lockfile.dump(lock).encode())
        self._store.append(record)
        return record

    def _steps(self, item: PreparedBuild | BuildJob, run: RunFolder, options: BuildOptions) -> BuildRecord:
        if isinstance(item, BuildJob):
            reason = item.unresolved or "there is no lock"
            hint = "" if item.unresolved else f"; run `assay lock {item.cell.id}`"
            return self._record(item, run, BuildStatus.REFUSED, reason=f"{reason.strip()}{hint}")
        cell = item.job.cell
        refused = self._refused(item, run, options)
        if refused is not None:
            return refused
        with self._store.claim(cell.id) as mine:
            if not mine:
                return self._record(
                    item, run, BuildStatus.ABORTED, reason="another run is building this cell now; wait for it"
                )
            return self._build(item, run, options)

    def _refused(self, item: PreparedBuild, run: RunFolder, options: BuildOptions) -> BuildRecord | None:
        if self._judge is None:
            return None
        self._listener.step(item.job.cell, "audit of the wheels")
        judgement = self._judge(item.job.cell, item.lock, run.name)
        expected = item.job.cell.expect
        if expected is not None and expected.stage == "audit":
            # A cell that is there to be refused is never built, whatever is asked for: nothing could be learnt from it.
            if judgement is None or judgement.verdict is not Verdict.FAIL:
                said = "it could not read the wheels" if judgement is None else f"it said {judgement.verdict.value}"
                return self._record(item, run, BuildStatus.FAILED, reason=f"the audit had to refuse this cell; {said}")
        elif judgement is None or judgement.verdict is not Verdict.FAIL or options.force:
            return None
        reason = "\n".join(judgement.summary)
        cause = judgement.causes[0] if judgement.causes else None
        if expected is not None and expected.cause in judgement.causes:
            cause = expected.cause
        return self._record(item, run, BuildStatus.REFUSED, reason=reason, cause=cause)

    def _build(self, item: PreparedBuild, run: RunFolder, options: BuildOptions) -> BuildRecord:
        cell = item.job.cell
        folder = run.cell(cell.id)
        self._ready_base(cell)
        run.write(f"{cell.id}/Dockerfile", item.dockerfile.encode())
        log = folder / "build.log"
        task = BuildTask(
            dockerfile=item.dockerfile,
            tags=(cell.local_reference,),
            labels={KEY_LABEL: item.key} | ({REVISION_LABEL: options.revision} if options.revision else {}),
            secrets=options.secrets,
            build_args={**options.build_args, **self._base_elsewhere(item, options)},
            log=log,
            timeout=options.timeout,
            progress=lambda words: self._listener.step(cell, words),
            stop=self._stop,
        )
        by_hand = shlex.join(self._builder.command(task, dockerfile="Dockerfile"))
        script = f'#!/bin/sh\n# Repeats the build of {cell.id}.\ncd "$(dirname "$0")" || exit\nexec {by_hand} .\n'
        run.write(f"{cell.id}/repeat.sh", script.encode(), executable=True)
        outcome = self._builder.build(task)
        status = _STATUS[outcome.end]
        if status is not BuildStatus.BUILT:
            cause = self._diagnose(log) if self._diagnose and status is BuildStatus.FAILED else None
            return self._record(
                item, run, status, reason=outcome.reason, seconds=outcome.seconds, cause=cause, log=self._path(log)
            )
        record = self._described(
            item, run, status, reason=item.stale or "", seconds=outcome.seconds, log=self._path(log), outcome=outcome
        )
        return self._checked(item, run, record)

    def _checked(self, item: PreparedBuild, run: RunFolder, record: BuildRecord) -> BuildRecord:
        """Audit what was really installed; an image that must fail is recorded as failed, and stays for a look."""
        if self._judge_image is None:
            return record
        cell = item.job.cell
        self._listener.step(cell, "audit of the image")
        try:
            judgement = self._judge_image(cell, item.lock, cell.local_reference, run.name)
        except StoreError:
            raise
        except AssayError as error:
            # The image is built; that nobody could look into it is no failure of the cell.
            return record.model_copy(update={"reason": f"{record.reason}; not audited: {error.message}"})
        if judgement is None or judgement.verdict is not Verdict.FAIL or cell.kind == "control":
            return record
        update = {
            "status": BuildStatus.FAILED,
            "reason": "built, but what is installed must fail:\n" + "\n".join(judgement.summary),
            "cause": judgement.causes[0] if judgement.causes else None,
        }
        return record.model_copy(update=update)

    def _base_elsewhere(self, item: PreparedBuild, options: BuildOptions) -> dict[str, str]:
        """Return the argument that takes a registry's base from the site's mirror: the same digest, so the same key."""
        base = self._bases[item.job.cell.base]
        if not isinstance(base, RegistryBase):
            return {}
        reference = Reference.parse(render.base_reference(item.job.cell.base, base, item.lock.base_digest))
        mirrored = reference.mirrored(options.mirrors)
        return {} if mirrored == reference else {"BASE": str(mirrored)}

    def _path(self, path: Path) -> str:
        return str(path.relative_to(self._store.root))

    def _ready_base(self, cell: Cell) -> None:
        with self._base_locks[cell.base]:
            if cell.base not in self._bases_done:
                self._listener.step(cell, f"base {cell.base}")
                base = self._bases[cell.base]
                self._ensure_base(cell.base, base, lambda words: self._listener.step(cell, words))
                self._bases_done.add(cell.base)

    def _described(
        self,
        item: PreparedBuild,
        run: RunFolder,
        status: BuildStatus,
        *,
        reason: str,
        seconds: float = 0.0,
        log: str | None = None,
        outcome: BuildOutcome | None = None,
    ) -> BuildRecord:
        """Return a record of an image that is there, with what the engine says of it."""
        reference = item.job.cell.local_reference
        # What is there already was described when it was built; asking again costs two round-trips a cell.
        image = None if status is BuildStatus.CACHED else self._images.image(reference)
        record = self._record(item, run, status, reason=reason, seconds=seconds, log=log)
        update: dict[str, object] = {"tags": (reference,)}
        if image is not None:
            update |= {
                "image_digest": image.digest or (outcome.digest if outcome else None),
                "size_bytes": image.size_bytes,
                "layers": tuple(
                    LayerSize(digest=layer.diff_id, bytes=layer.bytes or 0, made_by=made_by[:200])
                    for layer, made_by in zip(
                        image.layers,
                        render.with_stages(item.dockerfile, [layer.made_by for layer in image.layers]),
                        strict=True,
                    )
                ),
            }
        return record.model_copy(update=update)

    def _record(
        self,
        item: PreparedBuild | BuildJob,
        run: RunFolder,
        status: BuildStatus,
        *,
        reason: str = "",
        cause: str | None = None,
        seconds: float = 0.0,
        log: str | None = None,
    ) -> BuildRecord:
        job = item if isinstance(item, BuildJob) else item.job
        return BuildRecord(
            created=now(),
            run=run.name,
            cell=job.cell.id,
            image=job.cell.image,
            lock_digest=lock_digest(job.lock) if job.lock else None,
            content_key=None if isinstance(item, BuildJob) else item.key,
            assay_version=__version__,
            status=status,
            reason=reason,
            cause=cause,
            seconds=round(seconds, 3),
            log=log,
        )


def _stale(labels: Mapping[str, str] | None, key: str, lock: Lock) -> str | None:
    """Tell why an image is not the one of this key, or None when it is."""
    if labels is None:
        return "there is no image of this cell"
    if labels.get(KEY_LABEL) == key:
        return None
    if labels.get(LOCK_LABEL) != lock_digest(lock):
        return "the lock changed"
    return "the recipe or the template changed"
