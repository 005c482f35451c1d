"""`assay bisect`: the first version on an axis in which a feature is bad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.cli.lock import tell
from assay.cli.targets import GPU
from assay.errors import StoreError
from assay.foundation.digest import digest_of

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import AnyRecord
    from assay.matrix.bisection import Answer, SearchState
    from assay.pipeline.bisect import BisectQuestion
    from assay.pipeline.bisect_line import Walk

__all__ = ["command"]

_MOST_SHOWN = 10


@click.command("bisect")
@click.option("--feature", required=True, help="Feature that fails, or a stage: lock, audit, build.")
@click.option("--good", required=True, metavar="CELL", help="Cell in which the feature works.")
@click.option("--bad", required=True, metavar="CELL", help="Cell in which the feature fails.")
@click.option("--target", type=GPU, default="", metavar="GPU", help="Use only results from this GPU.")
@click.option("--all-versions", is_flag=True, help="Include releases that matrix.yaml does not list.")
@click.option("--dry-run", is_flag=True, help="Show known results and the next cell to test; test nothing.")
@click.option("--restart", is_flag=True, help="Discard the state of an interrupted bisection; keep its records.")
@project_option
@format_option("text", "json")
def command(
    *,
    feature: str,
    good: str,
    bad: str,
    target: str,
    all_versions: bool,
    project: Path | None,
    form: str,
    dry_run: bool,
    restart: bool,
) -> int:
    """Find the first version that fails between two cells that differ in one axis.

    Each step locks, audits, builds and probes one cell. Existing records are reused. Between two nightlies, every
    nightly that the index offers is a candidate. A cell that cannot be tested is skipped, as git bisect does. The state
    is saved after each cell: run the same command again to resume. Files are kept in build_logs/bisect/.

    Exit code 0: the first bad version is known. 1: some versions before it could not be tested.
    """
    from assay.adapters.files.kept_records import intact_records
    from assay.cli.composition import index_versions, store_of
    from assay.pipeline.bisect import BisectQuestion, known, resume, saved_state
    from assay.pipeline.bisect_line import end_of, nights_of, walk
    from assay.pipeline.cell_files import locked_cells

    files, plan = load(project)
    question = BisectQuestion(feature=feature, target=target)
    ends = first, last = end_of(plan, good), end_of(plan, bad)
    store = store_of(files)
    records = intact_records(files.root)
    _check(feature, files, records)
    folder = store.root / "bisect" / digest_of([feature, target, first.id, last.id, all_versions])[7:23]
    path = folder / "state.json"
    saved = saved_state(path.read_bytes() if path.is_file() and not restart else None, source=str(path))
    made = walk(
        plan,
        first,
        last,
        versions=index_versions,
        night_of=nights_of(locked_cells(files, ends)),
        all_versions=all_versions,
        told={record.cell for record in records},
    )
    state = resume(saved, made.line, known(made.line, records, feature, target))
    _tell_line(made, state, feature)
    if dry_run:
        return _tell(state, made, None, form, folder)
    with store.claim(f"bisect {folder.name}") as mine:
        if not mine:
            raise StoreError(f"the same bisection is already running (state: {path})", hint="wait for it, or stop it")
        state, found = _search(files, made, state, question, folder)
    return _tell(state, made, found, form, folder)


def _search(
    files: ProjectFiles, made: Walk, state: SearchState, question: BisectQuestion, folder: Path
) -> tuple[SearchState, Answer | None]:
    """Test versions until the first bad one is known; the state is kept after each."""
    from assay.adapters.files.records import write_whole
    from assay.adapters.files.scratch import scratch_project
    from assay.cli.composition import bisect_ports
    from assay.matrix.between import texts
    from assay.matrix.bisection import remaining
    from assay.pipeline.bisect import run, try_cell

    scratch = scratch_project(folder / "project", files, texts(made.project), made.line.cells.values())
    ports = bisect_ports(scratch, made.project, tell=tell, say=console.say)
    return run(
        state,
        made.line,
        test=lambda cell: try_cell(cell, made, question, ports),
        keep=lambda data: write_whole(folder / "state.json", data),
        said=lambda version, trial, now: console.say(f"{version}: {trial}; at most {remaining(now)} left"),
    )


def _check(feature: str, files: ProjectFiles, records: Sequence[AnyRecord]) -> None:
    """Refuse a feature that has no probe and no record."""
    from assay.cli.probe_composition import probe_programs
    from assay.pipeline.bisect import check_feature

    recorded = {name for record in records for name in getattr(record, "features", ())}
    check_feature(feature, probe_programs(files), recorded)


def _tell_line(made: Walk, state: SearchState, feature: str) -> None:
    from assay.matrix.bisection import remaining

    unnamed = f", {len(made.made)} of them not in matrix.yaml" if made.made else ""
    console.say(
        f"{feature} along {made.line.axis}: {len(made.line.versions)} versions{unnamed}, {len(state.trials)} known, "
        f"at most {remaining(state)} to test if none has to be skipped"
    )
    if made.gone:
        shown = ", ".join(made.gone[:_MOST_SHOWN]) + (", ..." if len(made.gone) > _MOST_SHOWN else "")
        console.say(f"the index has no build of {len(made.gone)} nightlies between: {shown}")
    for reason in sorted({f"{item.rule}: {item.reason}" for item in made.left_out}):
        console.say(f"not part of the bisection: {reason}")


def _tell(state: SearchState, made: Walk, found: Answer | None, form: str, folder: Path) -> int:
    line = made.line
    if form == "json":
        from assay.matrix.bisection import BisectDocument

        console.document(BisectDocument(axis=line.axis, state=state, answer=found))
        return int(found is not None and found.first_bad is None)
    if found is None:
        for version, trial in state.trials.items():
            console.paragraphs(f"{version}: {trial}")
        return 0
    if found.first_bad:
        console.paragraphs(f"first bad: {line.axis} {found.first_bad} ({line.cells[found.first_bad].id})")
    else:
        console.paragraphs(
            f"the first bad {line.axis} is one of {', '.join(found.candidates)}; these could not be tested:"
        )
        console.paragraphs(", ".join(found.skipped))
    console.paragraphs(f"last good: {line.axis} {found.last_good} ({line.cells[found.last_good].id})")
    _tell_next(made, found, folder)
    return int(found.first_bad is None)


def _tell_next(made: Walk, found: Answer, folder: Path) -> None:
    """Say what else was not looked at, and how to see and to keep what was found."""
    from assay.adapters.files.project import ProjectFiles

    line = made.line
    nights = [line.cells[version].point[line.axis].date for version in (found.last_good, found.candidates[0])]
    low, high = sorted(str(night) for night in nights)
    if between := [night for night in made.gone if low < night < high]:
        console.say(f"nightlies between these two that the index does not have: {', '.join(between)}")
    if not found.first_bad:
        return
    ends = [line.cells[version] for version in (found.last_good, found.first_bad)]
    scratch = ProjectFiles(folder / "project")
    if all(scratch.cell_file(cell, "lock.txt") for cell in ends):
        console.say(f"what changed: assay diff {ends[0].id} {ends[1].id} --project {scratch.root}")
    unnamed = [value for value in made.made if value.id in {found.last_good, found.first_bad}]
    if unnamed:
        console.say(
            f"to keep them, add to axes.{line.axis} of matrix.yaml and to the image (locks: {folder}/project/images/):"
        )
    for value in unnamed:
        fields = value.model_dump(exclude_none=True, exclude_defaults=True)
        console.say("  - {" + ", ".join(f'{name}: "{text}"' for name, text in fields.items()) + "}")
