"""What a library asks for, and what of that nothing in its reach exports.

Looked up is only what the rules tell of where nothing has it (rules L3, L5 and L6): of most libraries, which ask for
Python and the C library alone, that is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from assay.audit.facts import Library, Reference
from assay.audit.symbols import Owner, owner

__all__ = ["Asked", "Group", "Left", "asked_of", "is_of_cuda", "left"]

_CUDA_FAMILIES: Final = re.compile(
    r"(?:nccl|cudnn|cublas|cuda|cufft|curand|cusparse|cusolver|nvrtc|nvJitLink|nvshmem|nvtx|cufile|cupti)[A-Z_]\w*"
)


class Group(NamedTuple):
    """References of one library that are told of alike."""

    owner: Owner
    version: str | None
    """In which they are asked for."""
    file: str | None
    """That has to have the version."""
    names: tuple[str, ...]
    """In order."""


class Asked(NamedTuple):
    """Those references of a library of which anything is ever told."""

    told: tuple[Group, ...]
    """Told of where nothing has them."""
    unsure: tuple[Group, ...]
    """Names that belong to nobody known: told of where something was not read that may have them, only."""

    def groups(self, owners: AbstractSet[Owner], *, unsure: bool) -> tuple[Group, ...]:
        """Return those of some owners, with those that are unsure or without."""
        return tuple(group for group in ((*self.told, *self.unsure) if unsure else self.told) if group.owner in owners)


class Left(NamedTuple):
    """What of some references nothing has."""

    groups: tuple[Group, ...]
    bound: bool
    """Whether any of the references was found in the libraries that were looked in first."""


def is_of_cuda(name: str) -> bool:
    """Tell whether a name is one of CUDA's libraries' C functions."""
    return _CUDA_FAMILIES.fullmatch(name) is not None


def asked_of(library: Library, python: AbstractSet[str] | None, runtime: AbstractSet[str]) -> Asked:
    """Return what a library asks for, without what is never told of.

    That is what Python itself has, versions of the C and C++ runtime (rule L7 is about these), and versions that no
    file was named for.

    Args:
        python: C symbols that Python exports; None if they are not known: then nothing is told of Python's.
        runtime: sonames of the C and C++ runtime.
    """
    files = {version: file for file, versions in library.requires.items() for version in versions}
    told: dict[tuple[Owner, str | None], list[str]] = {}
    unsure: dict[tuple[Owner, str | None], list[str]] = {}
    for line in library.undefined.get("global", "").split("\n"):
        name, _, version = line.partition("@")
        if version:
            file = files.get(version)
            if file is None or file in runtime:
                continue
        if not name or (python is not None and name in python):
            continue
        whose = owner(name)
        if whose is Owner.PYTHON and python is None:
            continue
        # Other C names than CUDA's come from what Python itself has loaded.
        sure = whose is not Owner.OTHER or name.startswith("_Z") or is_of_cuda(name)
        (told if sure else unsure).setdefault((whose, version or None), []).append(name)
    return Asked(*(tuple(_group(*key, names, files) for key, names in them.items()) for them in (told, unsure)))


def _group(whose: Owner, version: str | None, names: Iterable[str], files: Mapping[str, str]) -> Group:
    return Group(whose, version, None if version is None else files.get(version), tuple(sorted(names)))


def left(library: Library, groups: Sequence[Group], exporters: Iterable[Library], first: int) -> Left:
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
