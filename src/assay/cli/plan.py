"""`assay plan`: every cell, and every excluded one with the rule and the reason. No engine, no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, platform_option, project_option, select_argument

if TYPE_CHECKING:
    from assay.matrix.cell import Cell, Excluded
    from assay.matrix.plan_document import PlanDocument

__all__ = ["command"]


@click.command("plan")
@select_argument
@project_option
@platform_option
@format_option("text", "json", "ids", "github-matrix")
@click.option("--excluded", is_flag=True, help="Show only excluded cells, with their reasons.")
@click.option("--shard", "part", metavar="I/N", help="Take every N-th cell, starting with the I-th.")
def command(
    select: tuple[str, ...],
    project: Path | None,
    platform: tuple[str, ...],
    form: str,
    *,
    excluded: bool,
    part: str | None,
) -> int:
    """List the cells of the matrix, and the excluded ones with the rule and the reason.

    SELECT is an image, a group, a glob over cell ids, `axis=value`, `'axis>=version'`, or `'!...'` to exclude any of
    these. Without SELECT, all cells are listed.
    """
    from assay.matrix.plan import shard

    _, plan = load(project)
    select += platform
    cells = [] if excluded and not select else plan.select(select)
    if part:
        cells = shard(cells, part)
    left_out = [item for item in plan.excluded if not select or item.image in {cell.image for cell in cells}]
    if excluded:
        cells = []
    if form == "ids":
        console.data("\n".join(cell.id for cell in cells))
    elif form == "github-matrix":
        include = [{"cell": cell.id, "image": cell.image, "kind": cell.kind} for cell in cells]
        console.data(json.dumps({"include": include}))
    elif form == "json":
        console.document(_document(cells, left_out), sparse=True)
    else:
        _text(cells, left_out)
    return 0


def _document(cells: Sequence[Cell], left_out: Sequence[Excluded]) -> PlanDocument:
    from assay.matrix.plan_document import PlanDocument, PlannedCell

    planned = tuple(PlannedCell.model_validate(dict(cell)) for cell in cells)
    return PlanDocument(version=1, cells=planned, excluded=tuple(left_out))


def _text(cells: Sequence[Cell], left_out: Sequence[Excluded]) -> None:
    if cells:
        rows = [
            (cell.id, cell.kind, " ".join(cell.targets), cell.base or "-", cell.expect.cause if cell.expect else "")
            for cell in cells
        ]
        console.data_table(("cell", "kind", "targets", "base", "must fail by"), rows)
    if left_out:
        console.data_table(
            ("excluded", "rule", "reason"), [(item.id, item.rule, item.reason) for item in left_out], title="left out"
        )
    console.say(f"{len(cells)} cells, {len(left_out)} excluded")
