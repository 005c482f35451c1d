"""Audit reports for people and for CI: text, SARIF 2.1.0, JUnit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from assay import __version__
from assay.audit.findings import AuditReport, Finding
from assay.audit.rules import RULES
from assay.foundation.outcome import Outcome, Severity
from assay.foundation.printable import one_line, printable, wrapped

__all__ = ["junit", "sarif", "text", "verdict_line"]

MANY: Final = 3
"""Findings of one kind about one wheel that are told as one."""
NAMED: Final = 4
_LEVEL: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def text(report: AuditReport, *, verbose: bool = False, brief: bool = False, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a report for people; notes are counted, and told with `verbose`.

    Args:
        report: what was found.
        verbose: with notes, and the GPU code of each library.
        brief: one of many reports: features that are predicted to work are counted.
        width: of the terminal; None: each line is whole.
    """
    on = f" on {', '.join(map(report.shown, report.targets))}" if report.targets else ""
    machine = "" if report.platform == "x86_64" else f", {report.platform}"
    about = f"(Python {report.python}{machine}, base {report.base}{on})"
    yield from wrapped(f"{report.name}: {verdict_line(report)}  {about}", width)
    for line in report.assumed:
        yield from wrapped(line, width, first="  ")
    shown = [item for item in report.findings if verbose or item.severity is not Severity.INFO]
    for alike in _alike(shown, least=len(shown) + 1 if verbose else MANY):
        yield from _finding(alike, width)
    hidden = len(report.findings) - len(shown)
    if hidden:
        yield f"  {hidden} note{'s' if hidden > 1 else ''} (--verbose tells them)"
    for target in report.targets:
        yield from _predicted(report, target, width, brief=brief)
    for row in report.code if verbose else ():
        yield from wrapped(
            f"code {row.target} {row.runs:7} {row.package} {row.library}: {row.sass} machine code, {row.ptx} PTX, "
            f"{row.none} neither; {' '.join(row.targets)}",
            width,
            first="  ",
        )
    if report.unread:
        unread = f"symbols of some libraries were not needed and not read: {', '.join(report.unread)}"
        yield from wrapped(unread, width, first="  ")


def _finding(alike: Sequence[Finding], width: int | None) -> Iterator[str]:
    item, space = alike[0], " " * 14
    where = f" {item.library}" if item.library and item.library not in item.message else ""
    head = f"  {item.severity:7} {item.rule:3} "
    yield from wrapped(f"{item.package}{where}: {item.message}", width, first=head, hang=space)
    if len(alike) > 1:
        names = [other.library.rpartition("/")[2] for other in alike[1:]]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        likewise = f"likewise {', '.join(names[:NAMED])}{more} (--verbose tells each)"
        yield from wrapped(likewise, width, first=space, hang=space)
    changes = [f"known to fit: {one.package} {', '.join(one.versions)} ({one.why})" for one in item.suggestions]
    for change in ([item.fix] if item.fix else []) + changes:
        yield from wrapped(change, width, first=f"{space}-> ", hang=f"{space}   ")


def _predicted(report: AuditReport, target: str, width: int | None, *, brief: bool) -> Iterator[str]:
    predicted = [one for one in report.predictions if one.target == target]
    if not predicted:
        return
    told = [one for one in predicted if not brief or one.outcome is not Outcome.WORKS]
    count = f" {len(predicted) - len(told)} of {len(predicted)} features work (--verbose tells each)" if brief else ""
    yield from wrapped(f"predicted on {report.shown(target)}, not measured:{count}", width, first="  ")
    longest = max((len(one.feature) for one in told), default=0)
    for one in told:
        head = f"    {one.feature:{longest}}  {one.outcome.symbol} {one.outcome:12} "
        yield from wrapped(one.reason, width, first=head, hang=" " * len(head))


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
    """Put findings of one rule about several libraries of one wheel together, where there are at least so many."""
    groups: dict[object, list[Finding]] = {}
    of_library: Counter[object] = Counter()
    for index, item in enumerate(findings):
        key = (item.rule, item.severity, item.package, item.target, item.fix, item.suggestions)
        # What else is told of the same library is another matter: a second name that it needs, say.
        of_library[key, item.library] += 1
        groups.setdefault((key, of_library[key, item.library]) if item.library else index, []).append(item)
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
