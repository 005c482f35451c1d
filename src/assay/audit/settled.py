"""What the rules about loading say of wheels, remembered so that other cells need not ask.

What these rules (L1 and L3 to L7) say of a wheel, mostly nothing, rests on the wheel, on a cell's *surroundings* (the
base, Python, torch with all it has loaded, the GPUs and the knowledge), and on which libraries of wheels go by the
names that its own and those they pull in ask for. It is the same in every cell where these are, whatever else is in it.
Where a wheel finds and binds to nothing of torch, it does not matter either which torch that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from assay.audit.findings import Finding
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Base, FoundLibrary, Linker, same
from assay.wheels.facts import Library, WheelFacts

__all__ = [
    "Settled",
    "Surroundings",
    "holds",
    "of_the_base",
    "settled_in",
    "surroundings_of",
    "with_any_torch",
]


class _Same:
    """An object that is equal only to itself."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


class Surroundings(NamedTuple):
    """What the verdict on a wheel rests on beside it and who goes by the names that are asked for."""

    base: Base
    python: str
    complete: bool
    targets: tuple[object, ...]
    objects: tuple[_Same, ...]
    """The knowledge, who spells names, and torch with the libraries it has loaded."""
    loaded: tuple[object, ...]
    """What torch has loaded and misses, by name; with any torch: what of it is known by name alone."""


class Settled(NamedTuple):
    """What the rules about loading say of a wheel in some surroundings."""

    surroundings: Surroundings
    """Kept, because its identity stands for it."""
    rests_on: RestsOn
    loaded: frozenset[str] | None
    """With any torch: those of the names that the base has and torch has loaded; else the surroundings tell."""
    findings: tuple[Finding, ...]
    uncertain: frozenset[tuple[str, str]]
    """(sha256, path) of libraries whose symbols would have to be read to be sure."""
    broken: tuple[tuple[str, str], ...]
    """Paths of libraries that do not load, and why."""
    cuda_runtimes: tuple[str, ...]
    """CUDA's runtime as its modules ask for it, by SONAME."""
    reaches: frozenset[str]
    """Paths of other wheels' libraries that it pulls in."""

    def holds_for(self, linker: Linker) -> bool:
        """Whether what it rests on is the same in another installation with the same surroundings."""
        if self.loaded is not None and self.loaded != of_the_base(self.rests_on.asked, linker):
            return False
        return self.rests_on.is_so(linker)


class RestsOn(NamedTuple):
    """Names that a wheel's libraries and what they pull in ask for, and which libraries of wheels go by them."""

    asked: frozenset[str]
    nobodys: frozenset[str]
    """Those that no library of a wheel goes by."""
    holders: tuple[tuple[str, tuple[tuple[WheelFacts, Library], ...]], ...]
    """The others, with these."""

    @classmethod
    def of(cls, asked: frozenset[str], linker: Linker) -> RestsOn:
        """Return it for an installation."""
        held = asked.intersection(linker.held)
        return cls(asked, asked - held, tuple((name, tuple(linker.holders(name))) for name in sorted(held)))

    def is_so(self, linker: Linker) -> bool:
        """Whether the same libraries go by the names in another installation."""
        return self.nobodys.isdisjoint(linker.held) and all(same(it, linker.holders(name)) for name, it in self.holders)


def of_the_base(names: frozenset[str], linker: Linker) -> frozenset[str] | None:
    """Return those of the names that torch has loaded, all of them from the base; None if it has any from a wheel."""
    return names & linker.loaded_names if names.isdisjoint(linker.loaded_from_wheels) else None


def settled_in(wheel: WheelFacts, others: frozenset[str]) -> dict[int, list[Settled]]:
    """Return what is settled of a wheel without those of its libraries that are for others, by surroundings."""
    return wheel.once(("settled", others), None, dict[int, list[Settled]])


FEWEST: Final = 3
"""Wheels in a set from which on there is something to gain."""
MOST: Final = 8
"""So much is kept of a wheel in the same surroundings: with different libraries under the names it asks for."""
_HOLDING: Final = frozenset({None, "lib-missing", "abi-libnuma-missing", "abi-glibc", "abi-python-symbol"})


def holds(findings: Iterable[Finding]) -> bool:
    """Whether findings of a wheel say nothing of other builds nor of what else is known by now.

    Those of torch's and CUDA's libraries do: they name other builds.
    """
    return all(finding.cause in _HOLDING and not finding.suggestions for finding in findings)


@lru_cache(maxsize=1 << 8)
def _first_equal(one: Surroundings) -> Surroundings:
    return one


def surroundings_of(
    linker: Linker, knowledge: Knowledge, targets: Iterable[object], demangle: Callable[[str], str]
) -> Surroundings | None:
    """Return the surroundings in a cell, the same object for equal ones; None where that leads to nothing.

    In an image the base's libraries have been read and have search paths of their own, which may lead into wheels. One
    wheel and torch are judged as fast as looked up.
    """
    installation = linker.installation
    if installation.base.read or len(installation.wheels) < FEWEST:
        return None
    loaded = linker.loaded.values()
    return _first_equal(
        Surroundings(
            installation.base,
            installation.python,
            installation.complete,
            tuple(targets),
            tuple(map(_Same, (knowledge, demangle, installation.torch, *(found.library for found in loaded)))),
            (*linker.loaded, *(found.where for found in loaded), *linker.torch_missing),
        )
    )


def with_any_torch(one: Surroundings, unread: Iterable[FoundLibrary], tabled: str | None) -> Surroundings:
    """Return what is left of surroundings for wheels that find and bind to nothing of torch.

    Args:
        unread: libraries that torch makes global and whose symbols are not known.
        tabled: the torch release whose table of exports stands in for libraries that were not read.
    """
    (knowledge, demangle, torch), names = (
        one.objects[:3],
        frozenset((item.soname, item.library is None) for item in unread),
    )
    return _first_equal(one._replace(objects=(knowledge, demangle), loaded=(torch.it is not None, tabled, names)))
