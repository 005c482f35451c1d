"""Rules R1, R2 and R4: what the metadata asks for, and what it does not say."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.knowledge import RuntimeNeed, parsed
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts
from assay.wheels.tags import CPYTHON, fits_platform, platform_words, tags_of

__all__ = ["WantedPackage", "requirement_rules", "requirements_of"]

_OF_AN_EXTRA: Final = re.compile(r";.*\bextra\s*==\s*(?:\"[\w.-]+\"|'[\w.-]+')")
_PLAIN: Final = re.compile(
    r"[ \t]*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*"
    r"(?P<versions>[<>=!~][^;()@\[\]\n]*)?(?:;(?P<marker>[^\n]+))?"
)
"""Requirements without extras, brackets or address, in which the versions can be told from the rest."""
_OR: Final = re.compile(r"\bor\b")


def requirement_rules(context: Context) -> None:
    """Check requirements against what is there, tags against Python, and known needs at run time."""
    versions, python, machine = context.installation.versions, context.installation.python, context.installation.machine
    for wheel in context.installation.wheels:
        unfit, asked = _metadata(wheel, python, machine)
        if unfit is not None:
            _not_for_python(context, wheel, *unfit)
        for wanted in asked:
            have = versions.get(wanted.name)
            if have is None or not _meets(wanted.specifier, have):
                _unmet(context, wheel, wanted, have)
    _runtime_needs(context)


def requirements_of(wheel: WheelFacts, python: str, machine: str) -> tuple[WantedPackage, ...]:
    """Return the requirements of a wheel that apply to a Python on a machine, those of extras left out."""
    return _metadata(wheel, python, machine)[1]


def _environment(python: str, machine: str = "x86_64") -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.99",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.99",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "platform_release": "",
        "platform_version": "",
        "extra": "",
    }


class WantedPackage(NamedTuple):
    """A requirement that applies."""

    name: str
    """Normalised."""
    specifier: str
    line: str
    """As the metadata has it."""


def _metadata(wheel: WheelFacts, python: str, machine: str) -> tuple[tuple[str, str] | None, tuple[WantedPackage, ...]]:
    """Return why a wheel is not for a Python or machine, as `_unfit` does, and its requirements that apply."""

    def read() -> tuple[tuple[str, str] | None, tuple[WantedPackage, ...]]:
        wanted = (_parsed(line, python, machine) for line in wheel.requires_dist)
        return _unfit(wheel, python, machine), tuple(one for one in wanted if one is not None)

    return wheel.once(("metadata", python, machine), None, read)


@lru_cache(maxsize=1 << 16)
def _parsed(line: str, python: str, machine: str = "x86_64") -> WantedPackage | None:
    if _OF_AN_EXTRA.search(line) and not _OR.search(line):
        # Most lines are, and taking them apart takes most of the time.
        return None
    plain = _PLAIN.fullmatch(line)
    try:
        if plain is None:
            wanted = _requirement(line)
            name, specifier, marker = wanted.name, str(wanted.specifier), str(wanted.marker or "")
        else:
            # Of the others most are a name, versions and a marker that many have.
            name, specifier, marker = plain["name"], str(_specifiers(plain["versions"] or "")), plain["marker"] or ""
        if marker and not _applies(marker, python, machine):
            return None
    except (InvalidRequirement, InvalidSpecifier, InvalidMarker, UndefinedEnvironmentName):
        return None
    return WantedPackage(canonicalize_name(name), specifier, line)


@lru_cache(maxsize=1 << 12)
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


@lru_cache(maxsize=1 << 10)
def _applies(marker: str, python: str, machine: str) -> bool:
    return Marker(marker).evaluate(_environment(python, machine))


@lru_cache(maxsize=1 << 12)
def _requirement(line: str) -> Requirement:
    return Requirement(line)


@lru_cache(maxsize=1 << 16)
def _meets(specifier: str, version: str) -> bool:
    try:
        return _specifiers(specifier).contains(parsed(version), prereleases=True)
    except InvalidVersion:
        # Some distributions have versions that are none; nothing can be said of them.
        return True


def _unmet(context: Context, wheel: WheelFacts, asked: WantedPackage, have: str | None) -> None:
    """R1: what is required is not there, or in another version."""
    name = asked.name
    if have is None:
        if context.installation.whole and name not in context.installation.elsewhere:
            context.add(
                Finding(
                    rule="R1",
                    severity=Severity.WARNING if context.installation.installed else Severity.ERROR,
                    package=label(wheel),
                    message=f"requires {_requirement(asked.line)}, which is not in the set",
                    fix=f"add {name} to the requirements, or lock again",
                )
            )
        return
    forced = name in context.installation.overridden
    mild = forced or context.installation.installed
    context.add(
        Finding(
            rule="R1",
            severity=Severity.WARNING if mild else Severity.ERROR,
            package=label(wheel),
            cause=None if mild else "res-conflict",
            message=f"requires {_requirement(asked.line).name}{asked.specifier}, but {have} is in the set"
            + (" (forced)" if forced else ""),
            fix=f"take {name}{asked.specifier}, or another version of {wheel.name}",
        )
    )


def _not_for_python(context: Context, wheel: WheelFacts, message: str, fix: str) -> None:
    """R2: Requires-Python and the tags of the file's own name."""
    context.add(Finding(rule="R2", severity=Severity.ERROR, package=label(wheel), message=message, fix=fix))


@lru_cache(maxsize=1 << 12)
def _is_for(specifier: str, python: str) -> bool:
    return SpecifierSet(specifier).contains(f"{python}.99")


def _unfit(wheel: WheelFacts, python: str, machine: str) -> tuple[str, str] | None:
    """Return why a wheel is not for a Python or a machine and what to do about it, or None."""
    try:
        if wheel.requires_python and not _is_for(wheel.requires_python, python):
            return f"requires Python {wheel.requires_python}; this is {python}", ""
    except InvalidSpecifier:
        return None
    there = tags_of(wheel.filename)
    if not there:
        return None
    tags = [tag for tag in there if fits_platform(tag.platform, machine)]
    if not tags:
        words = f"{wheel.filename} is for {platform_words(wheel.filename)}; this is Linux {machine}"
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
    return f"{wheel.filename} is not for Python {python}", f"take the file for cp{python.replace('.', '')}"


def _remedy(need: RuntimeNeed) -> str:
    ways = [f"add one of: {', '.join(need.provided_by)}"] if need.provided_by else []
    ways += [f"set {' or '.join(need.provided_by_env)} in `env`"] if need.provided_by_env else []
    return "; or ".join(ways)


def _runtime_needs(context: Context) -> None:
    """R4: what packages need when they run and no wheel says."""
    versions = context.installation.versions
    for need in context.unmet_needs:
        if not context.installation.whole and need.severity != "error":
            continue
        context.add(
            Finding(
                rule="R4",
                severity=Severity(need.severity),
                package=f"{need.package} {versions[need.package]}",
                message=need.needs,
                cause=need.cause,
                fix=_remedy(need),
            )
        )
