"""`assay report`: what the records say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option, select_argument
from assay.errors import StoreError, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.adapters.files.records import FileStore
    from assay.evidence.report import Report
    from assay.matrix.plan import Plan

__all__ = ["command"]


@click.command("report")
@select_argument
@project_option
@format_option("text", "markdown", "json", "junit")
@click.option("--html", type=click.Path(path_type=Path, file_okay=False), help="Write web pages to this folder.")
@click.option(
    "--into", type=click.Path(path_type=Path, dir_okay=False), help="Insert the matrix into this Markdown file."
)
@click.option(
    "--records",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="Records for pages, Markdown and badges.  [default: build_logs/ and docs/records/]",
)
@click.option("--predict", is_flag=True, help="Audit cells without an audit, so that pages show predictions (--html).")
@click.option("--measured", is_flag=True, help="Show measurements only, no predictions or claims (--into).")
@click.option("--check", is_flag=True, help="Change nothing; fail if the file is outdated (--into).")
@click.option(
    "--coverage", is_flag=True, help="Show what releases of the distributions in SELECT support, from their wheels."
)
@click.option("--since", metavar="DATE", help="Ignore releases before this date (--coverage).  [default: a year ago]")
@click.option("--badges", type=click.Path(path_type=Path, file_okay=False), help="Write SVG badges to this folder.")
def command(
    select: tuple[str, ...],
    *,
    project: Path | None,
    form: str,
    html: Path | None,
    into: Path | None,
    badges: Path | None,
    folders: tuple[Path, ...],
    predict: bool,
    measured: bool,
    check: bool,
    coverage: bool,
    since: str | None,
) -> int:
    """Show the status, size and duration of each cell, and what changed since the previous run.

    A probe record from another machine counts if it measured the same image: the one that is here, or the one whose
    digest the catalogue of layers gives for the cell's lock.

    With --coverage, show the features that are predicted per GPU and platform for upstream releases, and what changed
    between releases.
    """
    from assay.adapters.files.records import FileStore
    from assay.pipeline import unfinished

    if coverage:
        from assay.cli.coverage import show_coverage

        if into or badges or folders or measured or check:
            raise UsageError("--coverage goes with --since, --html and --format alone")
        return show_coverage(select, form, html, since)
    if since:
        raise UsageError("--since goes with --coverage")
    files, plan = load(project)
    if not (html or into or badges) and (folders or predict or measured or check):
        raise UsageError("--records, --predict, --measured and --check go with --html, --into or --badges")
    store = FileStore(files.root / "build_logs")
    if not check:
        # A check changes nothing, and what cannot be written down can still be read.
        try:
            unfinished.adopt(store, console.say)
        except (StoreError, OSError) as error:
            console.warn(f"the results of a killed run could not be recorded: {error}")
    if html or into or badges:
        from assay.cli import pages as site

        pages = site.gathered(files, plan, plan.select(select), folders=folders, predict=predict)
        if check:
            if into is None or html or badges:
                raise UsageError("--check goes with --into alone", hint="assay report --into README.md --check")
            return site.drifted(pages, into, measured=measured)
        site.write(pages, html=html, into=into, badges=badges, measured=measured)
        return 0
    return _shown(_made(files, plan, select, store), store, form)


def _shown(made: Report, store: FileStore, form: str) -> int:
    from assay.evidence import report

    match form:
        case "json":
            console.document(report.as_document(made))
        case "junit":
            console.data(report.as_junit(made))
        case "markdown":
            console.data(report.as_markdown(made))
        case _:
            console.data_table(report.COLUMNS, report.text_rows(made))
    for name, why in store.unreadable().items():
        console.warn(f"build_logs/records/{name} was skipped: {why}")
    bad = [row for row in made.rows if not row.as_it_must]
    last = f"; the last run: {counts}" if (counts := made.last_counts()) else ""
    console.say(f"{len(made.rows)} cells: {len(bad)} failing, {made.excluded} excluded{last}")
    return 1 if bad else 0


def _made(files: ProjectFiles, plan: Plan, select: tuple[str, ...], store: FileStore) -> Report:
    from assay.adapters.files.kept_records import intact_records
    from assay.cli.composition import digests_of
    from assay.evidence import report

    return report.make(
        plan.select(select),
        store.records(),
        elsewhere=intact_records(files.root),
        digests=digests_of(files, plan, select),
        excluded=len(plan.excluded),
        last=store.last_run(),
    )
