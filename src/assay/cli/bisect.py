"""`assay bisect`: the first version on an axis in which a feature is bad."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import click
from packaging.utils import canonicalize_name

from assay.adapters.executors.probe_suite import find_suite, load_suite
from assay.adapters.files.kept_records import intact_records
from assay.adapters.files.project import ProjectFiles, write_text
from assay.adapters.files.records import FileStore, write_whole
from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.cli.targets import GPU
from assay.cli.world import index_versions
from assay.errors import EngineError, PackageIndexError, StoreError, UsageError
from assay.evidence import suite as probes
from assay.foundation.digest import digest_of
from assay.foundation.nearest import suggestion
from assay.matrix.between import texts
from assay.matrix.bisection import Answer, SearchState, Trial, remaining
from assay.matrix.cell import Cell
from assay.matrix.plan import Plan
from assay.pipeline.bisect import STAGES, Walk, known, resume, run, saved_state, trial_of, walk
from assay.pipeline.lock import LockStatus

__all__ = ["command"]

_LINKED = ("templates", "probes", "knowledge", "build_logs")
"""What the commands that test a cell need of the project beside matrix.yaml and the image."""
_MOST_SHOWN = 10
_AGAIN = "mend that, then run the same bisect again; it goes on from here"


@click.command("bisect")
@click.option("--feature", required=True, help=f"Feature that fails, or a stage: {', '.join(STAGES)}.")
@click.option("--good", required=True, metavar="CELL", help="Cell in which the feature works.")
@click.option("--bad", required=True, metavar="CELL", help="Cell in which it does not work.")
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

    Exit code 0: the first bad version is known. 1: untestable versions stand before it.
    """
    files, plan = load(project)
    first, last = _cell(plan, good), _cell(plan, bad)
    store = FileStore(files.root / "build_logs")
    records = intact_records(files.root)
    _check(feature, files, {name for record in records for name in getattr(record, "features", ())})
    folder = store.root / "bisect" / digest_of([feature, target, first.id, last.id, all_versions])[7:23]
    path = folder / "state.json"
    saved = saved_state(path.read_bytes() if path.is_file() and not restart else None, source=str(path))
    made = walk(
        plan,
        first,
        last,
        versions=index_versions,
        night_of=_nights_of(files, (first, last)),
        all_versions=all_versions,
        told={record.cell for record in records},
    )
    state = resume(saved, made.line, known(made.line, records, feature, target))
    _tell_line(made, state, feature)
    if dry_run:
        return _tell(state, made, None, form, folder)
    with store.claim(f"bisect {folder.name}") as mine:
        if not mine:
            raise StoreError(f"the same bisection runs already (state: {path})", hint="wait for it, or stop it")
        scratch = _scratch(files, made, folder / "project")
        state, found = run(
            state,
            made.line,
            test=lambda cell: _test(cell, feature=feature, target=target, scratch=scratch, made=made, store=store),
            keep=lambda data: write_whole(path, data),
            said=lambda version, trial, now: console.say(f"{version}: {trial}; at most {remaining(now)} left"),
        )
    return _tell(state, made, found, form, folder)


def _cell(plan: Plan, word: str) -> Cell:
    found = plan.select([word])
    if len(found) != 1:
        raise UsageError(
            f"{word!r} means {len(found)} cells; an end of a bisection is one", hint="`assay plan` lists them"
        )
    return found[0]


def _check(feature: str, files: ProjectFiles, recorded: set[str]) -> None:
    """Refuse a feature that no probe and no record knows, before anything is built for it."""
    suite = load_suite(find_suite(files.root))
    programs = {path: data.decode() for path, data in suite.items() if path.startswith("features/")}
    names = {*probes.declarations(programs), *recorded, *STAGES}
    if feature not in names:
        raise UsageError(
            f"there is no probe {feature!r}{suggestion(feature, names)}",
            hint=f"`assay probe --list` names all probes; the stages are {', '.join(STAGES)}",
        )


def _nights_of(files: ProjectFiles, ends: tuple[Cell, Cell]) -> dict[str, str]:
    """Return the night to which each `latest` value of the ends is locked."""
    found: dict[str, str] = {}
    for cell in ends:
        lock = files.lock(cell)
        for axis, value in cell.point.items():
            night = lock.nightlies.get(canonicalize_name(axis)) if lock and value.date == "latest" else None
            if night is not None:
                found[value.id] = f"{night[:4]}-{night[4:6]}-{night[6:8]}"
    return found


def _scratch(files: ProjectFiles, made: Walk, root: Path) -> ProjectFiles:
    """Write the project of the line: its own matrix, image and locks; all else is the project's own, by links."""
    for relative, text in texts(made.project).items():
        write_text(root / relative, text)
    for name in _LINKED:
        link, meant = root / name, (files.root / name).resolve()
        if name == "build_logs" or meant.is_dir():
            link.unlink(missing_ok=True)
            link.symlink_to(meant, target_is_directory=True)
    scratch = ProjectFiles(root)
    for cell in made.line.cells.values():
        # A committed lock counts: the image that it gave and what is recorded of it stay valid.
        if (committed := files.cell_file(cell, "lock.txt")) is not None:
            scratch.write_cell_file(cell, "lock.txt", committed)
    return scratch


def _tell_line(made: Walk, state: SearchState, feature: str) -> None:
    unnamed = f", {len(made.made)} of them not in matrix.yaml" if made.made else ""
    console.say(
        f"{feature} along {made.line.axis}: {len(made.line.versions)} versions{unnamed}, {len(state.trials)} known, "
        f"at most {remaining(state)} to test if none has to be skipped"
    )
    if made.gone:
        shown = ", ".join(made.gone[:_MOST_SHOWN]) + (", ..." if len(made.gone) > _MOST_SHOWN else "")
        console.say(f"the index has no build of {len(made.gone)} nights between: {shown}")
    for reason in sorted({f"{item.rule}: {item.reason}" for item in made.left_out}):
        console.say(f"left out of the line by {reason}")


def _run(scratch: ProjectFiles, *words: str) -> tuple[int, str]:
    """Run a command of assay on the scratch project; return its exit code and what it wrote to stdout.

    Raises:
        AssayError: the command could not do its work; that says nothing about the cell.
        Abort: Ctrl-C.
    """
    from assay.cli import main_inner  # noqa: PLC0415 - the table of commands imports this module

    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main_inner([*words, "--project", str(scratch.root)])
    if code not in {0, 1}:
        raise EngineError(f"`assay {' '.join(words)}` ended with code {code}", hint=_AGAIN)
    return code, said.getvalue()


def _test(cell: Cell, *, feature: str, target: str, scratch: ProjectFiles, made: Walk, store: FileStore) -> Trial:
    """Lock, build, audit and probe one cell with the commands that do so, and read what they recorded."""
    trial = _locked(cell, feature, scratch, made)
    if trial is not None:
        return trial
    before = {(record.created, record.kind) for record in store.records()}

    def step(*words: str) -> Trial | None:
        code, out = _run(scratch, *words)
        # Their tables are for people here; stdout is for the answer.
        console.say(out.rstrip("\n"))
        if words[0] == "build" and feature == "build" and code == 0:
            return Trial.GOOD
        news = [record for record in store.records() if (record.created, record.kind) not in before]
        return trial_of(news, cell.id, feature, target)

    if feature == "audit":
        return step("audit", cell.id) or Trial.SKIP
    built = step("build", cell.id)
    if feature == "build" or built is Trial.SKIP:
        return built or Trial.SKIP
    # Nothing was measured because it is recorded already: older records count too.
    measured = step("probe", cell.id, "--feature", feature)
    return measured or trial_of(store.records(), cell.id, feature, target) or Trial.SKIP


def _locked(cell: Cell, feature: str, scratch: ProjectFiles, made: Walk) -> Trial | None:
    """Lock a cell; return the trial where that decides it, None where there is a lock to build."""
    _, out = _run(scratch, "lock", cell.id, "--format", "json")
    result: dict[str, Any] = next(iter(json.loads(out)["locks"]))
    status = LockStatus(result["status"])
    if status is LockStatus.UNREACHABLE:
        raise PackageIndexError(f"{cell.id} cannot be locked: {result['explanation']}", hint=_AGAIN)
    lock = scratch.lock(cell)
    if lock is None:
        return Trial.BAD if feature == "lock" and status is LockStatus.CONFLICT else Trial.SKIP
    value = cell.point[made.line.axis]
    night = lock.nightlies.get(canonicalize_name(made.line.axis))
    if value in made.made and value.date and night != value.date.replace("-", ""):
        console.say(f"{cell.id}: the index has no build of {value.date} any more")
        return Trial.SKIP
    return Trial.GOOD if feature == "lock" else None


def _tell(state: SearchState, made: Walk, found: Answer | None, form: str, folder: Path) -> int:
    line = made.line
    if form == "json":
        console.json_data(
            {
                "version": 1,
                "axis": line.axis,
                "state": state.model_dump(mode="json"),
                "answer": found.model_dump(mode="json") if found else None,
            }
        )
        return int(found is not None and found.first_bad is None)
    if found is None:
        for version, trial in state.trials.items():
            console.data(f"{version}: {trial}")
        return 0
    if found.first_bad:
        console.data(f"first bad: {line.axis} {found.first_bad} ({line.cells[found.first_bad].id})")
    else:
        console.data(f"the first bad {line.axis} is one of {', '.join(found.candidates)}; these could not be tested:")
        console.data(", ".join(found.skipped))
    console.data(f"last good: {line.axis} {found.last_good} ({line.cells[found.last_good].id})")
    _tell_next(made, found, folder)
    return int(found.first_bad is None)


def _tell_next(made: Walk, found: Answer, folder: Path) -> None:
    """Say what else was not looked at, and how to see and to keep what was found."""
    line = made.line
    nights = [line.cells[version].point[line.axis].date for version in (found.last_good, found.candidates[0])]
    low, high = sorted(str(night) for night in nights)
    if between := [night for night in made.gone if low < night < high]:
        console.say(f"nights between these two that the index does not have: {', '.join(between)}")
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
