"""What the records say of the cells: one row each, and what changed since the run before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, ProbeRecord, RunSummary
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.cell import Cell

__all__ = [
    "CellReport",
    "Report",
    "ReportDocument",
    "Row",
    "as_document",
    "as_junit",
    "as_markdown",
    "make",
    "size_text",
    "text_rows",
]

_GOOD = {BuildStatus.BUILT, BuildStatus.CACHED}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell."""

    cell: Cell
    build: BuildRecord | None
    previous: BuildRecord | None
    audit: AuditRecord | None
    probes: Mapping[str, ProbeRecord] = field(default_factory=dict)
    """Target -> the newest probe record of the image that was built last."""
    skipped: bool = False
    """Whether the last run found the image there and built nothing."""

    @property
    def as_it_must(self) -> bool:
        """A built cell is built; a negative control was refused with the cause it must have."""
        if self.build is None:
            return True
        if self.cell.expect is not None:
            return self.build.status is BuildStatus.REFUSED and self.build.cause == self.cell.expect.cause
        return self.build.status in _GOOD

    @property
    def status(self) -> str:
        """One word."""
        if self.build is not None:
            return self.build.status.value
        return "external" if self.cell.kind == "external" else "not built yet"

    @property
    def reason(self) -> str:
        """The first line of the reason, or nothing for what is well."""
        if self.build is None or self.build.status in _GOOD:
            return ""
        if self.cell.expect is not None and self.as_it_must:
            return f"as expected: {self.cell.expect.cause}"
        lines = self.build.reason.strip().splitlines()
        return (f"{self.build.cause}: " if self.build.cause else "") + (lines[0] if lines else "")

    def change(self) -> str:
        """Say what the last run did that differs from the record before, or nothing."""
        if self.skipped:
            return "skipped: nothing changed"
        if self.build is None or self.previous is None:
            return ""
        words: list[str] = []
        if self.build.status is not self.previous.status:
            words.append(f"was {self.previous.status.value}")
        elif self.build.cause != self.previous.cause:
            words.append(f"was {self.previous.cause or 'without a known cause'}")
        if self.build.lock_digest != self.previous.lock_digest:
            words.append("new lock")
        elif self.build.content_key != self.previous.content_key:
            words.append("new recipe")
        before, after = self.previous.size_bytes, self.build.size_bytes
        if before and after and abs(after - before) > 0.01 * before:
            words.append(f"{(after - before) / 1e6:+.0f} MB")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows, in the order of the plan."""

    rows: tuple[Row, ...]
    excluded: int = 0
    last: RunSummary | None = None

    def last_counts(self) -> str:
        """Say how the cells of the last run ended: `1 built, 4 skipped`, or nothing."""
        if self.last is None:
            return ""
        ended = list(self.last.cells.values())
        counts = {status: ended.count(status) for status in BuildStatus}
        return ", ".join(f"{count} {_word(status)}" for status, count in counts.items() if count)


def _word(status: BuildStatus) -> str:
    return "skipped" if status is BuildStatus.CACHED else status.value


def _by_digest(records: Iterable[AnyRecord]) -> dict[tuple[str, Platform], list[ProbeRecord]]:
    """Return probes by the image's digest and platform, the oldest first."""
    found: dict[tuple[str, Platform], list[ProbeRecord]] = {}
    for record in sorted(records, key=lambda item: item.created):
        if isinstance(record, ProbeRecord) and record.image_digest is not None:
            found.setdefault((record.image_digest, record.runs_on), []).append(record)
    return found


def make(
    cells: Sequence[Cell],
    records: Iterable[AnyRecord],
    *,
    elsewhere: Iterable[AnyRecord] = (),
    digests: Mapping[str, str] | None = None,
    excluded: int = 0,
    last: RunSummary | None = None,
) -> Report:
    """Put records to cells; the newest of a kind counts, an aborted build never replaces one that ended.

    Args:
        cells: those that are shown.
        records: of any cells.
        elsewhere: records of other machines; a probe counts where its image has the digest of this machine's.
        digests: cell id -> the digest that its lock gives, where that is known and the cell was not built here.
        excluded: how many cells the plan leaves out.
        last: how the last run of builds ended.
    """
    builds: dict[str, list[BuildRecord]] = {}
    audits: dict[str, AuditRecord] = {}
    probes: dict[str, list[ProbeRecord]] = {}
    # What a platform showed says nothing about another.
    own = {(cell.id, cell.platform) for cell in cells}
    for record in sorted((one for one in records if (one.cell, one.runs_on) in own), key=lambda one: one.created):
        match record:
            case BuildRecord():
                if record.status is not BuildStatus.ABORTED or record.cell not in builds:
                    builds.setdefault(record.cell, []).append(record)
            case AuditRecord():
                audits[record.cell] = record
            case ProbeRecord():
                probes.setdefault(record.cell, []).append(record)
            case _:
                pass
    others = _by_digest(elsewhere)
    rows: list[Row] = []
    for cell in cells:
        history = builds.get(cell.id, [])
        build = history[-1] if history else None
        current: dict[str, ProbeRecord] = {}
        for probe in others.get((_digest(history) or (digests or {}).get(cell.id, ""), cell.platform), []):
            current |= {device.target: probe for device in probe.devices[:1]}
        for probe in probes.get(cell.id, []):
            if build is None or build.image_digest is None or probe.image_digest == build.image_digest:
                current |= {device.target: probe for device in probe.devices[:1]}
        previous = history[-2] if len(history) > 1 else None
        rows.append(
            Row(
                cell=cell,
                build=build,
                previous=previous,
                audit=audits.get(cell.id),
                probes=current,
                skipped=last is not None and last.cells.get(cell.id) is BuildStatus.CACHED,
            )
        )
    return Report(rows=tuple(rows), excluded=excluded, last=last)


def _digest(history: Sequence[BuildRecord]) -> str | None:
    """Return the digest of the newest build; where its image was there already, an earlier record has it."""
    key = history[-1].content_key if history else None
    return next((one.image_digest for one in reversed(history) if one.image_digest and one.content_key == key), None)


def size_text(count: int) -> str:
    """Return a number of bytes as people read it: `4.8 GB`, `12 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _size(record: BuildRecord | None) -> str:
    return size_text(record.size_bytes) if record is not None and record.size_bytes else ""


def _seconds(record: BuildRecord | None) -> str:
    return f"{record.seconds:.0f} s" if record is not None and record.seconds else ""


def _probed(row: Row) -> str:
    if not row.probes:
        return "not probed"
    words: list[str] = []
    for target, record in sorted(row.probes.items()):
        works = sum(feature.outcome is Outcome.WORKS for feature in record.features.values())
        words.append(f"{target}: {works}/{len(record.features)} work")
    return ", ".join(words)


COLUMNS = ("cell", "build", "size", "time", "audit", "probes", "change", "reason")


def text_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the rows of a table with `COLUMNS`."""
    return [
        (
            row.cell.id,
            row.status,
            _size(row.build),
            _seconds(row.build),
            row.audit.over(row.cell.targets).value if row.audit else "",
            _probed(row) if row.cell.kind != "control" else "",
            row.change(),
            row.reason,
        )
        for row in report.rows
    ]


def as_markdown(report: Report) -> str:
    """Return a Markdown table."""

    def safe(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(safe(value) for value in row) + " |" for row in text_rows(report)]
    return "\n".join(lines) + "\n"


class CellReport(Value):
    """What the records say of one cell."""

    cell: str
    image: str
    status: str
    """How its last build ended, `external`, or `not built yet`."""
    as_it_must: bool
    """Whether it is built, or a negative control was refused with the cause it must have."""
    skipped: bool
    """Whether the last run found the image there and built nothing."""
    change: str
    """What the last run did that differs from the record before, in words."""
    build: BuildRecord | None
    audit: AuditRecord | None
    probes: dict[str, ProbeRecord]
    """Target -> the newest probe of the image."""


class ReportDocument(Value):
    """All cells, in the order of the plan."""

    version: Literal[1] = 1
    excluded: int
    """How many cells the plan leaves out."""
    last_run: RunSummary | None
    cells: tuple[CellReport, ...]


def as_document(report: Report) -> ReportDocument:
    """Return the document of `assay report --format json`."""
    cells = tuple(
        CellReport(
            cell=row.cell.id,
            image=row.cell.image,
            status=row.status,
            as_it_must=row.as_it_must,
            skipped=row.skipped,
            change=row.change(),
            build=row.build,
            audit=row.audit,
            probes=dict(row.probes),
        )
        for row in report.rows
    )
    return ReportDocument(excluded=report.excluded, last_run=report.last, cells=cells)


def _clean(text: str) -> str:
    """Drop what XML 1.0 cannot hold."""
    return "".join(
        character
        for character in text
        if character in "\t\n\r"
        or 0x20 <= ord(character) < 0xD800
        or 0xE000 <= ord(character) < 0xFFFE
        or ord(character) > 0xFFFF
    )


def as_junit(report: Report) -> str:
    """Return JUnit XML: a test case for each build and for each probed feature, for CI servers."""
    suites = Element("testsuites", name="assay")
    suite = SubElement(suites, "testsuite", name="build")
    for row in report.rows:
        case = SubElement(suite, "testcase", classname=row.cell.image, name=row.cell.id)
        if row.build is None:
            SubElement(case, "skipped", message="not built yet")
            continue
        # What the last run skipped was built, and took its time, in another one.
        case.set("time", "0" if row.skipped else f"{row.build.seconds:.3f}")
        if row.skipped:
            SubElement(
                case, "system-out"
            ).text = f"skipped: the image of {row.build.created:%Y-%m-%d %H:%M} UTC is there"
        if not row.as_it_must:
            SubElement(case, "failure", message=_clean(row.status)).text = _clean(row.build.reason)
    for row in report.rows:
        for target, record in sorted(row.probes.items()):
            probed = SubElement(suites, "testsuite", name=f"{row.cell.id} on {target}")
            for name, feature in record.features.items():
                case = SubElement(probed, "testcase", classname=row.cell.id, name=name, time=f"{feature.seconds:.3f}")
                if feature.outcome in {Outcome.WRONG, Outcome.BROKEN}:
                    SubElement(case, "failure", message=feature.outcome.value).text = _clean(feature.reason)
                elif feature.outcome not in {Outcome.WORKS, Outcome.DEGRADED}:
                    SubElement(case, "skipped", message=_clean(f"{feature.outcome.value}: {feature.reason}"))
    for suite in suites:
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, encoding="unicode") + "\n"
