"""Rules L4, L7 and L10: versions of symbols, of the C and C++ runtime, and of CUDA."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from packaging.version import InvalidVersion, Version

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.knowledge import parsed as parsed_version
from assay.audit.linker import FoundLibrary, Where
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts

__all__ = ["version_rules"]

_CEILINGS: Final = ("GLIBC", "GLIBCXX", "CXXABI")
_WEIGHT: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


class _Asker(NamedTuple):
    wheel: WheelFacts
    library: Library
    severity: Severity


def version_rules(context: Context) -> None:
    """Check versions that libraries ask of the files they need, then CUDA majors."""
    _versions(context)
    _cuda_majors(context)


def _versions(context: Context) -> None:
    """L4 and L7: what libraries ask of the files they need."""
    system = {found.soname: found.library for found in context.linker._system.values()}
    reached = _reached(context)
    for wheel in context.installation.native:
        if id(wheel) in context.settled:
            continue
        worst: dict[str, _Newer] = {}
        for library in wheel.libraries:
            if not library.requires or (not system and _met(context, library)):
                continue
            context.with_versions.setdefault(id(wheel), []).append(library)
            if library.path in reached:
                _lacking(context, wheel, library, system, worst)
        for family in _CEILINGS:
            if family in worst:
                _report_newer(context, wheel, family, worst[family])


def _reached(context: Context) -> frozenset[str]:
    """Return the keys of what torch and all that is loaded by itself pull in."""
    loaded = (found.library.path for found in context.linker.loaded.values() if found.library is not None)
    rests = {id(root.closure.rest): root.closure.rest for root in context.roots}.values()
    settled = (known.reaches for known in context.settled.values())
    roots = (root.closure.root.key for root in context.roots)
    return frozenset(loaded).union(roots, *(rest.keys for rest in rests), *settled)


class _Newer(NamedTuple):
    """The newest version of a family of the runtime's that a wheel asks for and the base lacks."""

    parsed: Version
    path: str
    version: str
    severity: Severity


def _lacking(
    context: Context,
    wheel: WheelFacts,
    library: Library,
    system: Mapping[str, Library | None],
    worst: dict[str, _Newer],
) -> None:
    """Report what a library asks of files that lack it; what is newer than the base is kept, the newest of a family."""
    ceilings = context.base.ceilings
    for file, newest in _newest_of(library).items():
        known = system.get(file) if system else None
        if known is not None and known.provides:
            lacking = [version for version in library.requires[file] if version not in known.provides]
            if lacking:
                _report_version(context, _asker(context, wheel, library), file, lacking)
        elif file in context.linker.runtime:
            for family, parsed, version in newest:
                if _above(ceilings[family], family, version):
                    severity = _asker(context, wheel, library).severity
                    before = worst.get(family)
                    if before is None or (parsed, _WEIGHT[severity]) > (before.parsed, _WEIGHT[before.severity]):
                        worst[family] = _Newer(parsed, library.path, version, severity)
        else:
            _provided_versions(context, wheel, library, file)


def _report_newer(context: Context, wheel: WheelFacts, family: str, newer: _Newer) -> None:
    context.broken.setdefault(newer.path, f"{newer.version} is newer than the base has")
    context.add(
        Finding(
            rule="L7",
            severity=newer.severity,
            package=label(wheel),
            library=newer.path,
            message=f"needs {newer.version}; {context.base.name} has up to {family}_{context.base.ceilings[family]}",
            cause="abi-glibc",
            fix="take a base of a newer distribution, or a wheel built for an older one",
        )
    )


def _met(context: Context, library: Library) -> bool:
    """Whether a library asks for versions of the C and C++ runtime alone, and of none newer than the base has."""
    ceilings, runtime = context.base.ceilings, context.linker.runtime
    return library.once(
        ("runtime suffices", *ceilings.values(), runtime),
        None,
        lambda: all(
            file in runtime and not any(_above(ceilings[family], family, version) for family, _, version in newest)
            for file, newest in _newest_of(library).items()
        ),
    )


def _asker(context: Context, wheel: WheelFacts, library: Library) -> _Asker:
    return _Asker(wheel, library, context.severity(context.policy(wheel, library)))


@lru_cache(maxsize=1 << 14)
def _above(ceiling: str | None, family: str, version: str) -> bool:
    """Tell whether `GLIBC_2.38`, of the family `GLIBC`, is newer than `2.36`; above what is not known nothing is."""
    return bool(ceiling) and parsed_version(version.removeprefix(f"{family}_")) > parsed_version(ceiling)


def _newest_of(library: Library) -> Mapping[str, tuple[tuple[str, Version, str], ...]]:
    """Return the files a library asks for versions of -> `_newest` of these."""
    return library.once(
        "newest versions", None, lambda: {file: _newest(versions) for file, versions in library.requires.items()}
    )


@lru_cache(maxsize=1 << 12)
def _newest(versions: tuple[str, ...]) -> tuple[tuple[str, Version, str], ...]:
    """Return the newest of the versions a library asks for, of each family: (family, parsed, as it is spelled)."""
    found: dict[str, tuple[str, Version, str]] = {}
    for version in versions:
        family, _, number = version.partition("_")
        try:
            parsed = parsed_version(number)
        except InvalidVersion:
            continue
        if family in _CEILINGS and (family not in found or parsed > found[family][1]):
            found[family] = family, parsed, version
    return tuple(found.values())


def _provided_versions(context: Context, wheel: WheelFacts, library: Library, file: str) -> None:
    found = context.linker.find(file, (FoundLibrary(soname=file, where=Where.PATH, wheel=wheel, library=library),))
    provider = found.library
    if provider is None or provider.scope == "listed" or not provider.provides:
        return
    lacking = [version for version in library.requires[file] if version not in provider.provides]
    if lacking:
        _report_version(context, _asker(context, wheel, library), file, lacking)


def _report_version(context: Context, asker: _Asker, file: str, lacking: Sequence[str]) -> None:
    wheel, library, severity = asker
    runtime = lacking[0].startswith(("GLIBC_", "GLIBCXX_", "CXXABI_"))
    context.broken.setdefault(library.path, f"{file} has no {lacking[0]}")
    context.add(
        Finding(
            rule="L7" if runtime else "L4",
            severity=severity,
            package=label(wheel),
            library=library.path,
            message=f"needs {', '.join(lacking[:4])} of {file}, which does not define that",
            cause="abi-glibc" if runtime else None,
        )
    )


def _cuda_majors(context: Context) -> None:
    """L10: the runtime of two CUDA major versions needed by libraries of one process."""
    users: dict[str, set[str]] = defaultdict(set)
    torch = context.torch
    if torch is not None:
        for found in context.linker.loaded.values():
            if found.soname.startswith("libcudart.so."):
                users[found.soname].add(label(torch))
    for wheel in context.installation.native:
        for name in context.cuda_runtimes.get(id(wheel), ()):
            users[name].add(label(wheel))
    if len(users) > 1:
        parts = "; ".join(f"{name} by {', '.join(sorted(who)[:3])}" for name, who in sorted(users.items()))
        context.add(
            Finding(
                rule="L10",
                severity=Severity.WARNING,
                package=min(next(iter(users.values()))),
                message=f"two CUDA major versions in one process: {parts}; they share neither state nor errors",
                fix="take every package for the same CUDA version",
            )
        )
