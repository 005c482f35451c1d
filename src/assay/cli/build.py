"""`assay build`: build the selected cells; skip existing images and refuse cells that must fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeGuard

import click

from assay.adapters.docker.buildx import Buildx
from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.retried import PATIENCE, RetriedBuilder
from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.adapters.host import git
from assay.adapters.host import settings as site
from assay.audit.judgement import AuditJudgement
from assay.cli import console
from assay.cli.common import format_option, load, project_option, select_argument
from assay.cli.progress import BuildProgress
from assay.errors import EngineError, UsageError
from assay.evidence.record import BuildRecord, BuildStatus
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.model import Base, BootstrapBase
from assay.matrix.plan import Plan, shard
from assay.pipeline.build import (
    DISK_FACTOR,
    THERE,
    BuildFlow,
    BuildJob,
    BuildOptions,
    ImageJudge,
    Judge,
    PreparedBuild,
    exit_code,
)
from assay.ports.builder import Builder

__all__ = ["command"]


@click.command("build")
@select_argument
@project_option
@format_option("text", "json")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=min(4, os.cpu_count() or 1),
    show_default=True,
    help="Cells to build in parallel.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@click.option("--dry-run", is_flag=True, help="Show what would be built and why; build nothing.")
@click.option("--force", is_flag=True, help="Build even if the image exists or the audit refuses it.")
@click.option("--no-audit", is_flag=True, help="Skip the audit before and after the build.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=7200, show_default=True, help="Time limit of a cell, in seconds."
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=PATIENCE,
    show_default=True,
    help="Time to retry when the builder or a registry fails, in seconds.",
)
@click.option("--builder", default=None, help="Buildx builder, for example a remote one.  [default: the selected one]")
@click.option("--shard", "part", metavar="I/N", help="Take every N-th cell, starting with the I-th.")
def command(
    select: tuple[str, ...],
    project: Path | None,
    form: str,
    *,
    jobs: int,
    fail_fast: bool,
    dry_run: bool,
    force: bool,
    no_audit: bool,
    timeout: float,
    patience: float,
    builder: str | None,
    part: str | None,
) -> int:
    """Audit and build the selected cells; skip images that exist.

    Without SELECT, the default group of matrix.yaml is built. An image is skipped if its content key is unchanged: the
    Dockerfile, lock, base and tools. A cell whose audit finds errors is refused. Logs, and a script that repeats the
    build: build_logs/<run>/<cell>/.
    """
    files, plan = load(project)
    cells = [cell for cell in plan.select(select, default=True) if cell.kind != "external"]
    if part:
        cells = shard(cells, part)
    if no_audit:
        cells = _without_audit(cells)
    items = [BuildJob(cell=cell, lock=files.lock(cell), unresolved=files.unresolved(cell)) for cell in cells]
    engine = DockerEngine()
    with BuildProgress(len(cells)) as progress:
        buildx = Buildx(builder=builder, zstd=lambda: engine.info().image_store == "containerd")
        retried = RetriedBuilder(buildx, patience=patience)
        flow = _flow(files, plan, engine, progress, builder=retried, audit=not no_audit)
        prepared = flow.prepare(items, force=force)
        if dry_run:
            return _dry_run(prepared, form)
        _check_disk(prepared, engine)
        options = BuildOptions(
            jobs=jobs,
            fail_fast=fail_fast,
            force=force,
            timeout=timeout,
            secrets=site.secrets(),
            build_args=site.build_args(),
            mirrors=site.mirrors(),
            revision=git.revision(files.root) if any(_to_build(item) for item in prepared) else "",
        )
        records = list(flow.run(prepared, options))
    return _result(cells, records, files, form)


def _without_audit(cells: Sequence[Cell]) -> list[Cell]:
    """Leave out the cells that are there to be refused by an audit, if there is none."""
    left = [cell for cell in cells if cell.expect is None or cell.expect.stage != "audit"]
    if cells and not left:
        raise UsageError(
            "what is selected is there to be refused by the audit, which --no-audit leaves out",
            hint="leave --no-audit away",
        )
    if len(left) < len(cells):
        console.say(f"without an audit there is nothing to refuse; controls left out: {len(cells) - len(left)}")
    return left


def _flow(
    files: ProjectFiles, plan: Plan, engine: DockerEngine, progress: BuildProgress, *, builder: Builder, audit: bool
) -> BuildFlow:
    matrix = plan.project.matrix
    templates = files.templates()

    def render_cell(cell: Cell, lock: Lock) -> str:
        base = matrix.bases[cell.base]
        return render.dockerfile(cell, lock, base, indexes=matrix.indexes, templates=templates)

    store = FileStore(files.root / "build_logs")

    # What only a build needs is imported when something is built: a run with nothing to do is over in half a second.
    def ensure_base(name: str, base: Base, say: Callable[[str], None]) -> None:
        from assay.adapters.docker.bootstrap import DebootstrapBases  # noqa: PLC0415

        # A registry's base is pulled by BuildKit itself, by the digest in the lock.
        if isinstance(base, BootstrapBase):
            DebootstrapBases(engine).ensure(base, render.base_reference(name, base, None), progress=say)

    @cache
    def auditors() -> tuple[Judge, ImageJudge]:
        from assay.cli.auditing import judges  # noqa: PLC0415

        return judges(files.root, matrix, store, engine)

    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement | None:
        return auditors()[0](cell, lock, run)

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement | None:
        return auditors()[1](cell, lock, reference, run)

    return BuildFlow(
        bases=matrix.bases,
        ensure_base=ensure_base,
        render_cell=render_cell,
        builder=builder,
        images=engine,
        store=store,
        listener=progress,
        judge=judge if audit else None,
        judge_image=judge_image if audit else None,
        diagnose=_cause,
    )


def _cause(log: Path) -> str | None:
    """Return the most likely cause that a build log tells, an entry of knowledge/failures/."""
    from assay.diagnose import Stage, diagnose  # noqa: PLC0415

    with log.open("rb") as stream:
        found = diagnose(stream, stage=Stage.BUILD)
    return found[0].cause if found else None


def _to_build(item: PreparedBuild | BuildJob) -> TypeGuard[PreparedBuild]:
    return isinstance(item, PreparedBuild) and item.stale is not None


def _check_disk(prepared: Sequence[PreparedBuild | BuildJob], engine: DockerEngine) -> None:
    """Raise EngineError when the engine's disk cannot hold what is to be built."""
    wheels = {
        wheel.sha256: wheel.size or 0
        for item in prepared
        if _to_build(item) and item.job.cell.kind == "build"
        for wheel in item.lock.wheels
    }
    if not wheels:
        return
    info = engine.info()
    if not info.local or not Path(info.root_dir).exists():
        return
    stat = os.statvfs(info.root_dir)
    free, needed = stat.f_bavail * stat.f_frsize, sum(wheels.values()) * DISK_FACTOR
    if free < needed:
        console.warn(
            f"{free / 1e9:.0f} GB free in {info.root_dir}; building all of this from nothing takes about "
            f"{needed / 1e9:.0f} GB (layers that are there already take none)"
        )
    alone = sum(wheels.values())
    if free < alone:
        raise EngineError(
            f"only {free / 1e9:.1f} GB free in {info.root_dir}, the wheels alone have {alone / 1e9:.1f} GB",
            hint="docker buildx prune; docker image prune; or select fewer cells",
        )


def _dry_run(prepared: Sequence[PreparedBuild | BuildJob], form: str) -> int:
    rows: list[tuple[str, str, str]] = []
    for item in prepared:
        if isinstance(item, BuildJob):
            rows.append((item.cell.id, "refused", item.unresolved or "there is no lock: run `assay lock`"))
        elif item.stale is None:
            rows.append((item.job.cell.id, "cached", THERE))
        else:
            rows.append((item.job.cell.id, "build", item.stale))
    if form == "json":
        console.json_data(
            {"version": 1, "cells": [dict(zip(("cell", "action", "reason"), r, strict=True)) for r in rows]}
        )
    else:
        console.data_table(("cell", "would be", "because"), rows)
    return 0


def _result(cells: Sequence[Cell], records: Sequence[BuildRecord], files: ProjectFiles, form: str) -> int:
    by_id = {record.cell: record for record in records}
    controls = {cell.id: _failed_as_it_must(cell, by_id[cell.id]) for cell in cells if cell.kind == "control"}
    code = exit_code(records, controls)
    if form == "json":
        document = {"version": 1, "records": [record.model_dump(mode="json") for record in records], "exit_code": code}
        console.json_data(document)
    for cell in cells:
        record = by_id[cell.id]
        if cell.id in controls:
            expected = cell.expect.cause if cell.expect else ""
            words = "failed as it must" if controls[cell.id] else "DID NOT FAIL AS IT MUST"
            if controls[cell.id] and cell.expect is not None and cell.expect.stage == "probe":
                words = "built; it has to fail when it is probed"
            console.say(f"control {cell.id}: {words} ({expected})")
        elif record.status not in {BuildStatus.BUILT, BuildStatus.CACHED}:
            _explain(record, files)
    counts = {status: sum(record.status is status for record in records) for status in BuildStatus}
    console.say(", ".join(f"{count} {status.value}" for status, count in counts.items() if count) or "nothing to do")
    if any(record.status is BuildStatus.BUILT for record in records):
        console.say("next: `assay report`, then `nox -s probe -- <image>` on a machine with the GPU")
    return code


def _failed_as_it_must(cell: Cell, record: BuildRecord) -> bool:
    if cell.expect is None:
        return False
    match cell.expect.stage:
        case "audit":
            return record.status is BuildStatus.REFUSED and record.cause == cell.expect.cause
        case "build":
            return record.status is BuildStatus.FAILED and record.cause == cell.expect.cause
        case "probe":
            return record.status in {BuildStatus.BUILT, BuildStatus.CACHED}


def _explain(record: BuildRecord, files: ProjectFiles) -> None:
    console.say(f"\n{record.status.value}: {record.cell}")
    if record.cause:
        console.say(f"  cause: {record.cause}")
    for line in record.reason.splitlines():
        console.say(f"  {line}")
    if record.log:
        log = files.root / "build_logs" / record.log
        console.say(f"  log: {log}")
        console.say(f"  again by hand: {log.parent / 'repeat.sh'}")
