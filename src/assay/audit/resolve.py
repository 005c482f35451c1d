"""Which symbols of what is loaded find nothing: what rules L3, L5 and L6 report, and what would have to be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

from assay.audit.binding import asked_of, left
from assay.audit.context import Context, Root
from assay.audit.linker import FoundLibrary, Rest, Where
from assay.wheels.facts import AskedNames, Library, Reference, WheelFacts
from assay.wheels.symbols import Owner, owner

__all__ = ["UnboundNames", "is_out_of_reach", "more", "of_torch", "python_in_name", "uncertain", "unresolved"]

_SUFFIX: Final = re.compile(r"\.cpython-(\d)(\d+t?)")


@dataclass(frozen=True, kw_only=True, eq=False)
class UnboundNames:
    """Names of one library, itself loaded or pulled in, that nothing in reach of the root has."""

    root: Root
    wheel: WheelFacts
    library: Library
    missing: tuple[Reference, ...]
    """Of torch or of nobody known, in the order in which the library asks for them."""
    python: tuple[str, ...]
    driver: tuple[str, ...]
    uncertain: tuple[FoundLibrary, ...]
    """Libraries that were not read and may have what is missing."""


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """What a root can bind to, itself left out."""

    exporters: tuple[Library, ...]
    listed: tuple[FoundLibrary, ...]
    """Libraries of wheels that are there and were not read."""
    elsewhere: frozenset[str]
    """Sonames of libraries of which no symbols are known or that are missing; the C and C++ runtime left out."""
    tabled: str | None
    """The torch release whose table of exports stands in for its libraries."""
    owners: frozenset[Owner]
    """Whose symbols are reported where nothing has them."""


@lru_cache(maxsize=1 << 14)
def python_in_name(name: str) -> str | None:
    """Return the Python in a file's name: `3.11` of `_C.cpython-311-x86_64-linux-gnu.so`; `3.14t` without the GIL."""
    match = _SUFFIX.search(name)
    return f"{match.group(1)}.{match.group(2)}" if match else None


def more(names: Sequence[object]) -> str:
    """Return how many names stand behind the first one: ` and 2 more`."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def of_torch(one: UnboundNames) -> list[str]:
    """Return the names of torch's that are missing."""
    return [name for name, _ in one.missing if owner(name) is Owner.TORCH]


def is_out_of_reach(context: Context, one: UnboundNames) -> bool:
    """Tell whether the missing names of torch's are in torch, of which the library names nothing."""
    names, torch = of_torch(one), context.torch
    return bool(names) and torch is not None and all(any(item.has(name) for item in torch.libraries) for name in names)


def uncertain(context: Context) -> frozenset[tuple[str, str]]:
    """Return (sha256, path) of libraries whose symbols would have to be read to be certain."""
    return frozenset(
        (found.wheel.sha256, found.library.path)
        for one in context.shared(unresolved)
        for found in one.uncertain
        if found.wheel and found.library
    )


def unresolved(context: Context) -> tuple[UnboundNames, ...]:
    """Return what does not bind, of everything that this Python loads by itself and of what that newly pulls in."""
    reaches: dict[Rest, _Reach] = {}
    found: list[UnboundNames] = []
    for root in context.roots:
        named = python_in_name(root.library.name)
        by_path = root.policy is not None and root.policy.by_path
        if named is not None and named != context.installation.python and not by_path:
            continue
        rest = root.closure.rest
        # What is opened by its path is another library, even where torch has loaded one of its name (`_C...so`).
        for item in (root.closure.root, *_fresh(context, rest)):
            if item.library is None:
                continue
            asked = _asked(context, item.library, unsure=False)
            if not asked and not context.read_in_part:
                continue
            if rest not in reaches:
                reaches[rest] = _reach(context, rest)
            one = _checked(context, root, item, asked, reaches[rest])
            if one is not None:
                found.append(one)
    return tuple(found)


def _asked(context: Context, library: Library, *, unsure: bool) -> tuple[AskedNames, ...]:
    python = context.knowledge.python.get(context.installation.python)
    return asked_of(library, python, context.linker.runtime, unsure=unsure)


def _fresh(context: Context, rest: Rest) -> Iterable[FoundLibrary]:
    """Yield what a library newly pulls in, modules that Python imports by themselves left out."""
    loaded = context.linker.loaded
    return (
        found
        for found in rest.found
        if found.library is not None
        and found.library.scope != "listed"
        and not found.library.extension
        and found.where in {Where.PATH, Where.PRELOADED, Where.UNREACHABLE}
        and found.soname not in loaded
    )


def _reach(context: Context, rest: Rest) -> _Reach:
    linker = context.linker
    exporters: list[Library] = []
    listed: list[FoundLibrary] = []
    blind: set[str] = set()
    for found in (*linker.global_scope, *(found for found in rest.found if found.key not in linker.global_keys)):
        if found.library is None:
            if found.soname not in linker.runtime:
                blind.add(found.soname)
        elif found.library.scope == "listed":
            listed.append(found)
        else:
            exporters.append(found.library)
    tabled = context.tabled(listed)
    if tabled:
        # What else torch pulls in is not known then either.
        listed = [found for found in listed if found.wheel is not context.torch]
    blind |= {item.soname for item in rest.missing}
    owners = {Owner.PYTHON, Owner.DRIVER}
    if context.torch is not None or any(found.wheel is None for found in listed):
        owners.add(Owner.TORCH)
    if listed or (context.installation.complete and not (blind or tabled)):
        owners.add(Owner.OTHER)
    return _Reach(
        exporters=tuple(exporters),
        listed=tuple(listed),
        elsewhere=frozenset(blind.union(found.soname for found in listed)),
        tabled=tabled,
        owners=frozenset(owners),
    )


def _checked(
    context: Context, root: Root, found: FoundLibrary, asked: tuple[AskedNames, ...], reach: _Reach
) -> UnboundNames | None:
    """Return what is to be reported of a library; None where it finds all it asks for."""
    library = found.library
    assert library is not None
    if reach.listed:
        asked = _asked(context, library, unsure=True)
    groups = tuple(group for group in asked if group.owner in reach.owners)
    if not groups:
        return None
    itself = () if root.closure.root.key in context.linker.global_keys else (root.library,)
    missing: list[Reference] = []
    python: list[str] = []
    driver: list[str] = []
    unsure: list[FoundLibrary] = []
    for group in left(library, groups, (*reach.exporters, *itself)):
        names = _unexplained(context, group, reach)
        if not names:
            continue
        unread = [item for item in reach.listed if item.wheel is context.torch]
        match group.owner:
            case Owner.PYTHON:
                python.extend(names)
            case Owner.DRIVER:
                driver.extend(names)
            case Owner.TORCH if unread:
                unsure.extend(unread)
            case Owner.OTHER if reach.listed:
                unsure.extend(reach.listed)
            case Owner.TORCH | Owner.OTHER:
                missing.extend((name, group.version) for name in names)
            case _:
                assert_never(group.owner)
    if not (missing or python or driver or unsure):
        return None
    return UnboundNames(
        root=root,
        wheel=found.wheel or root.wheel,
        library=library,
        missing=tuple(sorted(missing, key=library.places.__getitem__)),
        python=tuple(python),
        driver=tuple(driver),
        uncertain=tuple(unsure),
    )


def _unexplained(context: Context, group: AskedNames, reach: _Reach) -> list[str]:
    """Return the names of a group, in order, that neither a missing library nor the table of torch explains."""
    if group.file in reach.elsewhere:
        # With a library missing its symbols are missing too: that is reported once, by rule L1.
        return []
    names = sorted(group.names)
    if reach.tabled is not None:
        having = context.knowledge.history.having
        names = [name for name in names if reach.tabled not in having(name)]
    return names
