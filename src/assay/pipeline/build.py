"""The build step: skips what the engine holds, refuses what must fail, builds and records the rest."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from assay.errors import AssayError, EngineError, RegistryError, StoreError
from assay.evidence.record import BuildRecord, BuildStatus, RunSummary, dump
from assay.evidence.reference import Reference
from assay.foundation.outcome import Verdict
from assay.foundation.platforms import Platform
from assay.matrix import lockfile, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.model import RegistryBase
from assay.pipeline.build_jobs import BuildItem, BuildOptions, BuildPorts, PreparedBuild, Spreads, is_spread
from assay.pipeline.build_records import as_expected, described, not_built_well, record_of
from assay.pipeline.disk import DiskRoom
from assay.pipeline.pool import FailFast, JobControl, JobPool
from assay.pipeline.sharing import shared_first
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.layers import SourceArchive
from assay.ports.store import SUMMARY, RunFolder

__all__ = ["THERE", "build"]

_HERE: Final = "here"
_POOL: Final = "pool"
THERE: Final = "an image with this content key exists"
REVISION_LABEL: Final = "org.opencontainers.image.revision"

_STATUS: Final = {
    BuildEnd.BUILT: BuildStatus.BUILT,
    BuildEnd.FAILED: BuildStatus.FAILED,
    BuildEnd.TIMED_OUT: BuildStatus.TIMED_OUT,
    BuildEnd.STOPPED: BuildStatus.ABORTED,
    BuildEnd.ENGINE: BuildStatus.ENGINE_FAILED,
    BuildEnd.REGISTRY: BuildStatus.REGISTRY_FAILED,
}


def build(items: Sequence[BuildItem], ports: BuildPorts, options: BuildOptions) -> Iterator[BuildRecord]:
    """Build; yield a record for each cell as its build ends.

    Ctrl-C stops what runs, records it as aborted, and comes out as KeyboardInterrupt; see `assay.pipeline.pool`.

    Raises:
        StoreError: nothing can be recorded.
    """
    with ports.store.new_run() as run:
        ended: dict[str, BuildStatus] = {}
        for record in _Run(ports, options, run).records(items):
            ended[record.cell] = record.status
            yield record
        run.write(SUMMARY, dump(RunSummary(run=run.name, cells=ended)))


def _ordered(items: Sequence[BuildItem], spreads: Spreads) -> list[BuildItem]:
    """Return items with those in front that go to a pool, and of these the ones with shared layers."""
    spread = [item for item in items if spreads(item)]
    first = [spread[position] for position in shared_first([item.dockerfile for item in spread])]
    return [*first, *(item for item in items if not spreads(item))]


class _Run:
    """One run of builds: its folder, and which bases are ready."""

    def __init__(self, ports: BuildPorts, options: BuildOptions, run: RunFolder) -> None:
        self._ports = ports
        self._opening, self._opened = threading.Lock(), False
        self._options = options
        self._run = run
        self._spreads = ports.spreads or is_spread
        self._base_locks = {name: threading.Lock() for name in ports.bases}
        self._bases_done: dict[tuple[str, Platform], str | None] = {}
        """Base -> where builders see it, if not under its own name."""
        self._disk = DiskRoom(ports.space)

    def records(self, items: Sequence[BuildItem]) -> Iterator[BuildRecord]:
        """Yield the record of each item: first those with nothing to do."""
        audits = self._ports.judge_image is not None
        doubtful = not_built_well(self._ports.store.records(kind="build")) if audits else frozenset()
        work: list[BuildItem] = []
        for item in items:
            held = isinstance(item, PreparedBuild) and item.stale is None
            if isinstance(item, PreparedBuild) and held and (item.cell.id, item.key) not in doubtful:
                # What the engine holds was described when it was built; asking again costs two round-trips a cell.
                record = record_of(item, self._run.name, BuildStatus.CACHED, reason=THERE)
                record = described(record, item, None, tag=self._ports.name_of(item.cell))
                self._ports.listener.finished(record.cell, record)
                yield record
            else:
                work.append(item)
        cells = {item.cell.id: item.cell for item in work}
        fail_fast: FailFast[BuildItem, BuildRecord] = FailFast(
            failed=lambda record: (
                record.status is not BuildStatus.ABORTED and not as_expected(cells[record.cell], record)
            ),
            skipped=self._skipped,
        )
        spread = self._options.spread
        self._make_ready([item.dockerfile for item in work if self._spreads(item)])
        pool = JobPool(
            self._one,
            at_once={_HERE: self._options.jobs, _POOL: spread},
            # A cell that moves between builders has its time on each of them; see `_task`.
            timeout=None if spread else self._options.timeout,
            admit=self._disk.reserved,
            fail_fast=fail_fast if self._options.fail_fast else None,
            listener=self._ports.listener,
            name=lambda item: item.cell.id,
            lane=lambda item: _POOL if spread and self._spreads(item) else _HERE,
        )
        yield from pool.run(_ordered(work, self._spreads) if spread else work)

    def _skipped(self, item: BuildItem) -> BuildRecord:
        reason = "the run was stopped before this cell began"
        return self._keep(record_of(item, self._run.name, BuildStatus.ABORTED, reason=reason))

    def _one(self, item: BuildItem, control: JobControl) -> BuildRecord:
        try:
            record = self._steps(item, control)
        except StoreError:
            raise
        except EngineError as error:
            record = record_of(item, self._run.name, BuildStatus.ENGINE_FAILED, reason=str(error))
        except RegistryError as error:
            record = record_of(item, self._run.name, BuildStatus.REGISTRY_FAILED, reason=str(error))
        except AssayError as error:
            record = record_of(item, self._run.name, BuildStatus.FAILED, reason=str(error))
        return self._keep(record, item.lock if isinstance(item, PreparedBuild) else None)

    def _keep(self, record: BuildRecord, lock: Lock | None = None) -> BuildRecord:
        if lock is not None:
            # The record names its lock by digest; the next `assay lock` writes over the file.
            self._ports.store.put_document(lockfile.dump(lock).encode())
        self._ports.store.append(record)
        return record

    def _steps(self, item: BuildItem, control: JobControl) -> BuildRecord:
        if isinstance(item, LockedCell):
            reason = item.unresolved or "there is no lock"
            hint = "" if item.unresolved else f"; run `assay lock {item.cell.id}`"
            return record_of(item, self._run.name, BuildStatus.REFUSED, reason=f"{reason.strip()}{hint}")
        if item.stale is None:
            # An image whose build ended badly is not good because the engine holds it.
            reason = "already there; an earlier build of it did not end cleanly"
            return self._audited(item, control, self._described(item, BuildStatus.BUILT, reason=reason))
        refused = self._refused(item, control)
        if refused is not None:
            return refused
        with self._ports.store.claim(item.cell.id) as mine:
            if not mine:
                reason = "another run is building this cell; wait for it"
                return record_of(item, self._run.name, BuildStatus.ABORTED, reason=reason)
            self._disk.check(item)
            return self._build(item, control)

    def _refused(self, item: PreparedBuild, control: JobControl) -> BuildRecord | None:
        """Return the record of a build that the audit of its wheels refuses, or None."""
        if self._ports.judge is None:
            return None
        control.step("audit of the wheels")
        if item.assembled and item.cell.expect is None and self._ports.assembly is not None:
            self._ports.assembly.begin(item.dockerfile)
        judgement = self._ports.judge(item.cell, item.lock, self._run.name)
        expected = item.cell.expect
        if expected is not None and expected.stage == "audit":
            # A cell that exists to be refused is never built, whatever the options: nothing could be learnt from it.
            if judgement is None or judgement.verdict is not Verdict.FAIL:
                said = "it could not read the wheels" if judgement is None else f"it said {judgement.verdict.value}"
                reason = f"the audit was expected to refuse this cell; {said}"
                return record_of(item, self._run.name, BuildStatus.FAILED, reason=reason)
        elif judgement is None or judgement.verdict is not Verdict.FAIL or self._options.force:
            return None
        cause = judgement.causes[0] if judgement.causes else None
        if expected is not None and expected.cause in judgement.causes:
            cause = expected.cause
        reason = "\n".join(judgement.summary)
        return record_of(item, self._run.name, BuildStatus.REFUSED, reason=reason, cause=cause)

    def _build(self, item: PreparedBuild, control: JobControl) -> BuildRecord:
        cell = item.cell
        log = self._run.cell(cell.id) / "build.log"
        if not item.assembled:
            self._ready_base(cell, control)
        try:
            outcome = self._ports.builder.build(self._task(item, control, log))
        except SourceArchive as archive:
            assembly = self._ports.assembly
            if assembly is None or not (why := assembly.obstacle(item.dockerfile)):
                raise
            control.step(f"{archive.wheel.name} is a source archive: BuildKit builds all of the image")
            item = replace(item, obstacle=why)
            self._make_ready([item.dockerfile])
            self._ready_base(cell, control)
            outcome = self._ports.builder.build(self._task(item, control, log))
        status, reason = _STATUS[outcome.end], outcome.reason
        if control.timed_out and status is BuildStatus.ABORTED:
            status, reason = BuildStatus.TIMED_OUT, f"still building after {self._options.timeout:g} s"
        path = str(log.relative_to(self._ports.store.root))
        if status is BuildStatus.BUILT:
            record = self._described(item, status, reason=item.stale or "", log=path, outcome=outcome)
            return self._audited(item, control, record)
        diagnose = self._ports.diagnose
        cause = diagnose(log) if diagnose is not None and status is BuildStatus.FAILED else None
        record = record_of(item, self._run.name, status, reason=reason, seconds=outcome.seconds, cause=cause, log=path)
        return record.model_copy(update={"builder": outcome.builder})

    def _task(self, item: PreparedBuild, control: JobControl, log: Path) -> BuildTask:
        """Return the build of an item; write its Dockerfile and a script that repeats it."""
        cell, options = item.cell, self._options
        name = self._ports.name_of(cell)
        # `assay publish` finds what is in staging by the content key.
        staged = Reference.parse(name).repository.tagged(item.key.removeprefix("sha256:"))
        task = BuildTask(
            dockerfile=item.dockerfile,
            tags=(name, staged) if options.spread else (name,),
            labels=item.labels,
            provenance={REVISION_LABEL: options.revision} if options.revision else {},
            secrets=options.secrets,
            build_args={**options.build_args, **self._base_elsewhere(item)},
            platform="" if cell.platform is Platform.AMD64 else cell.platform,
            log=log,
            timeout=options.timeout if options.spread else None,
            progress=control.step,
            stop=control.stop,
        )
        self._run.write(f"{cell.id}/Dockerfile", item.dockerfile.encode())
        by_hand = shlex.join(self._ports.builder.command(task, dockerfile="Dockerfile"))
        script = f'#!/bin/sh\n# Repeats the build of {cell.id}.\ncd "$(dirname "$0")" || exit\nexec {by_hand} .\n'
        self._run.write(f"{cell.id}/repeat.sh", script.encode(), executable=True)
        return task

    def _audited(self, item: PreparedBuild, control: JobControl, record: BuildRecord) -> BuildRecord:
        """Audit what was really installed; an image that must fail is recorded as failed, and stays for a look."""
        if self._ports.judge_image is None:
            return record
        cell = item.cell
        control.step("audit of the image")
        try:
            judgement = self._ports.judge_image(cell, item.lock, self._ports.name_of(cell), self._run.name)
        except StoreError:
            raise
        except AssayError as error:
            # The image is built; that nobody could look into it is not a failure of the cell.
            return record.model_copy(update={"reason": f"{record.reason}; not audited: {error.message}"})
        if judgement is None or judgement.verdict is not Verdict.FAIL or cell.kind == "control":
            return record
        update = {
            "status": BuildStatus.FAILED,
            "reason": "built, but the audit of the image found errors:\n" + "\n".join(judgement.summary),
            "cause": judgement.causes[0] if judgement.causes else None,
        }
        return record.model_copy(update=update)

    def _base_elsewhere(self, item: PreparedBuild) -> dict[str, str]:
        """Return the argument that takes the same base from where the builder sees it: the key stays the same."""
        if pushed := self._bases_done.get((item.cell.base, item.cell.platform)):
            return {"BASE": pushed}
        base = self._ports.bases[item.cell.base]
        if not isinstance(base, RegistryBase):
            return {}
        reference = Reference.parse(
            render.base_reference(item.cell.base, base, item.lock.base_digest, item.cell.platform)
        )
        mirrored = reference.mirrored(self._options.mirrors)
        return {} if mirrored == reference else {"BASE": str(mirrored)}

    def _make_ready(self, dockerfiles: Sequence[str]) -> None:
        """Prepare the builders of a pool for what they are going to build; once."""
        with self._opening:
            if dockerfiles and self._ports.ready is not None and not self._opened:
                self._ports.ready(dockerfiles)
                self._opened = True

    def _ready_base(self, cell: Cell, control: JobControl) -> None:
        with self._base_locks[cell.base]:
            if (cell.base, cell.platform) not in self._bases_done:
                control.step(f"base {cell.base}")
                made = self._ports.ensure_base(cell.base, self._ports.bases[cell.base], cell.platform, control.step)
                self._bases_done[cell.base, cell.platform] = made

    def _described(
        self,
        item: PreparedBuild,
        status: BuildStatus,
        *,
        reason: str,
        log: str | None = None,
        outcome: BuildOutcome | None = None,
    ) -> BuildRecord:
        """Return the record of an image that the engine holds, with what the engine says of it."""
        seconds = outcome.seconds if outcome else 0.0
        record = record_of(item, self._run.name, status, reason=reason, seconds=seconds, log=log)
        record = record.model_copy(update={"builder": outcome.builder if outcome else None})
        name = self._ports.name_of(item.cell)
        image = outcome.image if outcome and outcome.image else self._ports.images.image(name)
        return described(record, item, image, tag=name, digest=outcome.digest if outcome else None)
