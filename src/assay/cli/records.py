"""`assay records`: share records between machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import project_option
from assay.cli.completing import cells as complete_cells
from assay.cli.registry_composition import registry_client
from assay.cli.trust import insecure_option
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.evidence.record import AnyRecord
    from assay.pipeline.share_records import SharedRecords

__all__ = ["command"]

_SHOWN = 20
"""Refusals that are told one by one: a repository can hold any number of things that are no records."""

cell_option = click.option(
    "--cell", "names", multiple=True, metavar="CELL", shell_complete=complete_cells, help="Only records of this cell."
)
kind_option = click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(["audit", "bench", "build", "probe", "serve"]),
    help="Only records of this kind.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Share records between machines.

    Records document what was built, audited, probed, served and measured. They are in build_logs/records/ of the
    project, or of this folder if there is no project.
    """


@command.command("push", short_help="Push records that a repository lacks.")
@click.argument("repository", metavar="REPOSITORY")
@cell_option
@kind_option
@insecure_option
@project_option
def push(
    repository: str, names: tuple[str, ...], kinds: tuple[str, ...], insecure: tuple[str, ...], project: Path | None
) -> int:
    """Push missing records to a repository, with the reports and locks that they name.

    Each record is an artifact of its own, so any number of machines can push to one repository at the same time.
    Logs are not pushed.

    Exit code 1: a record was edited after it was written; it is not pushed.
    """
    from assay.adapters.files.kept_records import KeptRecords
    from assay.adapters.files.records import FileStore
    from assay.evidence.reference import Repository
    from assay.pipeline.share_records import push_records

    root = _root(project)
    wanted = _wanted(names, kinds)
    kept = [one for one in KeptRecords(root) if wanted(one.record)]
    if not kept:
        raise UsageError(f"there are no such records in {root / 'build_logs' / 'records'}")
    place = Repository.parse(repository)
    done = push_records(registry_client(insecure), place, kept, FileStore(root / "build_logs"))
    console.say(f"{len(done.moved)} records pushed to {place}, {done.known} were there")
    return _refusals(done)


@command.command("pull", short_help="Pull records that are missing here.")
@click.argument("repository", metavar="REPOSITORY")
@cell_option
@kind_option
@insecure_option
@project_option
def pull(
    repository: str, names: tuple[str, ...], kinds: tuple[str, ...], insecure: tuple[str, ...], project: Path | None
) -> int:
    """Pull records that are missing here.

    Reports, recommendations and publishing use these records: pull only from a registry whose writers you trust.

    Exit code 1: the repository contains something that is not a record; it is skipped.
    """
    from assay.adapters.files.kept_records import KeptRecords
    from assay.adapters.files.records import FileStore
    from assay.evidence.reference import Repository
    from assay.pipeline.share_records import pull_records

    root, place = _root(project), Repository.parse(repository)
    known = [kept.name for kept in KeptRecords(root)]
    store = FileStore(root / "build_logs")
    done = pull_records(registry_client(insecure), place, store, known, wanted=_wanted(names, kinds))
    console.say(f"{len(done.moved)} records pulled from {place}, {done.known} were here")
    return _refusals(done)


def _refusals(done: SharedRecords) -> int:
    for line in done.refused[:_SHOWN]:
        console.warn(line)
    if (more := len(done.refused) - _SHOWN) > 0:
        console.warn(f"{more} more were skipped")
    return 1 if done.refused else 0


def _wanted(names: tuple[str, ...], kinds: tuple[str, ...]) -> Callable[[AnyRecord], bool]:
    """Return what tells records of the named cells and kinds from others."""
    return lambda record: (not names or record.cell in names) and (not kinds or record.kind in kinds)


def _root(project: Path | None) -> Path:
    """Return the project, or this folder where there is none."""
    from assay.adapters.files.project import NoProject, find_root

    try:
        return project or find_root()
    except NoProject:
        return Path.cwd()
