"""Audit reports for people and for CI: text, SARIF 2.1.0, JUnit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from assay import __version__
from assay.audit.findings import AuditReport, Finding
from assay.audit.rules import RULES
from assay.foundation.outcome import Severity
from assay.foundation.printable import one_line, printable

__all__ = ["junit", "sarif", "text", "verdict_line"]

MANY: Final = 3
"""Findings of one kind about one wheel that are told as one."""
NAMED: Final = 4
_LEVEL: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def text(report: AuditReport, *, verbose: bool = False) -> Iterator[str]:
    """Yield the lines of a report for people; notes are counted, and told with `verbose`."""
    on = f" on {', '.join(map(report.shown, report.targets))}" if report.targets else ""
    machine = "" if report.platform == "x86_64" else f", {report.platform}"
    yield f"{report.name}: {verdict_line(report)}  (Python {report.python}{machine}, base {report.base}{on})"
    for line in report.assumed:
        yield f"  {line}"
    shown = [item for item in report.findings if verbose or item.severity is not Severity.INFO]
    for alike in _alike(shown, least=len(shown) + 1 if verbose else MANY):
        item = alike[0]
        where = f" {item.library}" if item.library and item.library not in item.message else ""
        yield f"  {item.severity:7} {item.rule:3} {item.package}{where}: {item.message}"
        if len(alike) > 1:
            names = [other.library.rpartition("/")[2] for other in alike[1:]]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"  {'':11} likewise {', '.join(names[:NAMED])}{more} (--verbose tells each)"
        if item.fix:
            yield f"  {'':11} -> {item.fix}"
        for change in item.suggestions:
            yield f"  {'':11} -> known to fit: {change.package} {', '.join(change.versions)} ({change.why})"
    hidden = len(report.findings) - len(shown)
    if hidden:
        yield f"  {hidden} note{'s' if hidden > 1 else ''} (--verbose tells them)"
    for target in report.targets:
        predicted = [one for one in report.predictions if one.target == target]
        if predicted:
            yield f"  predicted on {report.shown(target)}, not measured:"
        width = max((len(one.feature) for one in predicted), default=0)
        for one in predicted:
            yield f"    {one.feature:{width}}  {one.outcome.symbol} {one.outcome:12} {one.reason}"
    for row in report.code if verbose else ():
        yield (
            f"  code {row.target} {row.runs:7} {row.package} {row.library}: {row.sass} machine code, {row.ptx} PTX, "
            f"{row.none} neither; {' '.join(row.targets)}"
        )
    if report.unread:
        yield f"  symbols of some libraries were not needed and not read: {', '.join(report.unread)}"


def verdict_line(report: AuditReport) -> str:
    """Return the verdict, with what a reader who stops there has to know."""
    several = len(report.targets) > 1
    said = dict.fromkeys(
        f"{one.feature} {one.outcome}" + (f" on {one.target}" if several else "") for one in report.troubled
    )
    parts = [_some(list(said))] if said else []
    if report.code_unread:
        parts.append(f"GPU code of {', '.join(report.code_unread)} not read (--full reads it)")
    return f"{report.verdict}: {'; '.join(parts)}" if parts else str(report.verdict)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _alike(findings: Sequence[Finding], *, least: int) -> list[list[Finding]]:
    """Put findings of one rule about libraries of one wheel together, where there are at least so many."""
    groups: dict[object, list[Finding]] = {}
    for index, item in enumerate(findings):
        key = (item.rule, item.severity, item.package, item.target, item.fix, item.suggestions)
        groups.setdefault(key if item.library else index, []).append(item)
    return [
        part for group in groups.values() for part in ([group] if len(group) >= least else [[item] for item in group])
    ]


def sarif(reports: Sequence[AuditReport]) -> dict[str, Any]:
    """Return a SARIF 2.1.0 log, one result for each finding; what is located is the library inside its wheel."""
    used = sorted({item.rule for report in reports for item in report.findings})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "assay",
                        "semanticVersion": __version__,
                        "rules": [{"id": rule, "shortDescription": {"text": RULES.get(rule, rule)}} for rule in used],
                    }
                },
                "results": [_result(report, item, used) for report in reports for item in report.findings],
            }
        ],
    }


def _result(report: AuditReport, item: Finding, used: Sequence[str]) -> dict[str, Any]:
    message = f"{report.name}: {item.package}: {item.message}" + (f". Fix: {item.fix}" if item.fix else "")
    package = item.package.replace(" ", "-") or "installation"
    return {
        "ruleId": item.rule,
        "ruleIndex": used.index(item.rule),
        "level": _LEVEL[item.severity],
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(f"{package}/{item.library}" if item.library else package)}
                },
                "logicalLocations": [{"fullyQualifiedName": report.name, "kind": "package"}],
            }
        ],
        "properties": {"cause": item.cause, "target": item.target, "symbols": list(item.symbols)},
    }


def junit(reports: Sequence[AuditReport]) -> str:
    """Return a JUnit document: a suite for each report, a case for each rule; cases with errors fail."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>"]
    for report in reports:
        rules = {rule: [item for item in report.findings if item.rule == rule] for rule in RULES}
        failed = sum(any(item.severity is Severity.ERROR for item in items) for items in rules.values())
        lines.append(
            f'<testsuite name={quoteattr(one_line(report.name))} tests="{len(rules)}" failures="{failed}" '
            f'time="{report.seconds:.3f}">'
        )
        for rule, items in rules.items():
            name = f"{rule} {RULES[rule]}"
            lines.append(f"<testcase classname={quoteattr(one_line(report.name))} name={quoteattr(name)}>")
            errors = [item for item in items if item.severity is Severity.ERROR]
            others = [item for item in items if item.severity is Severity.WARNING]
            if errors:
                body = escape(_clean("\n".join(_line(item) for item in errors)))
                lines.append(f"<failure message={quoteattr(_clean(errors[0].message))}>{body}</failure>")
            if others:
                body = escape(_clean("\n".join(_line(item) for item in others)))
                lines.append(f"<system-out>{body}</system-out>")
            lines.append("</testcase>")
        lines.append("</testsuite>")
    lines.append("</testsuites>")
    return "\n".join(lines)


def _line(item: Finding) -> str:
    return f"{item.package} {item.library}: {item.message}" + (f" -> {item.fix}" if item.fix else "")


def _clean(words: str) -> str:
    """XML 1.0 has no control characters."""
    return printable(words)
