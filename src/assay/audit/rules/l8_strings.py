"""Rule L8: a library uses the other C++ string ABI than torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.audit.torch_fit import linked, suggestions
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.symbols import SymbolKind

__all__ = ["RULE", "with_old_strings"]


def with_old_strings(context: Context, wheel: WheelFacts) -> tuple[Library, ...]:
    """Return the libraries of a wheel that ask for the old strings, where torch has the new ones."""
    torch = context.torch
    if torch is None or not any(item.exports_cxx11 for item in torch.libraries if item.name == "libc10.so"):
        return ()
    return tuple(item for item in linked(context, wheel) if item.torch_kind is SymbolKind.UNSTABLE and item.old_strings)


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each library that was compiled with the string ABI from before C++11."""
    for wheel in context.installation.native:
        for library in with_old_strings(context, wheel):
            yield Finding(
                rule="L8",
                severity=context.severity(context.policy(wheel, library)),
                package=label(wheel),
                library=library.path,
                message="compiled with the C++ string ABI from before C++11; this torch has the new one",
                cause="abi-pre-cxx11",
                fix="take a build for this torch, or compile it with _GLIBCXX_USE_CXX11_ABI=1",
                suggestions=suggestions(context, wheel),
            )


RULE: Final = AuditRule(
    id="L8",
    text="A library uses the other C++ string ABI than torch.",
    known_by="`Ss` against `__cxx11` in torch's C++ names.",
    severity=Severity.ERROR,
    rests_on=("libraries", "Python", "targets", "knowledge"),
    findings=findings,
)
