"""`assay doctor`: check this machine and suggest fixes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.matrix.model import Matrix
    from assay.pipeline.doctor import Check, Needs

__all__ = ["command"]


@click.command("doctor")
@click.option(
    "--need",
    type=click.Choice(["engine", "gpu"]),
    default="engine",
    show_default=True,
    help="What this machine must have.",
)
@click.option("--pools", is_flag=True, help="Check the pools of pools.yaml instead of this machine.")
@project_option
@format_option("text", "json")
def command(need: str, project: Path | None, form: str, *, pools: bool) -> int:
    """Check the engine, GPU, disk, package indexes and registry credentials of this machine, and suggest fixes.

    Exit code 4: no usable engine, or no GPU with `--need gpu`. 1: another check failed.
    """
    if pools:
        return _pools(project, form)
    from assay.cli.composition import doctor
    from assay.pipeline.doctor import exit_code

    needs, matrix = _needs(project, gpu=need == "gpu")
    checks = doctor(matrix).run(needs)
    code = exit_code(checks)
    if form == "json":
        from assay.pipeline.documents import DoctorDocument

        console.document(DoctorDocument(exit_code=code, checks=checks))
        return code
    console.data_table(("", "state", "found"), [(check.name, check.state.value, check.found) for check in checks])
    _mend(checks)
    return code


def _needs(project: Path | None, *, gpu: bool) -> tuple[Needs, Matrix | None]:
    """Return what the project needs; outside of a project, what any would."""
    from assay.pipeline.doctor import needs_of

    try:
        files, planned = load(project)
    except AssayError as error:
        console.warn(f"no project is checked: {error.message}")
        return needs_of(None, gpu=gpu), None
    matrix = planned.project.matrix
    starter = planned.select(("starter",)) if "starter" in matrix.groups else []
    locks = [lock for cell in starter if (lock := files.lock(cell)) is not None]
    return needs_of(matrix, locks, gpu=gpu), matrix


def _pools(project: Path | None, form: str) -> int:
    """Ask each pool what it has."""
    from assay.cli.pool_composition import pool_inventories

    files, planned = load(project)
    rows = [(name, item) for name, items in pool_inventories(files, planned.project.matrix) for item in items]
    code = int(any(item.ok is False for _, item in rows))
    if form == "json":
        from assay.pipeline.documents import PoolCheck, PoolsDocument

        found = tuple(PoolCheck(pool=name, **dict(item)) for name, item in rows)
        console.document(PoolsDocument(exit_code=code, pools=found))
        return code
    states = {True: "ok", False: "fail", None: "unknown"}
    console.data_table(
        ("pool", "", "state", "found"), [(name, item.name, states[item.ok], item.found) for name, item in rows]
    )
    for name, item in rows:
        if item.mend and item.ok is not True:
            console.say(f"to fix {name}, {item.name}: {item.mend}")
    return code


def _mend(checks: tuple[Check, ...]) -> None:
    from assay.pipeline.doctor import CheckState

    for check in checks:
        if check.mend and check.state in {CheckState.FAIL, CheckState.WARN}:
            console.say(f"to fix {check.name}: {check.mend}")
