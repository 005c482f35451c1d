"""`assay lock`: give each cell its exact wheels, and render what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from assay.adapters.files.project import ProjectFiles
from assay.adapters.index.uv import UvResolver
from assay.audit.findings import Finding
from assay.cli import console
from assay.cli.auditing import make_auditor, progress
from assay.cli.common import format_option, load, project_option, select_argument
from assay.cli.render import drifted, write_generated
from assay.cli.world import digest_of_image, index_versions
from assay.errors import ConfigError
from assay.foundation.outcome import Severity
from assay.matrix import lockfile
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.plan import Plan
from assay.pipeline.lock import Judge, Locker, LockResult, LockStatus

__all__ = ["command"]

_BAD = {LockStatus.FAILING, LockStatus.CONFLICT, LockStatus.MISSING, LockStatus.UNREACHABLE, LockStatus.STALE}


@click.command("lock")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--refresh", is_flag=True, help="Resolve again, even if the lock matches the recipe.")
@click.option(
    "--check", is_flag=True, help="Change nothing; fail if a lock is outdated or a generated file was edited."
)
@click.option(
    "--audit/--no-audit", default=True, help="Audit each new lock from metadata and symbols.  [default: audit]"
)
@click.option("--repair", is_flag=True, help="Add the constraints that the audit suggests to the recipe.")
def command(
    select: tuple[str, ...],
    project: Path | None,
    form: str,
    *,
    refresh: bool,
    check: bool,
    audit: bool,
    repair: bool,
) -> int:
    """Resolve cells to exact wheels with sha256, and write lock.txt and Dockerfile under images/*/cells/.

    If a cell cannot be resolved, unresolved.txt keeps the resolver's explanation: the requirements conflict, or a
    package is missing from the index. If the audit of a new lock fails, the lock is written and the command fails,
    because the wheels would not work together. --repair adds the constraint that the audit suggests to image.yaml and
    locks again.
    """
    if repair and (check or not audit):
        raise click.UsageError("--repair needs the audit of new locks: leave out --check and --no-audit")
    files, plan = load(project)
    cells = [cell for cell in plan.select(select) if cell.kind != "external"]
    locker = Locker(
        plan.project.matrix,
        resolver=UvResolver(),
        versions=index_versions,
        digests=digest_of_image,
        judge=_judge(files, plan) if audit and not check else None,
        repair=repair,
    )
    results: list[LockResult] = []
    for result in locker.run(
        [(cell, _current(files, cell, refresh=refresh)) for cell in cells], refresh=refresh, check=check
    ):
        results.append(result)
        _tell(result)
        if not check:
            _keep(files, result)
    drift = drifted(files, plan, cells) if check else []
    if not check:
        write_generated(files, load(project)[1] if repair else plan)
    for path in drift:
        console.warn(
            f"{path} is not what the recipe, the lock and the template give; run `assay lock` or `assay render`"
        )
    if form == "json":
        console.json_data({"version": 1, "locks": [_json(result) for result in results]})
    bad = [result for result in results if result.status in _BAD]
    good = [result for result in results if result.lock is not None and result.status is not LockStatus.STALE]
    failing = sum(result.status is LockStatus.FAILING for result in results)
    console.say(
        f"{len(good)} of {len(results)} cells have a lock that answers their recipe"
        + (f"; the audit of {failing} of these locks fails" if failing else "")
    )
    return 1 if bad or drift else 0


def _current(files: ProjectFiles, cell: Cell, *, refresh: bool) -> Lock | None:
    """Return the lock of a cell; one that cannot be read is no lock where a new one is asked for."""
    try:
        return files.lock(cell)
    except ConfigError:
        if not refresh:
            raise
        return None


def _judge(files: ProjectFiles, plan: Plan) -> Judge:
    """Return an audit that reads metadata and symbols alone: locking must not fetch gigabytes of GPU code."""
    matrix = plan.project.matrix
    auditor = make_auditor(matrix.indexes, root=files.root, quick=True, tell=progress())

    def judge(cell: Cell, lock: Lock) -> list[Finding]:
        return auditor.cell(cell, lock, matrix).of(Severity.ERROR)

    return judge


def _keep(files: ProjectFiles, result: LockResult) -> None:
    if result.repairs:
        files.add_constraints(result.cell, result.repairs)
    if result.lock is not None:
        files.write_cell_file(result.cell, "lock.txt", lockfile.dump(result.lock))
        files.write_cell_file(result.cell, "unresolved.txt", None)
    elif result.status is not LockStatus.UNREACHABLE:
        # Not having reached an index says nothing about the lock that is there.
        files.write_cell_file(result.cell, "lock.txt", None)
        files.write_cell_file(result.cell, "Dockerfile", None)
        files.write_cell_file(result.cell, "unresolved.txt", f"{result.status.value}\n\n{result.explanation}\n")


def _tell(result: LockResult) -> None:
    status = result.status.value
    style = "red" if result.status in _BAD else "green"
    console.status(status, result.cell.id, width=12, style=style)
    lines: Sequence[str] = result.explanation.splitlines()
    if len(result.changes) <= 12:
        lines = [*lines, *result.changes]
    elif result.changes:
        lines = [*lines, f"{len(result.changes)} changes in the lock"]
    for line in lines:
        console.say(f"             {line}")
    for item in result.findings:
        console.say(f"             {item.rule} {item.package}: {item.message}")
        console.say(f"               try: {item.fix}" if item.fix else "")
    for item in result.repairs:
        console.say(f"             repaired: {item.constraint} added to images/{result.cell.image}/image.yaml")
    if result.warning:
        console.warn(f"{result.cell.id}: {result.warning}")


def _json(result: LockResult) -> dict[str, object]:
    return {
        "cell": result.cell.id,
        "status": result.status.value,
        "explanation": result.explanation,
        "changes": list(result.changes),
        "warning": result.warning,
        "findings": [item.model_dump(mode="json") for item in result.findings],
        "repairs": [item.constraint for item in result.repairs],
        "digest": lockfile.lock_digest(result.lock) if result.lock else None,
        "wheels": len(result.lock.wheels) if result.lock else 0,
        "bytes": sum(wheel.size or 0 for wheel in result.lock.wheels) if result.lock else 0,
    }
