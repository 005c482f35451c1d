"""`assay lock`: give each cell its exact wheels, and render what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, platform_option, project_option, select_argument

if TYPE_CHECKING:
    from assay.pipeline.lock import LockResult

__all__ = ["command", "tell"]


@click.command("lock")
@select_argument
@project_option
@platform_option
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
    platform: tuple[str, ...],
    form: str,
    *,
    refresh: bool,
    check: bool,
    audit: bool,
    repair: bool,
) -> int:
    """Resolve cells to exact wheels with sha256, and write lock.txt and Dockerfile under images/*/cells/.

    If a cell cannot be resolved, unresolved.txt keeps the explanation: the requirements conflict, a package is missing
    from the index, or an index or registry cannot be reached. --check accepts an unresolved.txt as long as the recipe
    does not change. If the audit of a new lock fails, the lock is written and the command fails,
    because the wheels would not work together. --repair adds the constraint that the audit suggests to image.yaml and
    locks again.
    """
    from assay.cli.composition import keep_lock, lock_ports
    from assay.pipeline.cell_files import locked_cells
    from assay.pipeline.generated import drifted, keep_renamed, write_generated
    from assay.pipeline.lock import LockOptions, LockStatus, lock

    if repair and (check or not audit):
        raise click.UsageError("--repair needs the audit of new locks: leave out --check and --no-audit")
    files, plan = load(project)
    cells = [cell for cell in plan.select((*select, *platform)) if cell.kind != "external"]
    if not check:
        keep_renamed(files, plan, console.say)
    ports = lock_ports(files, plan, audit=audit and not check)
    options = LockOptions(refresh=refresh, check=check, repair=repair)
    results: list[LockResult] = []
    for result in lock(locked_cells(files, cells, unreadable=refresh), plan.project.matrix, ports, options):
        results.append(result)
        tell(result)
        if not check:
            keep_lock(files, result)
    drift = drifted(files, plan, cells) if check else []
    if not check:
        write_generated(files, load(project)[1] if repair else plan, console.say)
    for path in drift:
        console.warn(
            f"{path} is outdated: it differs from recipe, lock or template; run `assay lock` or `assay render`"
        )
    if form == "json":
        from assay.pipeline.lock_documents import LockDocument, LockEnd

        console.document(LockDocument(locks=tuple(map(LockEnd.of, results))))
    good = sum(result.answers for result in results)
    failing = sum(result.status is LockStatus.FAILING for result in results)
    recorded = sum(result.status is LockStatus.UNRESOLVED for result in results)
    console.say(
        f"{good} of {len(results)} cells have a lock that matches their recipe"
        + (f"; {recorded} have none, for the reason in unresolved.txt" if recorded else "")
        + (f"; the audit fails for {failing} of these locks" if failing else "")
    )
    return 1 if drift or any(result.status.failed for result in results) else 0


def tell(result: LockResult) -> None:
    """Show how locking one cell ended."""
    from assay.pipeline.lock import LockStatus

    style = "red" if result.status.failed else "yellow" if result.status is LockStatus.UNRESOLVED else "green"
    console.status(result.status.value, result.cell.id, width=12, style=style)
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
