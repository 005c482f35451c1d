"""`assay collect`: the results of jobs that ran on pools become records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load_or_example, project_option
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import ProbeRecord

__all__ = ["command"]


@click.command("collect")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@project_option
@format_option("text", "json")
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Read results and logs from this folder instead of asking the pool.",
)
def command(runs: tuple[str, ...], project: Path | None, form: str, folder: Path | None) -> int:
    """Record the results of jobs on pools. Without RUN, collect all runs.

    Nothing is submitted or cancelled. Exit code 1: some jobs have no complete result yet.
    """
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of

    files, _ = load_or_example(project)
    known = PoolRuns(store_of(files).root)
    found: list[ProbeRecord] = []
    left = 0
    for run in runs or known.names():
        records, missing = _collected(files, run, folder)
        found += records
        left += missing
    if form == "json":
        from assay.pipeline.documents import CollectDocument

        console.document(CollectDocument(records=tuple(found), open=left))
    return int(left > 0)


def _collected(files: ProjectFiles, run: str, folder: Path | None) -> tuple[list[ProbeRecord], int]:
    from assay.adapters.files.found_results import FoundResults
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of
    from assay.cli.pool_composition import probe_pool
    from assay.cli.pooled import coordinating

    plan = PoolRuns(store_of(files).root).plan(run)
    pool = FoundResults(folder) if folder is not None else probe_pool(files, plan.pool)
    with coordinating(files, plan, pool) as coordinator:
        try:
            # What ended between the look at the states and that at the results is seen by the second one.
            coordinator.look(submit=False)
            coordinator.look(submit=False)
        except AssayError as error:
            console.warn(f"{run}: {error.message}")
    records = [end.record for end in coordinator.ends if end.record is not None]
    console.say(f"{run}: {len(records)} of {len(plan.jobs)} recorded, {coordinator.open} open")
    return records, coordinator.open
