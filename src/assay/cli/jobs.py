"""`assay jobs`: what runs on pools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from assay.cli import console
from assay.cli.common import format_option, load_or_example, project_option
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.pipeline.documents import JobRow

__all__ = ["command"]

_EVERY_SECONDS: Final = 5.0


@click.command("jobs")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@project_option
@format_option("text", "json")
@click.option("--all", "everything", is_flag=True, help="Also show finished jobs.")
@click.option("--watch", is_flag=True, help="Refresh every 5 seconds until all jobs are finished.")
def command(runs: tuple[str, ...], project: Path | None, form: str, *, everything: bool, watch: bool) -> int:
    """List the jobs of runs on pools: the finished ones, and the pool's status of the others.

    Only `assay collect` and `assay probe --on` record results.
    """
    files, _ = load_or_example(project)
    while True:
        rows = [row for run in _runs(files, runs) for row in _rows(files, run)]
        open_rows = [row for row in rows if row.state != "done"]
        if watch and form == "text":
            click.clear()
        _show(rows if everything else open_rows, len(rows) - len(open_rows), form)
        if not (watch and open_rows):
            return 0
        time.sleep(_EVERY_SECONDS)


def _runs(files: ProjectFiles, named: tuple[str, ...]) -> list[str]:
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of

    return list(named) or PoolRuns(store_of(files).root).names()


def _rows(files: ProjectFiles, run: str) -> list[JobRow]:
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of
    from assay.cli.pool_composition import probe_pool
    from assay.cli.pooled import coordinating
    from assay.pipeline.documents import JobRow

    plan = PoolRuns(store_of(files).root).plan(run)
    said = ""
    with coordinating(files, plan, probe_pool(files, plan.pool)) as coordinator:
        try:
            states = coordinator.states()
        except AssayError as error:
            states, said = {}, error.message
    rows = []
    for item in plan.jobs:
        state = states.get(item.key)
        rows.append(
            JobRow(
                run=run,
                pool=plan.pool,
                cell=item.cell,
                gpu=item.job.devices.model,
                state="done" if coordinator.is_done(item.key) else (state.phase.value if state else "unknown"),
                node=state.where if state else "",
                said=state.said if state else said,
            )
        )
    return rows


def _show(rows: list[JobRow], done: int, form: str) -> None:
    if form == "json":
        from assay.pipeline.documents import JobsDocument

        console.document(JobsDocument(jobs=tuple(rows)))
        return
    if rows:
        columns = ("run", "cell", "gpu", "state", "node", "said")
        console.data_table(columns, [tuple(getattr(row, column) for column in columns) for row in rows])
    console.say(f"{done} done, {sum(row.state != 'done' for row in rows)} open")
