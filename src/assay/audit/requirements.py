"""What the metadata of a wheel requires, for one Python on one machine."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from assay.wheels.facts import WheelFacts

__all__ = ["WantedPackage", "requirement", "requirements_of"]

_OF_AN_EXTRA: Final = re.compile(r";.*\bextra\s*==\s*(?:\"[\w.-]+\"|'[\w.-]+')")
_PLAIN: Final = re.compile(
    r"[ \t]*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*"
    r"(?P<versions>[<>=!~][^;()@\[\]\n]*)?(?:;(?P<marker>[^\n]+))?"
)
"""Requirements without extras, brackets or address, in which the versions can be told from the rest."""
_OR: Final = re.compile(r"\bor\b")


class WantedPackage(NamedTuple):
    """A requirement that applies."""

    name: str
    """Normalised."""
    specifier: str
    line: str
    """As the metadata has it."""


def requirements_of(wheel: WheelFacts, python: str, machine: str) -> tuple[WantedPackage, ...]:
    """Return the requirements of a wheel that apply to a Python on a machine, those of extras left out."""
    wanted = (_parsed(line, python, machine) for line in wheel.requires_dist)
    return tuple(one for one in wanted if one is not None)


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


@lru_cache(maxsize=1 << 16)
def _parsed(line: str, python: str, machine: str = "x86_64") -> WantedPackage | None:
    if _OF_AN_EXTRA.search(line) and not _OR.search(line):
        # Most lines are, and taking them apart takes most of the time.
        return None
    plain = _PLAIN.fullmatch(line)
    try:
        if plain is None:
            wanted = requirement(line)
            name, specifier, marker = wanted.name, str(wanted.specifier), str(wanted.marker or "")
        else:
            # Of the others most are a name, versions and a marker that many have.
            name, specifier, marker = plain["name"], _spelled(plain["versions"] or ""), plain["marker"] or ""
        if marker and not _applies(marker, python, machine):
            return None
    except (InvalidRequirement, InvalidSpecifier, InvalidMarker, UndefinedEnvironmentName):
        return None
    return WantedPackage(canonicalize_name(name), specifier, line)


@lru_cache(maxsize=1 << 12)
def _spelled(specifier: str) -> str:
    return str(SpecifierSet(specifier))


@lru_cache(maxsize=1 << 10)
def _applies(marker: str, python: str, machine: str) -> bool:
    return Marker(marker).evaluate(_environment(python, machine))


@lru_cache(maxsize=1 << 12)
def requirement(line: str) -> Requirement:
    """Return a line of Requires-Dist, parsed."""
    return Requirement(line)
