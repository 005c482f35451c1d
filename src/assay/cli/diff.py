"""`assay diff A B`: what changed between two runs, cells or tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from assay import console, lockfile
from assay.adapters.project_files import find_root
from assay.adapters.store import FileStore
from assay.cli.common import format_option, load, project_option
from assay.diff import Change, Direction, Side, changes, side
from assay.errors import AssayError, ConfigError, UsageError
from assay.nearest import suggestion
from assay.record import AnyRecord, BuildRecord

__all__ = ["command"]


@click.command("diff")
@click.argument("before")
@click.argument("after")
@project_option
@format_option("text", "json", "markdown")
@click.option("--tolerance", default=5.0, show_default=True, help="Percent by which sizes and speeds may differ.")
@click.option("--only", type=click.Choice([str(d) for d in Direction]), multiple=True, help="Show only these.")
def command(
    before: str, after: str, *, project: Path | None, form: str, tolerance: float, only: tuple[str, ...]
) -> int:
    """Compare two runs (names in build_logs/), two cells, or two tags, references or digests of images.

    Exit code 1 if anything got worse.
    """
    root = project or find_root()
    records = list(FileStore(root / "build_logs").records())
    locks = _locks(project)
    sides = [_side(name, records, locks, root, pair=(before, after)) for name in (before, after)]
    found = changes(sides[0], sides[1], tolerance=tolerance / 100)
    shown = [change for change in found if not only or str(change.direction) in only]
    worse = sum(change.direction is Direction.REGRESSION for change in found)
    if form == "json":
        document = [change.model_dump(mode="json") for change in shown]
        console.json_data({"version": 1, "before": before, "after": after, "changes": document})
    elif form == "markdown":
        console.data(_markdown(shown, before, after))
    elif shown:
        rows = [(c.direction, c.cell, c.what, c.before, c.after, c.note) for c in shown]
        console.data_table(("", "cell", "what", "before", "after", "note"), rows)
    console.say(f"{len(found)} differences, {worse} for the worse")
    return 1 if worse else 0


def _side(
    name: str,
    records: Sequence[AnyRecord],
    locks: Mapping[str, Mapping[str, str]],
    root: Path,
    *,
    pair: tuple[str, str],
) -> Side:
    runs = {record.run for record in records}
    cells = {record.cell for record in records} | set(locks)
    if name in runs:
        mine = [record for record in records if record.run == name]
        versions = {record.cell: found for record in mine if (found := _lock_of_run(root, name, record.cell))}
        return side(name, mine, versions=versions)
    if name in cells:
        mine = [record for record in records if record.cell == name]
        versions = {name: locks[name]} if name in locks else {}
        # Two different cells are compared with each other, two words for the same one as they are.
        return side(name, mine, versions=versions, one=" / ".join(dict.fromkeys(pair)))
    digests = {
        record.image_digest
        for record in records
        if record.image_digest
        and (record.image_digest.startswith(name) or (isinstance(record, BuildRecord) and _tagged(record, name)))
    }
    mine = [record for record in records if record.image_digest in digests]
    if not mine:
        known = [*sorted(runs), *sorted(cells)]
        raise UsageError(
            f"{name!r} is no run, cell, tag or digest of which there are records{suggestion(name, known)}",
            hint="`assay plan` lists the cells; the runs are the folders of build_logs/",
        )
    versions = {record.cell: locks[record.cell] for record in mine[-1:] if record.cell in locks}
    return side(name, mine, versions=versions, one=" / ".join(dict.fromkeys(pair)))


def _tagged(record: BuildRecord, name: str) -> bool:
    return any(tag == name or tag.rsplit("/", 1)[-1] == name or tag.rsplit(":", 1)[-1] == name for tag in record.tags)


def _versions(text: str, file: str) -> Mapping[str, str]:
    try:
        return {wheel.name: wheel.version for wheel in lockfile.parse(text, file=file).wheels}
    except ConfigError as error:
        console.warn(f"a lock was passed over: {error.message}")
        return {}


def _locks(project: Path | None) -> Mapping[str, Mapping[str, str]]:
    try:
        files, plan = load(project)
    except AssayError as error:
        console.warn(f"the matrix cannot be read, so locks are not compared: {error.message}")
        return {}
    found: dict[str, Mapping[str, str]] = {}
    for cell in plan.cells:
        path = files.root / "images" / cell.image / "cells" / cell.id / "lock.txt"
        if path.is_file():
            found[cell.id] = _versions(path.read_text(), str(path.relative_to(files.root)))
    return found


def _lock_of_run(root: Path, run: str, cell: str) -> Mapping[str, str]:
    path = root / "build_logs" / run / cell / "lock.txt"
    return _versions(path.read_text(), str(path.relative_to(root))) if path.is_file() else {}


def _markdown(found: Sequence[Change], before: str, after: str) -> str:
    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    head = [f"Changes from `{before}` to `{after}`", "", "| | cell | what | before | after | note |", "|-|-|-|-|-|-|"]
    rows = [
        f"| {c.direction} | {cell(c.cell)} | {cell(c.what)} | {cell(c.before)} | {cell(c.after)} | {cell(c.note)} |"
        for c in found
    ]
    return "\n".join([*head, *rows])
