"""`assay build`: audit and build the selected cells, skip images that exist."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option, select_argument
from assay.cli.progress import BuildProgress
from assay.ports.builder import PATIENCE
from assay.wheels.layer import Packing

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import BuildRecord
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.pipeline.build_jobs import Assembly, BuildItem

__all__ = ["build_cells", "command"]


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
@click.option(
    "--builder",
    metavar="auto|assemble|buildkit|NAME",
    default="auto",
    show_default=True,
    help="How images are made: assemble what can be assembled and build the rest, only assemble, only build, or "
    "build with this buildx builder.",
)
@click.option(
    "--push", metavar="REPOSITORY", help="Upload to this repository, each cell under its tag; needs no engine."
)
@click.option(
    "--on",
    metavar="POOL",
    help="Build on this pool of pools.yaml and push by digest to its `registry`. A buildkit pool builds what needs "
    "BuildKit, a slurm pool assembles; this machine does the rest.",
)
@click.option("--output", metavar="oci:DIR|oci-archive:FILE", help="Write an OCI layout or archive; needs no engine.")
@click.option(
    "--compression",
    type=click.Choice([one.value for one in Packing]),
    default=Packing.ZSTD.value,
    show_default=True,
    help="Compression of assembled layers; gzip for clients that cannot read zstd.",
)
@click.option("--largest-layer", metavar="SIZE", help="Split larger layers, for registries with a limit: 500MB, 8GB.")
@click.option("--layers", type=click.Path(path_type=Path), help="Folder of layers.  [env: ASSAY_LAYERS]")
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
    part: str | None,
    on: str | None,
    **given: Any,
) -> int:
    """Audit and build the selected cells; skip images that exist.

    Images are assembled from the wheels of their locks where possible, with the same digest on every machine; BuildKit
    builds the others. Images go into the local engine; with --push, --on or --output no engine is needed.

    Without SELECT, the default group of matrix.yaml is built. An image is skipped if its content key is unchanged: the
    Dockerfile, lock, base and tools. A cell whose audit finds errors is refused. Logs, and a script that repeats the
    build, are in build_logs/<run>/<cell>/.
    """
    from assay.cli.build_route import BuildRoute
    from assay.cli.composition import build_options, build_ports, engine
    from assay.cli.pool_composition import build_registry, pool_room
    from assay.matrix.plan import shard
    from assay.pipeline.build import build
    from assay.pipeline.build_jobs import BuildOptions, is_stale, prepare, without_refusals
    from assay.pipeline.cell_files import locked_cells
    from assay.pipeline.disk import check_disk

    files, plan = load(project)
    cells = [cell for cell in plan.select(select, default=True) if cell.kind != "external"]
    if part:
        cells = shard(cells, part)
    if no_audit:
        chosen, cells = cells, without_refusals(cells)
        if len(cells) < len(chosen):
            console.say(f"controls that only the audit can refuse are skipped: {len(chosen) - len(cells)}")
    registry = build_registry(files, on) if on else None
    route = BuildRoute.of(images=len(cells), on=on, registry=registry, **given)
    images = engine()
    with BuildProgress(len(cells)) as progress:
        ports = build_ports(files, plan, images, progress, route=route, patience=patience, audit=not no_audit)
        prepared = prepare(locked_cells(files, cells), ports, force=force)
        if dry_run:
            return _dry_run(prepared, ports.assembly, form)
        stale = any(is_stale(item) for item in prepared)
        if stale and (warning := check_disk(prepared, ports.space())):
            console.warn(warning)
        here = build_options(files) if stale else BuildOptions()
        spread = pool_room(files, on) if on else 0
        options = replace(here, jobs=jobs, fail_fast=fail_fast, force=force, timeout=timeout, spread=spread)
        records = {record.cell: record for record in build(prepared, ports, options)}
    return _result(cells, records, files, form)


def build_cells(files: ProjectFiles, plan: Plan, cells: Sequence[Cell]) -> int:
    """Audit and build cells as `assay build` does without options, and return its exit code."""
    from assay.cli.composition import build_options, build_ports, engine
    from assay.pipeline.build import build
    from assay.pipeline.build_jobs import prepare
    from assay.pipeline.cell_files import locked_cells

    with BuildProgress(len(cells)) as progress:
        ports = build_ports(files, plan, engine(), progress)
        prepared = prepare(locked_cells(files, cells), ports)
        records = {record.cell: record for record in build(prepared, ports, build_options(files))}
    return _result(cells, records, files, "text", following=False)


def _dry_run(prepared: Sequence[BuildItem], assembly: Assembly | None, form: str) -> int:
    from assay.pipeline.build import THERE
    from assay.pipeline.build_jobs import PreparedBuild
    from assay.pipeline.documents import BuildForecast, BuildPlanDocument

    def forecast(item: BuildItem) -> BuildForecast:
        if not isinstance(item, PreparedBuild):
            reason = item.unresolved or "there is no lock: run `assay lock`"
            return BuildForecast(cell=item.cell.id, action="refused", reason=reason, way=None, digest=None)
        return BuildForecast(
            cell=item.cell.id,
            action="cached" if item.stale is None else "build",
            reason=THERE if item.stale is None else item.stale,
            way="assemble" if item.assembled else "buildkit",
            digest=assembly.digest(item.dockerfile, item.labels) if assembly and item.assembled else None,
        )

    rows = tuple(map(forecast, prepared))
    if form == "json":
        console.document(BuildPlanDocument(cells=rows))
        return 0
    header = ("cell", "would be", "because", "by", "digest")
    cells = ((row.cell, row.action, row.reason, row.way or "", (row.digest or "")[:19]) for row in rows)
    console.data_table(header, cells)
    return 0


def _result(
    cells: Sequence[Cell], records: Mapping[str, BuildRecord], files: ProjectFiles, form: str, *, following: bool = True
) -> int:
    from assay.evidence.record import BuildStatus
    from assay.pipeline.build_records import GOOD, exit_code

    code = exit_code(cells, records)
    if form == "json":
        from assay.pipeline.documents import BuildDocument

        console.document(BuildDocument(records=tuple(records.values()), exit_code=code))
    explained: dict[str, list[str]] = {}
    for cell in cells:
        record = records[cell.id]
        if cell.kind == "control":
            _control(cell, record)
        elif record.status not in GOOD:
            # Where no builder answers, all that were left have the same reason, and no log.
            if record.log is None and record.reason in explained:
                explained[record.reason].append(record.cell)
                continue
            explained[record.reason] = []
            _explain(record, files)
    for same in filter(None, explained.values()):
        console.say(f"\n{len(same)} more for the same reasons: {', '.join(same)}")
    counts = {status: sum(record.status is status for record in records.values()) for status in BuildStatus}
    console.say(", ".join(f"{count} {status.value}" for status, count in counts.items() if count) or "nothing to do")
    if following and any(record.status is BuildStatus.BUILT for record in records.values()):
        console.say("next: `assay report`, then `nox -s probe -- <image>` on a machine with the GPU")
    return code


def _control(cell: Cell, record: BuildRecord) -> None:
    from assay.pipeline.build_records import as_expected

    expected = as_expected(cell, record)
    words = "failed as expected" if expected else "DID NOT FAIL AS EXPECTED"
    if expected and cell.expect is not None and cell.expect.stage == "probe":
        words = "built; its probe is expected to fail"
    console.say(f"control {cell.id}: {words} ({cell.expect.cause if cell.expect else ''})")


def _explain(record: BuildRecord, files: ProjectFiles) -> None:
    console.say(f"\n{record.status.value}: {record.cell}")
    if record.cause:
        console.say(f"  cause: {record.cause}")
    for line in record.reason.splitlines():
        console.say(f"  {line}")
    if record.log:
        log = files.root / "build_logs" / record.log
        console.say(f"  log: {log}")
        console.say(f"  repeat by hand: {log.parent / 'repeat.sh'}")
