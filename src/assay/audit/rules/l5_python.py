"""Rule L5: a library is for another Python: its name, pybind11's guard, or the C functions it needs say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, Root, label
from assay.audit.findings import Finding
from assay.audit.resolve import UnboundNames, is_out_of_reach, more, python_in_name, unresolved
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity

__all__ = ["RULE"]

SHOWN: Final = 8


def findings(context: Context) -> Iterator[Finding]:
    """Yield what each library that is loaded by itself says of Python, then what Python lacks."""
    lacking: dict[Root, list[UnboundNames]] = defaultdict(list)
    for one in context.shared(unresolved):
        if one.python and not is_out_of_reach(context, one):
            lacking[one.root].append(one)
    for root in context.roots:
        words = _refusal(context, root)
        if words:
            yield Finding(
                rule="L5",
                severity=context.severity(root.policy, Severity.WARNING),
                package=label(root.wheel),
                library=root.library.path,
                message=words,
            )
        for one in lacking.get(root, ()):
            yield _lacks(context, one)


def _refusal(context: Context, root: Root) -> str:
    """Return why this Python does not load a module, or an empty text."""
    here = context.installation.python
    by_path = root.policy is not None and root.policy.by_path
    named = None if by_path else python_in_name(root.library.name)
    if named is not None:
        return "" if named == here else f"its name says Python {named}: Python {here} does not see it"
    guard = root.library.notes.get("pybind11_python")
    if guard and guard != here:
        return f"it refuses to load on any Python but {guard} (pybind11 compares versions)"
    return ""


def _lacks(context: Context, one: UnboundNames) -> Finding:
    abi3 = ".abi3." in one.library.name
    return Finding(
        rule="L5",
        severity=context.severity(one.root.policy),
        package=label(one.wheel),
        library=one.library.path,
        message=f"needs {one.python[0]}{more(one.python)}, which Python {context.installation.python} does not have"
        + ("; it is no abi3 library, whatever its name says" if abi3 else ""),
        symbols=tuple(one.python[:SHOWN]),
        symbols_count=len(one.python),
        cause="abi-python-symbol",
    )


RULE: Final = AuditRule(
    id="L5",
    text="A library needs something that this Python does not have.",
    known_by="Its file name's suffix, pybind11's guard, and the C symbols each Python exports "
    "(`knowledge/python_abi.txt`).",
    severity=Severity.ERROR,
    rests_on=("libraries", "Python", "targets", "knowledge"),
    findings=findings,
)
