"""What a library asks for, and what of that nothing in its reach exports.

Looked up is only what rules L3, L5 and L6 report where nothing has it: of most libraries, which ask for Python and the
C library alone, that is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from assay.wheels.facts import AskedNames, Library, Reference
from assay.wheels.symbols import Owner

__all__ = ["asked_of", "left"]


def asked_of(
    library: Library, python: AbstractSet[str] | None, runtime: AbstractSet[str], *, unsure: bool
) -> tuple[AskedNames, ...]:
    """Return what a library asks for, without what is never reported.

    That is what Python itself has, versions of the C and C++ runtime (rule L7 is about these), and versions that no
    file was named for.

    Args:
        python: C symbols that Python exports; None if they are not known: then nothing is reported of Python's.
        runtime: sonames of the C and C++ runtime.
        unsure: with the names that belong to nobody known, too: of these something is reported only where libraries
            were not read that may have them.
    """
    return tuple(
        group._replace(names=names)
        for group in library.asked_names
        if (unsure or group.told)
        and group.file not in runtime
        and (group.owner is not Owner.PYTHON or python is not None)
        and (names := group.names - (python or frozenset()))
    )


def left(library: Library, groups: Sequence[AskedNames], exporters: Iterable[Library]) -> tuple[AskedNames, ...]:
    """Return what of some references of a library none of the exporters has.

    A versioned reference binds to that version, to a definition without version, or to a library without versions.
    """
    names = set[str]().union(*(group.names for group in groups))
    gone: set[Reference] = set()
    for exporter in exporters:
        if not names:
            break
        names -= exporter.having(names)
        versioned = _bound_in_version(library, exporter, names)
        gone |= versioned
        names -= {name for name, _ in versioned if gone.issuperset((name, asked) for asked in library.asked[name])}
    still = (
        group._replace(names=frozenset(n for n in group.names if n in names and (n, group.version) not in gone))
        for group in groups
    )
    return tuple(group for group in still if group.names)


def _bound_in_version(library: Library, exporter: Library, names: AbstractSet[str]) -> set[Reference]:
    """Return those of the names, with the versions asked for, that bind to symbols with versions."""
    there = exporter.versioned
    return {
        (name, version)
        for name in there.keys() & names
        for version in library.asked[name]
        if version is None or not exporter.provides or version in there[name]
    }
