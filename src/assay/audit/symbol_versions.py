"""Which versions of symbols libraries ask for and do not get: what rules L4 and L7 report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from packaging.version import InvalidVersion, Version

from assay.audit.context import Context
from assay.audit.linker import FoundLibrary, Where
from assay.foundation.outcome import Severity
from assay.foundation.versions import parsed
from assay.wheels.facts import Library, WheelFacts

__all__ = ["Lacking", "Newer", "lacking_versions"]

_CEILINGS: Final = ("GLIBC", "GLIBCXX", "CXXABI")
_WEIGHT: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """Versions that a library asks of a file, which does not define them."""

    wheel: WheelFacts
    path: str
    severity: Severity
    file: str
    versions: tuple[str, ...]

    @property
    def of_runtime(self) -> bool:
        """Whether they are versions of the C or C++ runtime."""
        return self.versions[0].startswith(("GLIBC_", "GLIBCXX_", "CXXABI_"))

    @property
    def why(self) -> str:
        """Why the library does not load."""
        return f"{self.file} has no {self.versions[0]}"


@dataclass(frozen=True, kw_only=True)
class Newer:
    """The newest version of a family of the runtime's that a wheel asks for and the base lacks."""

    wheel: WheelFacts
    path: str
    severity: Severity
    family: str
    version: str
    parsed: Version

    @property
    def why(self) -> str:
        """Why the library does not load."""
        return f"{self.version} is newer than the base has"


def lacking_versions(context: Context) -> tuple[Lacking | Newer, ...]:
    """Return what libraries that are loaded ask for and do not get, wheel by wheel."""
    reached = _reached(context)
    found: list[Lacking | Newer] = []
    for wheel in context.installation.native:
        worst: dict[str, Newer] = {}
        for library in wheel.libraries:
            if library.requires and library.path in reached:
                for one in _of_library(context, wheel, library):
                    if isinstance(one, Lacking):
                        found.append(one)
                    elif one.family not in worst or _weight(one) > _weight(worst[one.family]):
                        worst[one.family] = one
        found += (worst[family] for family in _CEILINGS if family in worst)
    return tuple(found)


def _weight(newer: Newer) -> tuple[Version, int]:
    return newer.parsed, _WEIGHT[newer.severity]


def _reached(context: Context) -> frozenset[str]:
    """Return the keys of what torch and all that is loaded by itself pull in."""
    loaded = (found.library.path for found in context.linker.loaded.values() if found.library is not None)
    rests = {root.closure.rest for root in context.roots}
    roots = (root.closure.root.key for root in context.roots)
    return frozenset(loaded).union(roots, *(rest.keys for rest in rests))


def _of_library(context: Context, wheel: WheelFacts, library: Library) -> Iterator[Lacking | Newer]:
    ceilings, system = context.base.ceilings, context.linker.system
    for file, versions in library.requires.items():
        known = system[file].library if file in system else None
        if known is not None and known.provides:
            provides = known.provides
        elif file in context.linker.runtime:
            for family, number, version in _newest(versions):
                if _above(ceilings[family], number):
                    severity = context.severity(context.policy(wheel, library))
                    yield Newer(
                        wheel=wheel, path=library.path, severity=severity, family=family, version=version, parsed=number
                    )
            continue
        else:
            provides = _provided(context, wheel, library, file)
        lacking = tuple(version for version in versions if version not in provides) if provides else ()
        if lacking:
            severity = context.severity(context.policy(wheel, library))
            yield Lacking(wheel=wheel, path=library.path, severity=severity, file=file, versions=lacking)


def _provided(context: Context, wheel: WheelFacts, library: Library, file: str) -> tuple[str, ...]:
    """Return the versions that the file which a library finds defines; none if it was not read."""
    asking = FoundLibrary(soname=file, where=Where.PATH, wheel=wheel, library=library)
    provider = context.linker.find(file, (asking,)).library
    return () if provider is None or provider.scope == "listed" else provider.provides


@lru_cache(maxsize=1 << 14)
def _above(ceiling: str | None, version: Version) -> bool:
    """Tell whether a version is newer than the newest there is; above what is not known nothing is."""
    return bool(ceiling) and version > parsed(ceiling or "")


@lru_cache(maxsize=1 << 12)
def _newest(versions: tuple[str, ...]) -> tuple[tuple[str, Version, str], ...]:
    """Return the newest of the versions a library asks for, of each family: (family, parsed, as it is spelled)."""
    found: dict[str, tuple[str, Version, str]] = {}
    for version in versions:
        family, _, number = version.partition("_")
        try:
            one = parsed(number)
        except InvalidVersion:
            continue
        if family in _CEILINGS and (family not in found or one > found[family][1]):
            found[family] = family, one, version
    return tuple(found.values())
