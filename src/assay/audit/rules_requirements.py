"""Rules R1, R2 and R4: what the metadata asks for, and what it does not say."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from assay.audit.context import Context, label
from assay.audit.facts import WheelFacts
from assay.audit.findings import Finding
from assay.audit.knowledge import RuntimeNeed, parsed
from assay.model.outcome import Severity

__all__ = ["requirement_rules"]

_OF_AN_EXTRA: Final = re.compile(r";.*\bextra\s*==\s*(?:\"[\w.-]+\"|'[\w.-]+')")
_PLAIN: Final = re.compile(
    r"[ \t]*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*"
    r"(?P<versions>[<>=!~][^;()@\[\]\n]*)?(?:;(?P<marker>[^\n]+))?"
)
"""Requirements without extras, brackets or address, in which the versions can be told from the rest."""
_OR: Final = re.compile(r"\bor\b")
_CPYTHON: Final = re.compile(r"cp(\d)(\d+)")


def requirement_rules(context: Context) -> None:
    """Check requirements against what is there, tags against Python, and known needs at run time."""
    versions, python = context.installation.versions, context.installation.python
    for wheel in context.installation.wheels:
        unfit, asked = _metadata(wheel, python)
        if unfit is not None:
            _not_for_python(context, wheel, *unfit)
        for wanted in asked:
            have = versions.get(wanted.name)
            if have is None or not _meets(wanted.specifier, have):
                _unmet(context, wheel, wanted, have)
    _runtime_needs(context)


def _environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.99",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.99",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_release": "",
        "platform_version": "",
        "extra": "",
    }


class _Wanted(NamedTuple):
    """A requirement that applies."""

    name: str
    """Normalised."""
    specifier: str
    line: str
    """As the metadata has it."""


def _metadata(wheel: WheelFacts, python: str) -> tuple[tuple[str, str] | None, tuple[_Wanted, ...]]:
    """Return why a wheel is not for a Python, as `_unfit` does, and those of its requirements that apply."""

    def read() -> tuple[tuple[str, str] | None, tuple[_Wanted, ...]]:
        wanted = (_parsed(line, python) for line in wheel.requires_dist)
        return _unfit(wheel, python), tuple(one for one in wanted if one is not None)

    return wheel.once(("metadata", python), None, read)


@lru_cache(maxsize=1 << 16)
def _parsed(line: str, python: str) -> _Wanted | None:
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
        if marker and not _applies(marker, python):
            return None
    except (InvalidRequirement, InvalidSpecifier, InvalidMarker, UndefinedEnvironmentName):
        return None
    return _Wanted(canonicalize_name(name), specifier, line)


@lru_cache(maxsize=1 << 12)
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


@lru_cache(maxsize=1 << 10)
def _applies(marker: str, python: str) -> bool:
    return Marker(marker).evaluate(_environment(python))


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


def _unmet(context: Context, wheel: WheelFacts, asked: _Wanted, have: str | None) -> None:
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


def _unfit(wheel: WheelFacts, python: str) -> tuple[str, str] | None:
    """Return why a wheel is not for a Python and what to do about it, or None."""
    try:
        if wheel.requires_python and not _is_for(wheel.requires_python, python):
            return f"requires Python {wheel.requires_python}; this is {python}", ""
        tags = parse_wheel_filename(wheel.filename)[3]
    except (InvalidSpecifier, InvalidWheelFilename):
        return None
    major, _, number = python.partition(".")
    wanted = (int(major), int(number))
    for tag in tags:
        match = _CPYTHON.fullmatch(tag.interpreter)
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
