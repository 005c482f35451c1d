"""`assay diff A B`: what changed between two runs, cells or tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.errors import AssayError
from assay.evidence.direction import Direction

if TYPE_CHECKING:
    from assay.adapters.files.records import FileStore
    from assay.evidence.diff import Change
    from assay.pipeline.diff import LockedVersions

__all__ = ["command"]


@click.command("diff")
@click.argument("before")
@click.argument("after")
@project_option
@format_option("text", "json", "markdown")
@click.option(
    "--tolerance", default=5.0, show_default=True, help="Ignore differences in size and speed below this percentage."
)
@click.option(
    "--only", type=click.Choice([str(d) for d in Direction]), multiple=True, help="Show only these kinds of change."
)
def command(
    before: str, after: str, *, project: Path | None, form: str, tolerance: float, only: tuple[str, ...]
) -> int:
    """Compare two runs (in build_logs/ or docs/records/), two cells, or two images by tag, reference or digest.

    If one side is a run and the other a cell or an image, only that cell is compared. Exit code 1 if anything got
    worse.
    """
    from assay.adapters.files.kept_records import intact_records
    from assay.adapters.files.project import find_root
    from assay.adapters.files.records import FileStore
    from assay.evidence.diff import DiffDocument, changes
    from assay.pipeline.diff import sides

    root = project or find_root()
    store = FileStore(root / "build_logs")
    records = intact_records(root)
    locks = _locks(store, project)
    old, new = sides(before, after, records, locks)
    if locks.missing:
        few = "1 lock is" if len(locks.missing) == 1 else f"{len(locks.missing)} locks are"
        console.warn(
            f"{few} neither committed nor in build_logs/documents/, so versions of "
            f"{', '.join(sorted(locks.missing)[:3])}{', ...' if len(locks.missing) > 3 else ''} are not compared"
        )
    found = changes(old, new, tolerance=tolerance / 100)
    shown = [change for change in found if not only or str(change.direction) in only]
    worse = sum(change.direction is Direction.REGRESSION for change in found)
    if form == "json":
        console.document(DiffDocument(before=before, after=after, changes=tuple(shown)))
    elif form == "markdown":
        console.data(_markdown(shown, before, after))
    elif shown:
        rows = [(c.direction, c.cell, c.what, _short(c.before), _short(c.after), c.note) for c in shown]
        console.data_table(("", "cell", "what", "before", "after", "note"), rows)
    console.say(f"{len(found)} differences, {worse} for the worse")
    return 1 if worse else 0


def _locks(store: FileStore, project: Path | None) -> LockedVersions:
    """Return the locks of the project's cells and of records."""
    from assay.pipeline.diff import LockedVersions

    committed: dict[str, str] = {}
    try:
        files, plan = load(project)
        committed = {cell.id: text for cell in plan.cells if (text := files.cell_file(cell, "lock.txt")) is not None}
    except AssayError as error:
        console.warn(f"the matrix cannot be read, so committed locks are not compared: {error.message}")
    return LockedVersions(committed, document=store.document, warn=console.warn)


def _short(text: str) -> str:
    """Return a digest as people tell digests apart; JSON has them whole."""
    return text[:19] + "…" if text.startswith("sha256:") else text


def _markdown(found: Sequence[Change], before: str, after: str) -> str:
    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    head = [f"Changes from `{before}` to `{after}`", "", "| | cell | what | before | after | note |", "|-|-|-|-|-|-|"]
    rows = [
        f"| {c.direction} | {cell(c.cell)} | {cell(c.what)} | {cell(c.before)} | {cell(c.after)} | {cell(c.note)} |"
        for c in found
    ]
    return "\n".join([*head, *rows])
