"""Diagnose what a run left behind: every failed build, probe and server start of it, beside what works elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from assay.diagnose import (
    CellFacts,
    Contrast,
    DiagnosisReport,
    FailureEntry,
    FailureLibrary,
    Stage,
    contrast,
    default_library,
    examine,
    recorded,
    unknown,
)
from assay.diagnose.text import clean
from assay.engines.table import engine_names
from assay.errors import UsageError
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BuildRecord,
    BuildStatus,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.strict import Value
from assay.matrix.plan import Plan

__all__ = [
    "DiagnosisSubject",
    "KnownFailures",
    "LogDiagnosis",
    "LogFinding",
    "RunDiagnosis",
    "contrast_of_versions",
    "diagnose_run",
    "failures",
    "points_of",
    "run_named",
    "working",
]

_FAILED: Final = {Outcome.BROKEN, Outcome.WRONG, Outcome.INCONCLUSIVE, Outcome.UNSUPPORTED}
_BUILD_FAILED: Final = {
    BuildStatus.FAILED,
    BuildStatus.TIMED_OUT,
    BuildStatus.ENGINE_FAILED,
    BuildStatus.REGISTRY_FAILED,
    BuildStatus.REFUSED,
}
_SERVE_FAILED: Final = {ServeStatus.FAILED, ServeStatus.CRASHED, ServeStatus.TIMED_OUT, ServeStatus.INCONCLUSIVE}

Opener = Callable[[str], BinaryIO | None]
"""Opens a log by its path relative to build_logs/; None where it is gone."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisSubject:
    """One thing of a run that failed."""

    cell: str
    what: str
    """`build`, `audit`, `serve`, or the feature that was probed."""
    outcome: str
    reason: str
    stage: Stage
    log: str | None
    target: str = ""
    cause: str | None = None
    """What the record itself names as the cause; the log may know better."""
    text: tuple[str, ...] = ()
    """What the record itself says; read where there is no log."""


@dataclass(frozen=True, kw_only=True)
class LogFinding:
    """A subject, the diagnosis of its log, and the nearest cell in which the same works."""

    subject: DiagnosisSubject
    report: DiagnosisReport
    contrast: Contrast | None

    def document(self) -> DiagnosedFailure:
        """Return the finding in its JSON form."""
        subject = self.subject
        return DiagnosedFailure(
            cell=subject.cell,
            what=subject.what,
            outcome=subject.outcome,
            reason=subject.reason,
            log=subject.log,
            report=self.report,
            nearest_working=self.contrast,
        )


class LogDiagnosis(DiagnosisReport):
    """The diagnosis of a log, as `assay diagnose FILE` writes it."""

    version: Literal[1] = 1
    nearest_working: Contrast | None
    """An image that works with most of the versions that the log names, where a project has such a record."""


class DiagnosedFailure(Value):
    """One thing of a run that failed."""

    cell: str
    what: str
    """`build`, `audit`, `serve`, or the feature that was probed."""
    outcome: str
    reason: str
    log: str | None
    """Path relative to build_logs/."""
    report: DiagnosisReport
    nearest_working: Contrast | None
    """The nearest cell in which the same works."""


class RunDiagnosis(Value):
    """Everything that failed in a run, as `assay diagnose RUN` writes it."""

    version: Literal[1] = 1
    run: str
    failures: tuple[DiagnosedFailure, ...]


class KnownFailures(Value):
    """The causes of failure that are known, as `assay diagnose --known` writes them."""

    version: Literal[1] = 1
    entries: tuple[FailureEntry, ...]


def failures(records: Iterable[AnyRecord], run: str) -> list[DiagnosisSubject]:
    """Return everything that failed in a run, in the order of its records."""
    found: list[DiagnosisSubject] = []
    refused: set[str] = set()
    for record in records:
        if record.run != run:
            continue
        if isinstance(record, AuditRecord) and record.verdict is Verdict.FAIL:
            refused.add(record.cell)
        if isinstance(record, BuildRecord) and record.status is BuildStatus.REFUSED and record.cell in refused:
            # The audit's own record says the same, and more.
            continue
        match record:
            case BuildRecord(status=status) if status in _BUILD_FAILED:
                found.append(
                    _subject(
                        record, "build", status, record.reason, stage=Stage.BUILD, log=record.log, cause=record.cause
                    )
                )
            case AuditRecord(verdict=Verdict.FAIL):
                reason = "; ".join(record.summary)
                found.append(
                    _subject(record, "audit", "fail", reason, stage=Stage.AUDIT, log=None, text=record.summary)
                )
            case ServeRecord(status=status) if status in _SERVE_FAILED:
                found.append(
                    _subject(
                        record, "serve", status, record.reason, stage=Stage.SERVE, log=record.log, cause=record.cause
                    )
                )
            case ProbeRecord(features=features):
                found += [
                    _subject(
                        record,
                        name,
                        result.outcome,
                        result.reason,
                        stage=Stage.PROBE,
                        log=result.log,
                        cause=result.cause,
                    )
                    for name, result in features.items()
                    if result.outcome in _FAILED
                ]
            case _:
                pass
    return found


def _subject(
    record: AnyRecord,
    what: str,
    outcome: str,
    reason: str,
    *,
    stage: Stage,
    log: str | None,
    cause: str | None = None,
    text: Sequence[str] = (),
) -> DiagnosisSubject:
    devices = record.devices if isinstance(record, ProbeRecord | ServeRecord) else ()
    return DiagnosisSubject(
        cell=record.cell,
        what=what,
        outcome=str(outcome),
        reason=reason,
        stage=stage,
        log=log,
        cause=cause,
        target=devices[0].target if devices else "",
        text=tuple(text) or ((reason,) if reason else ()),
    )


def working(
    records: Iterable[AnyRecord], subject: DiagnosisSubject, points: Mapping[str, Mapping[str, str]]
) -> list[CellFacts]:
    """Return the cells in which what failed in the subject was seen to work, with what they are made of."""
    latest: dict[tuple[str, str], tuple[bool, dict[str, str]]] = {}
    for record in records:
        target, ok, packages = "", False, {}
        match record:
            case BuildRecord() if subject.what in {"build", "audit"}:
                ok = record.status in {BuildStatus.BUILT, BuildStatus.CACHED}
            case ServeRecord() if subject.what == "serve":
                ok = record.status is ServeStatus.OK
                target, packages = record.devices[0].target if record.devices else "", record.packages
            case ProbeRecord() if subject.what in record.features:
                ok = record.features[subject.what].outcome is Outcome.WORKS
                target, packages = record.devices[0].target if record.devices else "", record.packages
            case _:
                continue
        latest[record.cell, target] = (ok, {**packages, **points.get(record.cell, {})})
    return [
        CellFacts(cell=cell, target=target, parts=parts)
        for (cell, target), (ok, parts) in latest.items()
        if ok and parts
    ]


def _examined(subject: DiagnosisSubject, open_log: Opener, library: FailureLibrary) -> DiagnosisReport:
    """Read the subject's log, or what its record says; a cause that the record names fills what the log leaves open.

    Every failure ends in a diagnosis; one of which nothing is known is `unknown`.
    """
    stream = open_log(subject.log) if subject.log else None
    if stream is None:
        report = examine("\n".join(subject.text).encode(), library=library, stage=subject.stage)
    else:
        with stream:
            report = examine(stream, library=library, stage=subject.stage)
    if any(diagnosis.known for diagnosis in report.diagnoses):
        return report
    words = clean(next(iter(subject.reason.splitlines()), ""))
    # A result that is wrong is a cause by itself, whatever the log says of it.
    named = subject.cause or ("probe-wrong" if subject.outcome == Outcome.WRONG else "")
    if (entry := library.entries.get(named)) is not None:
        return report.model_copy(update={"diagnoses": (recorded(entry, words), *report.diagnoses[:-1])})
    return report if report.diagnoses else report.model_copy(update={"diagnoses": (unknown(words),)})


def diagnose_run(
    records: Sequence[AnyRecord],
    run: str,
    *,
    open_log: Opener,
    points: Mapping[str, Mapping[str, str]],
    library: FailureLibrary | None = None,
) -> list[LogFinding]:
    """Diagnose every failure of a run.

    `points` gives the axis values of cells by id; packages read inside an image are taken from its records.
    """
    findings: list[LogFinding] = []
    for subject in failures(records, run):
        report = _examined(subject, open_log, library or default_library())
        axes = report.diagnoses[0].axes if report.diagnoses else ()
        parts = dict(points.get(subject.cell, {}))
        for record in records:
            if record.run == run and record.cell == subject.cell and isinstance(record, ProbeRecord | ServeRecord):
                parts = {**record.packages, **parts}
        facts = CellFacts(cell=subject.cell, target=subject.target, parts=parts)
        nearest = contrast(facts, working(records, subject, points), axes=axes) if parts else None
        findings.append(LogFinding(subject=subject, report=report, contrast=nearest))
    return findings


def contrast_of_versions(records: Iterable[AnyRecord], versions: Mapping[str, str]) -> Contrast | None:
    """Compare the versions that a log names with the nearest image that was seen to serve or to pass every probe.

    An image without the engine that the log names is not a comparison: it says nothing about that engine.
    """
    latest: dict[str, tuple[bool, dict[str, str]]] = {}
    for record in records:
        if isinstance(record, ServeRecord):
            latest[record.cell] = (record.status is ServeStatus.OK, record.packages)
        elif isinstance(record, ProbeRecord) and record.features:
            works = all(result.outcome is Outcome.WORKS for result in record.features.values())
            latest[record.cell] = (works, record.packages)
    named = {name.lower().replace("-", "_") for name in versions}
    found = [
        CellFacts(cell=cell, parts={k: v for k, v in packages.items() if k.lower().replace("-", "_") in named})
        for cell, (works, packages) in latest.items()
        if works and (named & set(engine_names())) <= packages.keys()
    ]
    shared = {name.lower().replace("-", "_") for facts in found for name in facts.parts}
    parts = {name: version for name, version in versions.items() if name.lower().replace("-", "_") in shared}
    return contrast(CellFacts(cell="this log", parts=parts), [f for f in found if f.parts]) if parts else None


def run_named(name: str, records: Iterable[AnyRecord]) -> str:
    """Return the run that a name means; `latest` is the newest one.

    Raises:
        UsageError: there are no records of such a run.
    """
    runs = list(dict.fromkeys(record.run for record in records))
    if name == "latest" and runs:
        return runs[-1]
    if name not in runs:
        raise UsageError(
            f"{name!r} is neither a file nor a run with records in build_logs/",
            hint="`assay diagnose FILE`, `assay diagnose -`, or one of the runs: "
            + (", ".join(runs[-5:]) or "none yet"),
        )
    return name


def points_of(plan: Plan) -> dict[str, dict[str, str]]:
    """Return what cells are made of, by cell id: the values of their axes, base, system packages, architectures."""
    return {
        cell.id: {axis: value.id for axis, value in cell.point.items()}
        | {"base": cell.base, "system_packages": " ".join(sorted(cell.system_packages)), "arch_list": cell.arch_list}
        for cell in plan.cells
    }
