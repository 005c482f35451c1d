"""`assay report --coverage`: what the releases of upstream projects cover, as predicted from their wheels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay.cli import console
from assay.cli.targets import gpus_by_machine
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.audit.context import TargetGpu
    from assay.audit.findings import AuditReport

__all__ = ["show_coverage"]

_TARGETS: Final = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")


def show_coverage(distributions: tuple[str, ...], form: str, html: Path | None, since: str | None) -> int:
    """Show features per target and platform of each release, and what changed between releases.

    Args:
        distributions: names on the package index; none: those that can give features.
        form: `text`, `markdown` or `json`.
        html: a folder that gets the web page as well.
        since: releases from this day on; None: of the last year.

    Raises:
        UsageError: the form is for cells alone, or the day is none.
    """
    from assay.cli.asking import Asker, Question
    from assay.cli.audit_composition import make_auditor, progress
    from assay.cli.index_composition import where_to_look
    from assay.cli.wheels import base_named
    from assay.pages.coverage import coverage_html, coverage_markdown, coverage_text, summary
    from assay.pipeline.coverage import CoveragePorts, coverage, usual_distributions

    if form == "junit":
        raise UsageError("--coverage has no JUnit form", hint="text, markdown or json; --html for a web page")
    today = date.today()  # noqa: DTZ011 - the user's day
    try:
        day = date.fromisoformat(since) if since else today - timedelta(days=365)
    except ValueError as error:
        raise UsageError(f"--since {since} is not a date", hint="write 2026-01-31") from error
    index = where_to_look(())
    auditor = make_auditor({}, tell=progress(), index=index)
    asker = Asker(auditor, index, base_named(None, (), None, auditor))

    def judge(word: str, python: str, machine: str, gpus: Sequence[TargetGpu]) -> AuditReport:
        return asker.answer(Question(words=(word,), python=python, machine=machine, targets=tuple(gpus)))

    found = coverage(
        distributions or usual_distributions(auditor),
        gpus_by_machine(_TARGETS),
        CoveragePorts(index=index, judge=judge, say=console.say),
        since=day.isoformat(),
        made=today.isoformat(),
    )
    match form:
        case "json":
            console.document(found)
        case "markdown":
            for line in coverage_markdown(found):
                console.data(line)
        case _:
            for line in coverage_text(found, width=console.width()):
                console.data(line)
    if html is not None:
        html.mkdir(parents=True, exist_ok=True)
        page = html / "coverage.html"
        page.write_text(coverage_html(found), encoding="utf-8")
        console.say(f"wrote {page}")
    console.say(f"{len(found.rows)} wheels: {summary(found.changes)}")
    return 1 if any(row.problem for row in found.rows) else 0
