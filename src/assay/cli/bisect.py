"""`assay bisect`: the first version on an axis in which a feature is bad."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from assay import console
from assay.adapters.store import FileStore, write_whole
from assay.bisect import Answer, State, Trial, remaining
from assay.cli.common import format_option, load, project_option
from assay.digest import digest_of
from assay.errors import StoreError
from assay.flows.bisect import Line, known, line_between, nights_between, resume, run, trial_of

__all__ = ["command"]

_MOST_SHOWN = 40


@click.command("bisect")
@click.option("--feature", required=True, help="The feature that got bad.")
@click.option("--good", required=True, metavar="CELL", help="A cell in which it works.")
@click.option("--bad", required=True, metavar="CELL", help="A cell in which it does not.")
@click.option("--target", default="", help="Only results of this architecture count.")
@click.option("--dry-run", is_flag=True, help="Say what is known and what would be tested next; test nothing.")
@click.option("--restart", is_flag=True, help="Forget an interrupted bisection; records are kept.")
@project_option
@format_option("text", "json")
def command(
    *, feature: str, good: str, bad: str, target: str, project: Path | None, form: str, dry_run: bool, restart: bool
) -> int:
    """Walk the versions between two cells that differ in one axis: build, audit and probe as few as can be.

    Records that exist are used. A cell that the audit refuses or that does not build is skipped as git bisect does. The
    state is kept after each cell; the same command goes on after an interruption.

    Exit code 0: the first bad version is known. 1: versions that cannot be tested stand before it.
    """
    files, plan = load(project)
    [first], [last] = plan.select([good]), plan.select([bad])
    order = {axis: [value.id for value in found.values] for axis, found in plan.project.matrix.axes.items()}
    line = line_between(plan.cells, first, last, order)
    store = FileStore(files.root / "build_logs")
    key = digest_of([feature, target, line.axis, line.versions])[7:23]
    path = store.root / "bisect" / f"{key}.json"
    saved = path.read_bytes() if path.is_file() and not restart else None
    state = resume(saved, line, known(line, list(store.records()), feature, target), source=str(path))
    console.say(
        f"{feature} along {line.axis}: {len(line.versions)} versions, {len(state.trials)} known, "
        f"at most {remaining(state)} to test if none has to be skipped"
    )
    _tell_missing(line)
    if dry_run:
        return _tell(state, line, None, form)
    state, found = run(
        state,
        line,
        test=lambda cell: _test(cell, feature, target, project, store),
        keep=lambda data: write_whole(path, data),
        said=lambda version, trial, now: console.say(f"{version}: {trial}; at most {remaining(now)} left"),
    )
    return _tell(state, line, found, form)


def _tell_missing(line: Line) -> None:
    missing = nights_between(line)
    if not missing:
        return
    console.say(
        f"{len(missing)} nights between the two are not in the matrix; to walk them too, add them to axes.{line.axis} "
        "of matrix.yaml and to the image:"
    )
    for value in missing[:_MOST_SHOWN]:
        fields = value.model_dump(exclude_none=True, exclude_defaults=True)
        console.say("  - {" + ", ".join(f'{name}: "{text}"' for name, text in fields.items()) + "}")
    if len(missing) > _MOST_SHOWN:
        console.say(f"  ... and {len(missing) - _MOST_SHOWN} more")


def _test(cell: str, feature: str, target: str, project: Path | None, store: FileStore) -> Trial:
    """Lock, build, audit and probe one cell with the commands that do so, and read what they recorded."""
    from assay.cli import main  # noqa: PLC0415 - the table of commands imports this module

    where = ["--project", str(project)] if project else []
    before = {(record.created, record.kind) for record in store.records()}

    def step(*words: str) -> Trial | None:
        # Their tables are for people here; stdout is for the answer.
        with contextlib.redirect_stdout(sys.stderr):
            code = main([*words, *where])
        if code not in {0, 1}:
            raise StoreError(
                f"{cell} could not be tested: `assay {' '.join(words)}` ended with code {code}",
                hint="mend what it said above, then run the same bisect again; it goes on from here",
            )
        news = [record for record in store.records() if (record.created, record.kind) not in before]
        return trial_of(news, cell, feature, target)

    step("lock", cell)
    if step("build", cell) is Trial.SKIP:
        return Trial.SKIP
    # Nothing was measured because it is recorded already: older records count too.
    return step("probe", cell, "--feature", feature) or trial_of(store.records(), cell, feature, target) or Trial.SKIP


def _tell(state: State, line: Line, found: Answer | None, form: str) -> int:
    if form == "json":
        console.json_data(
            {
                "version": 1,
                "axis": line.axis,
                "state": state.model_dump(mode="json"),
                "answer": found.model_dump(mode="json") if found else None,
            }
        )
    elif found is None:
        for version, trial in state.trials.items():
            console.data(f"{version}: {trial}")
    elif found.first_bad:
        console.data(f"first bad: {line.axis} {found.first_bad} ({line.cells[found.first_bad].id})")
        console.data(f"last good: {line.axis} {found.last_good} ({line.cells[found.last_good].id})")
    else:
        console.data(f"the first bad {line.axis} is one of {', '.join(found.candidates)}; these could not be tested:")
        console.data(", ".join(found.skipped))
        console.data(f"last good: {line.axis} {found.last_good} ({line.cells[found.last_good].id})")
    return int(found is not None and found.first_bad is None)
