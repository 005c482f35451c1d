"""What a library asks for, and what of that nothing in its reach exports.

Looked up is only what the rules tell of where nothing has it (rules L3, L5 and L6): of most libraries, which ask for
Python and the C library alone, that is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final, NamedTuple

from assay.wheels.facts import Library, Reference, plain_lines, versioned_lines
from assay.wheels.symbols import Owner, owner

__all__ = ["BoundGroup", "Left", "asked_of", "is_of_cuda", "left"]

_CUDA_FAMILIES: Final = re.compile(
    r"(?:nccl|cudnn|cublas|cuda|cufft|curand|cusparse|cusolver|nvrtc|nvJitLink|nvshmem|nvtx|cufile|cupti)[A-Z_]\w*"
)


class BoundGroup(NamedTuple):
    """References of one library that are told of alike."""

    owner: Owner
    version: str | None
    """In which they are asked for."""
    file: str | None
    """That has to have the version."""
    names: tuple[str, ...]
    """In order."""


class Left(NamedTuple):
    """What of some references nothing has."""

    groups: tuple[BoundGroup, ...]
    bound: bool
    """Whether any of the references was found in the libraries that were looked in first."""


def is_of_cuda(name: str) -> bool:
    """Tell whether a name is one of CUDA's libraries' C functions."""
    return _CUDA_FAMILIES.fullmatch(name) is not None


@lru_cache(maxsize=1 << 16)
def _is_told_of(name: str) -> bool:
    """Tell whether anything is ever told of a name: other C names come from what Python itself has loaded."""
    return name.startswith("_Z") or is_of_cuda(name) or owner(name) is not Owner.OTHER


def asked_of(
    library: Library, python: AbstractSet[str] | None, runtime: AbstractSet[str], *, unsure: bool
) -> tuple[BoundGroup, ...]:
    """Return what a library asks for, without what is never told of.

    That is what Python itself has, versions of the C and C++ runtime (rule L7 is about these), and versions that no
    file was named for.

    Args:
        python: C symbols that Python exports; None if they are not known: then nothing is told of Python's.
        runtime: sonames of the C and C++ runtime.
        unsure: with the names that belong to nobody known, too: of these something is told only where libraries were
            not read that may have them.
    """
    lines, has = library.undefined.get("global", ""), frozenset[str]() if python is None else python
    # Of most libraries nothing is left: what Python has goes at one stroke, and the runtime's versions need no look.
    names = set(plain_lines(lines)).difference(has)
    names.discard("")
    found: dict[tuple[str | None, str | None], Iterable[str]] = {(None, None): names}
    if not library.requires.keys() <= runtime:
        files = {version: file for file, versions in library.requires.items() for version in versions}
        versioned: dict[tuple[str | None, str | None], list[str]] = {}
        for name, version in versioned_lines(lines):
            file = files.get(version)
            if file is not None and file not in runtime and name not in has:
                versioned.setdefault((version, file), []).append(name)
        found |= versioned
    return tuple(
        BoundGroup(whose, version, file, tuple(sorted(some)))
        for (version, file), several in found.items()
        for whose, some in _by_owner(several if unsure else filter(_is_told_of, several)).items()
        if whose is not Owner.PYTHON or python is not None
    )


def _by_owner(names: Iterable[str]) -> Mapping[Owner, list[str]]:
    found: dict[Owner, list[str]] = {}
    for name in names:
        found.setdefault(owner(name), []).append(name)
    return found


def left(library: Library, groups: Sequence[BoundGroup], exporters: Iterable[Library], first: int) -> Left:
    """Return what of some references of a library none of the exporters has.

    A versioned reference binds to that version, to a definition without version, or to a library without versions.

    Args:
        first: so many of the exporters are looked in first.
    """
    names = set[str]().union(*(group.names for group in groups))
    gone: set[Reference] = set()
    bound = False
    for place, exporter in enumerate(exporters):
        if not names:
            break
        found = exporter.having(names)
        names -= found
        versioned = _bound_in_version(library, exporter, names)
        gone |= versioned
        names -= {name for name, _ in versioned if gone.issuperset((name, asked) for asked in library.asked[name])}
        bound |= place < first and bool(found or versioned)
    still = (tuple(name for name in group.names if name in names and (name, group.version) not in gone)
             for group in groups)  # fmt: skip
    return Left(tuple(group._replace(names=kept) for group, kept in zip(groups, still, strict=True) if kept), bound)


def _bound_in_version(library: Library, exporter: Library, names: AbstractSet[str]) -> set[Reference]:
    """Return those of the names, with the versions asked for, that bind to symbols with versions."""
    there = exporter.versioned
    return {
        (name, version)
        for name in there.keys() & names
        for version in library.asked[name]
        if version is None or not exporter.provides or version in there[name]
    }
