"""Rule R2: the wheel is for another Python or platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from assay.audit.context import Context, Root, label
from assay.audit.findings import Finding
from assay.audit.resolve import more
from assay.audit.rule import AuditRule, Breaks
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts
from assay.wheels.tags import CPYTHON, fits_platform, platform_words, tags_of

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a finding for each wheel whose Requires-Python, file name or libraries are for something else."""
    installation = context.installation
    unfit: set[str] = set()
    for wheel in installation.wheels:
        found = _unfit(wheel.requires_python, wheel.filename, installation.python, installation.machine)
        if found is not None:
            message, fix = found
            unfit.add(wheel.sha256)
            yield Finding(rule="R2", severity=Severity.ERROR, package=label(wheel), message=message, fix=fix)
    for wheel, roots in context.roots_of:
        foreign = [root for root in roots if root.library.machine != installation.machine]
        if foreign and wheel.sha256 not in unfit:
            yield _foreign(context, wheel, foreign)


def breaks(context: Context) -> Breaks:
    """Yield the libraries that are loaded by themselves and are for another machine."""
    for root in context.roots:
        if root.library.machine != context.installation.machine:
            yield root.library.path, f"it is for {root.library.machine}"


def _foreign(context: Context, wheel: WheelFacts, foreign: Sequence[Root]) -> Finding:
    """Return what is to be said of a wheel with libraries for another machine than its name says."""
    first = foreign[0].library
    return Finding(
        rule="R2",
        severity=max((context.severity(root.policy) for root in foreign), key=list(Severity).index),
        package=label(wheel),
        library=first.path,
        message=f"{first.path}{more(foreign)} is for {first.machine}, whatever the name of the wheel says; "
        f"this is Linux {context.installation.machine}",
        fix=f"take another build of {wheel.name}: this wheel was put together wrongly",
    )


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
    known_by="The file name's tags and Requires-Python. Files for Windows, macOS, musl or another machine fail on "
    "Linux with glibc; so do libraries for another machine in a fitting file.",
    severity=Severity.ERROR,
    rests_on=("metadata", "libraries", "Python"),
    findings=findings,
    breaks=breaks,
)
