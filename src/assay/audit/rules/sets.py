"""Rules R6 and R7: files that two wheels own, and packages whose versions must go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from typing import NamedTuple

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.foundation.outcome import Severity
from assay.matrix.lock import place_of
from assay.wheels.facts import WheelFacts

__all__ = ["set_rules"]


def set_rules(context: Context) -> None:
    """Check what only the whole set of wheels shows."""
    _owners(context)
    _companions(context)


class _Shared(NamedTuple):
    """Files that two wheels bring."""

    equal: tuple[str, ...]
    """Paths relative to site-packages whose bytes are the same in both."""
    different: tuple[str, ...]


def _owners(context: Context) -> None:
    """R6: two wheels bring the same path, so that the one installed later overwrites the other's file."""
    known = context.knowledge.shared_files.files
    for one, other, shared in _pairs(context):
        harmful = [path for path in shared.different if not any(fnmatchcase(path, entry.path) for entry in known)]
        if harmful:
            context.add(
                Finding(
                    rule="R6",
                    severity=Severity.ERROR,
                    package=label(one),
                    library=harmful[0],
                    message=f"brings {_counted(harmful)}, which {label(other)} brings with other bytes; "
                    f"{_winner(one, other)}",
                    fix=f"limit the version of {one.name} or {other.name} until only one of them brings the file, "
                    "or install only one of the two",
                )
            )
        harmless = [path for path in (*shared.equal, *shared.different) if path not in harmful]
        if harmless:
            reasons = {entry.reason: None for entry in known if any(fnmatchcase(path, entry.path) for path in harmless)}
            why = "; ".join(reasons) if set(harmless) - set(shared.equal) else "the bytes are the same"
            context.add(
                Finding(
                    rule="R6",
                    severity=Severity.INFO,
                    package=label(one),
                    library=harmless[0],
                    message=f"brings {_counted(harmless)}, which {label(other)} brings too: {why}",
                )
            )


def _counted(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"


def _winner(one: WheelFacts, other: WheelFacts) -> str:
    """Say whose file ends up in an image that assay builds."""
    places = [(place_of(wheel.name, wheel.size, wheel.filename), wheel) for wheel in (one, other)]
    if places[0][0] == places[1][0]:
        return "one step installs both, so which file remains differs from build to build"
    return f"the file of {label(max(places, key=lambda item: item[0])[1])} remains, because its layer comes later"


def _pairs(context: Context) -> Iterator[tuple[WheelFacts, WheelFacts, _Shared]]:
    """Yield the wheels that bring the same paths, by name, with these paths."""
    folders: dict[str, list[WheelFacts]] = {}
    for wheel in context.installation.wheels:
        for folder in wheel.files:
            folders.setdefault(folder, []).append(wheel)
    meeting: dict[tuple[str, str], tuple[WheelFacts, WheelFacts, list[str]]] = {}
    for folder, wheels in folders.items():
        for one, other in combinations(wheels, 2):
            if one.name != other.name:
                first, second = sorted((one, other), key=lambda wheel: wheel.name)
                meeting.setdefault((first.name, second.name), (first, second, []))[2].append(folder)
    for key in sorted(meeting):
        one, other, common = meeting[key]
        shared = _shared(one, other, common)
        if shared.equal or shared.different:
            yield one, other, shared


def _shared(one: WheelFacts, other: WheelFacts, folders: list[str]) -> _Shared:
    equal: list[str] = []
    different: list[str] = []
    for folder in sorted(folders):
        mine: Mapping[str, str] = one.files_in(folder)
        theirs = other.files_in(folder)
        for name in sorted(mine.keys() & theirs.keys()):
            path = name if folder == "." else f"{folder}/{name}"
            (equal if mine[name] == theirs[name] else different).append(path)
    return _Shared(tuple(equal), tuple(different))


def _companions(context: Context) -> None:
    """R7: packages whose versions must go together do not."""
    versions = context.installation.versions
    for mismatch in context.mismatches:
        rule, package, beside = mismatch.companion, mismatch.package, mismatch.companion.beside
        context.add(
            Finding(
                rule="R7",
                severity=Severity.ERROR if mismatch.decides else Severity.WARNING,
                package=f"{package} {versions[package]}",
                message=f"does not go with {beside} {versions[beside]}: {rule.why}{mismatch.consequence}",
                cause=rule.cause,
                fix=f"constrain it in the recipe: {mismatch.constraint}" if mismatch.constraint else "",
                constraint=mismatch.constraint,
            )
        )
