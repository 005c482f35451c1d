"""Rule R6: two wheels own the same file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Final, NamedTuple

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.matrix.lock import place_of
from assay.wheels.facts import WheelFacts

__all__ = ["RULE"]


class _Shared(NamedTuple):
    """Files that two wheels bring."""

    equal: tuple[str, ...]
    """Paths relative to site-packages whose bytes are the same in both."""
    different: tuple[str, ...]


def findings(context: Context) -> Iterator[Finding]:
    """Yield the pairs of wheels that bring the same paths: the one installed later overwrites the other's file."""
    known = context.knowledge.shared_files.files
    for one, other, shared in _pairs(context):
        harmful = [path for path in shared.different if not context.knowledge.shared_files.allows(path)]
        # A library says more than a licence or a script.
        harmful.sort(key=lambda path: not path.endswith(".so"))
        if harmful:
            yield Finding(
                rule="R6",
                severity=Severity.ERROR,
                package=label(one),
                library=harmful[0],
                message=f"brings {_counted(harmful)}, which {label(other)} brings with other bytes; "
                f"{_winner(one, other)}",
                fix=f"limit the version of {one.name} or {other.name} until only one of them brings the file, "
                "or install only one of the two",
            )
        harmless = [path for path in (*shared.equal, *shared.different) if path not in harmful]
        if harmless:
            reasons = {entry.reason: None for entry in known if any(fnmatchcase(path, entry.path) for path in harmless)}
            why = "; ".join(reasons) if set(harmless) - set(shared.equal) else "the bytes are the same"
            yield Finding(
                rule="R6",
                severity=Severity.INFO,
                package=label(one),
                library=harmless[0],
                message=f"brings {_counted(harmless)}, which {label(other)} brings too: {why}",
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
    for wheel in sorted(context.installation.wheels, key=lambda wheel: wheel.name):
        for folder in wheel.files:
            folders.setdefault(folder, []).append(wheel)
    meeting: dict[tuple[str, str], tuple[WheelFacts, WheelFacts, list[str]]] = {}
    for folder, wheels in folders.items():
        for one, other in combinations(wheels, 2):
            if one.name != other.name:
                meeting.setdefault((one.name, other.name), (one, other, []))[2].append(folder)
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


RULE: Final = AuditRule(
    id="R6",
    text="Two wheels contain the same file with different bytes; the later one overwrites the other.",
    known_by="The wheels' RECORD alone. The finding names the path, both wheels and whose file remains in an "
    "image. Equal bytes and the paths in `knowledge/shared_files.yaml` are notes.",
    severity=Severity.ERROR,
    rests_on=("files", "knowledge"),
    findings=findings,
)
