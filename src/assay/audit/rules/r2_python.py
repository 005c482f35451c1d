"""Rule R2: the wheel is for another Python or platform."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.wheels.tags import CPYTHON, fits_platform, platform_words, tags_of

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each wheel whose Requires-Python or file name is for something else."""
    for wheel in context.installation.wheels:
        unfit = _unfit(wheel.requires_python, wheel.filename, context.installation.python, context.installation.machine)
        if unfit is not None:
            message, fix = unfit
            yield Finding(rule="R2", severity=Severity.ERROR, package=label(wheel), message=message, fix=fix)


@lru_cache(maxsize=1 << 12)
def _unfit(requires: str | None, filename: str, python: str, machine: str) -> tuple[str, str] | None:
    """Return why a wheel is not for a Python or a machine and what to do about it, or None."""
    try:
        # Pre-releases of Python do not count: `contains` decides that, not `fits`.
        if requires and not SpecifierSet(requires).contains(f"{python}.99"):
            return f"requires Python {requires}; this is {python}", ""
    except InvalidSpecifier:
        return None
    there = tags_of(filename)
    if not there:
        return None
    tags = [tag for tag in there if fits_platform(tag.platform, machine)]
    if not tags:
        words = f"{filename} is for {platform_words(filename)}; this is Linux {machine}"
        return words, f"take the file whose name ends in manylinux_..._{machine}.whl"
    major, _, number = python.partition(".")
    wanted = (int(major), int(number))
    for tag in tags:
        match = CPYTHON.fullmatch(tag.interpreter)
        if match is None:
            if tag.interpreter.startswith("py"):
                return None
            continue
        has = (int(match.group(1)), int(match.group(2)))
        if has == wanted or (tag.abi in {"abi3", "none"} and has <= wanted):
            return None
    return f"{filename} is not for Python {python}", f"take the file for cp{python.replace('.', '')}"


RULE: Final = AuditRule(
    id="R2",
    text="The wheel is not for this Python, or not for this platform.",
    known_by="The file name's tags and Requires-Python. Files for Windows, macOS, musl or another machine (aarch64 "
    "beside x86_64) fail on Linux with glibc.",
    severity=Severity.ERROR,
    rests_on=("metadata", "Python"),
    findings=findings,
)
