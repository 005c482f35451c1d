"""`assay diagnose`: what a log or a whole run says of its failures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from assay import console
from assay.adapters.kept_records import intact_records
from assay.adapters.project_files import find_root
from assay.adapters.regular import file_below
from assay.adapters.store import FileStore
from assay.cli.common import format_option, load, project_option
from assay.diagnose import SATURATED, Contrast, Diagnosis, Report, Stage, default_library, examine
from assay.errors import AssayError, ConfigError, UsageError
from assay.flows.diagnose import Finding, diagnose_run

__all__ = ["command"]


@click.command("diagnose")
@click.argument("what", default="-")
@project_option
@format_option("text", "json")
@click.option("--stage", type=click.Choice([str(stage) for stage in Stage]), help="In which step the log was written.")
@click.option("--lines", type=click.IntRange(0, 12), default=3, show_default=True, help="Lines of evidence to show.")
@click.option("--known", is_flag=True, help="List the failures that are known, and read no log.")
def command(what: str, project: Path | None, form: str, stage: str | None, lines: int, *, known: bool) -> int:
    """Say what failed, why, and what mends it.

    WHAT is a log file, `-` for stdin, or the name of a run in build_logs/ (`latest` for the newest).

    Exit code 0: every failure was recognised, or there was none. 1: something failed for an unknown reason.
    """
    if known:
        return _known(form)
    path = Path(what)
    if what == "-":
        return _one(sys.stdin.buffer, form, stage, lines)
    if path.is_file():
        with path.open("rb") as log:
            return _one(log, form, stage, lines)
    return _run(what, project, form, lines)


def _one(log: BinaryIO, form: str, stage: str | None, lines: int) -> int:
    report = examine(log, stage=Stage(stage) if stage else None)
    if form == "json":
        console.json_data({"version": 1, **report.model_dump(mode="json")})
    else:
        for diagnosis in report.diagnoses:
            console.data(_text(diagnosis, lines))
        if not report.diagnoses:
            console.say(f"nothing in these {report.lines} lines looks like a failure")
    return _exit([report])


def _run(name: str, project: Path | None, form: str, lines: int) -> int:
    root = project or find_root()
    store = FileStore(root / "build_logs")
    records = intact_records(root)
    runs = list(dict.fromkeys(record.run for record in records))
    if name == "latest" and runs:
        name = runs[-1]
    if name not in runs:
        raise UsageError(
            f"{name!r} is neither a file nor a run with records in {store.root}",
            hint="`assay diagnose FILE`, `assay diagnose -`, or one of the runs: "
            + (", ".join(runs[-5:]) or "none yet"),
        )

    def open_log(relative: str) -> BinaryIO | None:
        path = file_below(store.root, relative)
        return path.open("rb") if path is not None else None

    findings = diagnose_run(records, name, open_log=open_log, points=_points(project))
    if form == "json":
        console.json_data({"version": 1, "run": name, "failures": [_json(finding) for finding in findings]})
    else:
        for finding in findings:
            subject = finding.subject
            console.data(
                f"== {subject.cell}: {subject.what} {subject.outcome}" + (f" ({subject.log})" if subject.log else "")
            )
            for diagnosis in finding.report.diagnoses:
                console.data(_text(diagnosis, lines))
            if finding.contrast:
                console.data(_contrast(finding.contrast))
    if not findings:
        console.say(f"nothing failed in {name}")
    return int(any(not d.known for f in findings for d in f.report.diagnoses[:1]))


def _points(project: Path | None) -> Mapping[str, Mapping[str, str]]:
    try:
        _, plan = load(project)
    except (ConfigError, AssayError) as error:
        console.warn(f"the matrix cannot be read, so cells are compared by their packages only: {error.message}")
        return {}
    return {
        cell.id: {axis: value.id for axis, value in cell.point.items()}
        | {"base": cell.base, "system_packages": " ".join(sorted(cell.system_packages)), "arch_list": cell.arch_list}
        for cell in plan.cells
    }


def _exit(reports: Sequence[Report]) -> int:
    return int(any(d.cause == "unknown" for report in reports for d in report.diagnoses))


def _text(diagnosis: Diagnosis, lines: int) -> str:
    kind = diagnosis.cause_class or "not recognised"
    head = f"{diagnosis.cause}  [{kind}]" + (
        f"  {diagnosis.certainty} confidence ({diagnosis.confidence:.2f})" if diagnosis.cause != "unknown" else ""
    )
    shown = diagnosis.evidence if diagnosis.cause == "unknown" else diagnosis.evidence[:lines]
    parts = [head, f"  why     {diagnosis.summary}", f"  fix     {diagnosis.fix}"]
    if diagnosis.change:
        parts.append(f"  matrix  {diagnosis.change}")
    parts += [f"  line {evidence.line}: {evidence.text}" for evidence in shown]
    if diagnosis.count > len(shown):
        more = f"{SATURATED} lines or more" if diagnosis.count >= SATURATED else f"{diagnosis.count} lines in all"
        parts.append(f"  ... {more}")
    seen = {evidence.line for evidence in diagnosis.evidence}
    parts += [f"  peeled  {via.id}, line {via.line}: {via.text}" for via in diagnosis.via if via.line not in seen]
    parts += [f"  source  {source}" for source in diagnosis.sources]
    return "\n".join(parts) + "\n"


def _contrast(found: Contrast) -> str:
    parts = [f"  nearest that works: {found.works}"]
    parts += [
        f"    {'*' if d.implicated else ' '} {d.name}: {d.here} here, {d.there} there" for d in found.differences[:12]
    ]
    return "\n".join([*parts, f"  try     {found.suggestion}", ""])


def _json(finding: Finding) -> dict[str, Any]:
    subject = finding.subject
    return {
        "cell": subject.cell,
        "what": subject.what,
        "outcome": subject.outcome,
        "reason": subject.reason,
        "log": subject.log,
        "report": finding.report.model_dump(mode="json"),
        "nearest_working": finding.contrast.model_dump(mode="json") if finding.contrast else None,
    }


def _known(form: str) -> int:
    entries = default_library().entries.values()
    if form == "json":
        console.json_data({"version": 1, "entries": [e.model_dump(mode="json", by_alias=True) for e in entries]})
    else:
        rows = [(e.id, str(e.cause_class), str(e.stage), str(e.kind), e.cause) for e in entries]
        console.data_table(("id", "class", "stage", "kind", "cause"), rows)
    return 0
