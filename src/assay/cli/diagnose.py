"""`assay diagnose`: find the causes of failures in a log or a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.cli.diagnosis_text import clues_text, contrast_text, diagnosis_text, nothing_text
from assay.errors import AssayError, ConfigError, UsageError
from assay.foundation.stage import Stage

if TYPE_CHECKING:
    from assay.diagnose import Contrast, DiagnosisReport

__all__ = ["command"]

CORPUS: Final = "tests/data/field/seen/contributed"


@click.command("diagnose")
@click.argument("what", default="-")
@project_option
@format_option("text", "json")
@click.option("--stage", type=click.Choice([str(stage) for stage in Stage]), help="Step that wrote the log.")
@click.option("--lines", type=click.IntRange(0, 12), default=3, show_default=True, help="Lines of evidence to show.")
@click.option("--known", is_flag=True, help="List the known failures; read no log.")
@click.option("--contribute", is_flag=True, help="Remove secrets from a log, show it, and add it to the corpus.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder that --contribute writes to.  [default: {CORPUS}]",
)
@click.option("--yes", is_flag=True, help="Write without asking (--contribute).")
def command(
    what: str,
    project: Path | None,
    form: str,
    stage: str | None,
    lines: int,
    *,
    known: bool,
    contribute: bool,
    into: Path | None,
    yes: bool,
) -> int:
    """Find the cause of a failure in a log and suggest a fix.

    WHAT is a log file, `-` for stdin, or a run in build_logs/ (`latest` for the newest).

    Exit code 0: every failure was recognised, or there was none. 1: a failure was not recognised.
    """
    if known:
        return _known(form, project)
    path = Path(what)
    if contribute:
        return _contribute(path, into or Path(CORPUS), yes=yes)
    if what == "-":
        if sys.stdin is None:
            raise UsageError("stdin is closed, so there is no log to read", hint="name a file")
        if console.at_terminal(sys.stdin):
            console.say("reading a log from this terminal; Ctrl-D ends it")
        return _one(sys.stdin.buffer, form, stage, lines, project)
    if path.is_file():
        with path.open("rb") as log:
            return _one(log, form, stage, lines, project)
    return _run(what, project, form, lines)


def _one(log: BinaryIO, form: str, stage: str | None, lines: int, project: Path | None) -> int:
    from assay.diagnose import default_library, examine

    report = examine(log, library=default_library(_root(project)), stage=Stage(stage) if stage else None)
    nearest = _nearest(report, project)
    if form == "json":
        from assay.pipeline.diagnose import LogDiagnosis

        console.document(LogDiagnosis(**dict(report), nearest_working=nearest))
        return _exit([report])
    for diagnosis in report.diagnoses:
        console.paragraphs(diagnosis_text(diagnosis, lines), hang=8)
    if report.clues:
        console.paragraphs(clues_text(report.clues), hang=8)
    if nearest:
        console.paragraphs(contrast_text(nearest), hang=8)
    if not report.diagnoses:
        console.say(nothing_text(report))
    return _exit([report])


def _nearest(report: DiagnosisReport, project: Path | None) -> Contrast | None:
    """Compare the versions that a log of unknown cause names with what works, where this project has records."""
    from assay.adapters.files.kept_records import intact_records
    from assay.pipeline.diagnose import contrast_of_versions

    if report.clues is None or not report.clues.versions:
        return None
    root = _root(project)
    return contrast_of_versions(intact_records(root), report.clues.versions) if root else None


def _root(project: Path | None) -> Path | None:
    """Return the folder of the project, or None where there is none."""
    from assay.adapters.files.project import find_root

    try:
        return project or find_root()
    except UsageError:
        return None


def _contribute(path: Path, into: Path, *, yes: bool) -> int:
    """Show a log without its secrets and the draft of its label, and write both where that is confirmed."""
    from assay.diagnose import examine
    from assay.pipeline.contribute import contribution

    if not path.is_file():
        raise UsageError(
            f"{str(path)!r} is not a file; --contribute takes a log file", hint="assay diagnose FILE --contribute"
        )
    with path.open("rb") as log:
        report = examine(log)
        log.seek(0)
        made = contribution(log, report, name=path.stem)
    console.data(made.log)
    console.data(made.label)
    taken = ", ".join(f"{count} x {what}" for what, count in sorted(made.taken.items())) or "nothing"
    console.say(f"replaced: {taken}")
    console.say("Read the lines above: a name or secret that no rule knows is still in them.")
    targets = (into / f"{made.name}.log", into / f"{made.name}.json")
    if standing := [str(target) for target in targets if target.exists()]:
        raise UsageError(
            f"{' and '.join(standing)} already exist", hint="rename the log, or name another folder with --into"
        )
    asked = console.at_terminal(sys.stdin)
    if not yes and not (asked and click.confirm(f"Write {targets[0]} and {targets[1].name}?", err=True)):
        console.say("nothing was written" if asked else "nothing was written; add --yes to write without asking")
        return 1
    into.mkdir(parents=True, exist_ok=True)
    targets[0].write_text(made.log, encoding="utf-8")
    targets[1].write_text(made.label, encoding="utf-8")
    console.say(f"wrote {targets[0]} and {targets[1].name}; correct the label and name the thread in `source`")
    return 0


def _run(name: str, project: Path | None, form: str, lines: int) -> int:
    from assay.adapters.files.kept_records import intact_records
    from assay.adapters.files.project import find_root
    from assay.adapters.files.records import FileStore
    from assay.adapters.files.regular import file_below
    from assay.diagnose import default_library
    from assay.pipeline.diagnose import RunDiagnosis, diagnose_run, run_named

    root = project or find_root()
    store = FileStore(root / "build_logs")
    records = intact_records(root)
    name = run_named(name, records)

    def open_log(relative: str) -> BinaryIO | None:
        path = file_below(store.root, relative)
        return path.open("rb") if path is not None else None

    findings = diagnose_run(records, name, open_log=open_log, points=_points(project), library=default_library(root))
    if form == "json":
        console.document(RunDiagnosis(run=name, failures=tuple(finding.document() for finding in findings)))
    else:
        for finding in findings:
            subject = finding.subject
            console.paragraphs(
                f"== {subject.cell}: {subject.what} {subject.outcome}" + (f" ({subject.log})" if subject.log else "")
            )
            for diagnosis in finding.report.diagnoses:
                console.paragraphs(diagnosis_text(diagnosis, lines), hang=8)
            if finding.report.clues:
                console.paragraphs(clues_text(finding.report.clues), hang=8)
            if finding.contrast:
                console.paragraphs(contrast_text(finding.contrast), hang=8)
    if not findings:
        console.say(f"nothing failed in {name}")
    return int(any(not d.known for f in findings for d in f.report.diagnoses[:1]))


def _points(project: Path | None) -> Mapping[str, Mapping[str, str]]:
    from assay.pipeline.diagnose import points_of

    try:
        _, plan = load(project)
    except (ConfigError, AssayError) as error:
        console.warn(f"the matrix cannot be read, so cells are compared by their packages only: {error.message}")
        return {}
    return points_of(plan)


def _exit(reports: Sequence[DiagnosisReport]) -> int:
    return int(any(d.cause == "unknown" for report in reports for d in report.diagnoses))


def _known(form: str, project: Path | None) -> int:
    from assay.diagnose import default_library

    entries = default_library(_root(project)).entries.values()
    if form == "json":
        from assay.pipeline.diagnose import KnownFailures

        console.document(KnownFailures(entries=tuple(entries)))
    else:
        rows = [(e.id, str(e.cause_class), str(e.stage), str(e.kind), e.cause) for e in entries]
        console.data_table(("id", "class", "stage", "kind", "cause"), rows)
    return 0
