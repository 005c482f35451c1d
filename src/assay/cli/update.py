"""`assay update`: the newest cells that lock and pass, as text, as a patch, or written into the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, project_option, select_argument

if TYPE_CHECKING:
    from assay.adapters.files.staged import StagedFiles
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.pipeline.lock import LockResult
    from assay.pipeline.propose import ProposalPorts, ProposedCell

__all__ = ["command"]


@click.command("update")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--patch", is_flag=True, help="Print the changes as a patch for `git apply`.")
@click.option("--write", is_flag=True, help="Write the changes into the project.")
@click.option("--facts", type=click.Path(path_type=Path, file_okay=False), help="Folder of cached wheel facts.")
def command(
    select: tuple[str, ...], project: Path | None, form: str, facts: Path | None, *, patch: bool, write: bool
) -> int:
    """Propose cells of the newest releases and nightlies.

    For each selected image and platform, find the newest release that resolves, has code for the image's GPUs and
    passes the audit, and lock its cell. The output lists each change, each newer release that fails, and what holds
    back the others. A proposed cell is not built, so it has no record.

    Exit code 0: the proposals were made, or everything is up to date. 1: newer releases exist, but none fits.
    """
    from assay.adapters.files.project import find_root
    from assay.adapters.files.staged import StagedFiles
    from assay.cli.audit_composition import proposal_ports
    from assay.matrix import plan as planning

    if patch and (write or form != "text"):
        raise click.UsageError("--patch prints a patch; leave out --write and --format")
    files = StagedFiles(project or find_root())
    plan = planning.make(files.load())
    cells = plan.select(select)
    ports = proposal_ports(files, plan, facts)
    made = list(_proposals(files, plan, cells, ports, text=form == "text", quiet=patch))
    nights = list(_nights(files, plan, cells, ports))
    if form == "text":
        for result in nights:
            _tell(_night_lines(result), quiet=patch)
    else:
        _write(made, nights)
    if patch:
        console.data(files.patch().rstrip("\n"))
    new = [one.cell.id for one in made if one.ready and one.cell is not None]
    if write:
        for path in files.flush():
            console.say(f"wrote {path}")
    elif new and not patch:
        console.say("`assay update --write` writes these cells; `--patch` prints the change")
    return 1 if any(one.refused for one in made) else 0


def _proposals(
    files: StagedFiles, plan: Plan, cells: Sequence[Cell], ports: ProposalPorts, *, text: bool, quiet: bool
) -> Iterator[ProposedCell]:
    from assay.matrix import plan as planning
    from assay.pipeline.propose import propose, templates, wanted_for

    for like in templates(plan, cells):
        now = planning.make(files.load())
        one = propose(files, now, like, wanted_for(like, now, ports.auditor), ports)
        if text:
            _tell(_tell_proposal(one), quiet=quiet)
        yield one


def _tell(lines: Iterator[str], *, quiet: bool) -> None:
    for line in lines:
        (console.say if quiet else console.data)(line)
    console.flush()


def _tell_proposal(one: ProposedCell) -> Iterator[str]:
    """Yield the lines about a proposal."""
    from assay.pages.proposed import proposal_lines

    return proposal_lines(
        f"{one.like.image} on {one.like.platform}",
        cell=one.cell.id if one.ready and one.cell is not None else None,
        changes=[(axis, *versions) for axis, versions in one.changes.items()],
        search=one.search,
        held=one.held,
        refused=one.refused,
        width=console.width(),
    )


def _nights(files: StagedFiles, plan: Plan, cells: Sequence[Cell], ports: ProposalPorts) -> Iterator[LockResult]:
    """Lock cells on nightlies again, and keep the locks that pass the audit."""
    from assay.pipeline.cell_files import cell_files, locked_cells
    from assay.pipeline.lock import LockOptions, LockStatus, lock

    nightly = [one for one in cells if one.kind == "build" and any(value.nightly for value in one.point.values())]
    if not nightly:
        return
    console.say(f"locking {len(nightly)} cells on nightlies again")
    for result in lock(locked_cells(files, nightly), plan.project.matrix, ports.lock, LockOptions(refresh=True)):
        if result.status is LockStatus.LOCKED:
            for path, text in cell_files(files, result).items():
                files.write(path, text)
        yield result


def _night_lines(result: LockResult) -> Iterator[str]:
    from assay.foundation.printable import wrapped

    width = console.width()
    state = "a newer nightly resolves" if result.changes else result.status.value
    yield from wrapped(f"{result.cell.id}: {state}", width)
    reasons = result.explanation.splitlines()[:2] or [f"{one.package}: {one.message}" for one in result.findings[:2]]
    for reason in reasons:
        yield from wrapped(reason, width, first="  ", hang="    ")
    for change in result.changes[:4]:
        yield f"  {change}"


def _write(made: Sequence[ProposedCell], nights: Sequence[LockResult]) -> None:
    """Write the JSON document."""
    from assay.pipeline.lock_documents import NightlyLock, ProposedChange, UpdateDocument, VersionChange

    proposals = (
        ProposedChange(
            image=one.like.image,
            platform=one.like.platform,
            like=one.like.id,
            cell=one.cell.id if one.ready and one.cell is not None else None,
            changes={axis: VersionChange(before=old, after=new) for axis, (old, new) in one.changes.items()},
            held=one.held,
            refused=one.refused,
            search=one.search,
        )
        for one in made
    )
    console.document(UpdateDocument(proposals=tuple(proposals), nightlies=tuple(map(NightlyLock.of, nights))))
