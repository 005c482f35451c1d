"""What the rules about loading say of wheels that keep to themselves, remembered so that other cells need not ask.

Most wheels of a lock keep to themselves: what their libraries need, they bring, or the base has it, or torch has
loaded it. What the rules about loading (L1 and L3 to L7) say of such a wheel, mostly nothing, rests on the wheel and a
cell's *surroundings* alone: the base, Python, torch with all it has loaded, the GPUs and the knowledge. It is the same
in every cell with equal surroundings, whatever else is in them. Where a wheel finds and binds to nothing of torch, it
does not matter either which torch that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from assay.audit.facts import Library, WheelFacts
from assay.audit.findings import Finding
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Base, Found, Linker

__all__ = [
    "Settled",
    "Surroundings",
    "holds",
    "holds_with_any_torch",
    "settled_in",
    "surroundings_of",
    "that_keep_to_themselves",
    "with_any_torch",
]


class _Same:
    """An object that is equal to itself alone; who has this keeps it."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


class Surroundings(NamedTuple):
    """What the verdict on a wheel that keeps to itself rests on."""

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
    findings: tuple[Finding, ...]
    uncertain: frozenset[tuple[str, str]]
    """(sha256, path) of libraries whose symbols would have to be read to be sure."""
    broken: tuple[tuple[str, str], ...]
    """Paths of libraries that do not load, and why."""
    cuda_runtimes: tuple[str, ...]
    """CUDA's runtime as its modules ask for it, by SONAME."""


def settled_in(wheel: WheelFacts, others: frozenset[str]) -> dict[int, Settled]:
    """Return what is settled of a wheel without those of its libraries that are for others, by surroundings."""
    return wheel.once(("settled", others), None, dict[int, Settled])


FEWEST: Final = 3
"""Wheels in a set from which on there is something to gain."""
_HOLDING: Final = frozenset({None, "lib-missing", "abi-libnuma-missing", "abi-glibc", "abi-python-symbol"})


def holds(findings: Iterable[Finding]) -> bool:
    """Whether findings of a wheel that keeps to itself say nothing of other wheels nor of what else is known by now.

    Those of torch's and CUDA's libraries do: they name other builds.
    """
    return all(finding.cause in _HOLDING and not finding.suggestions for finding in findings)


def holds_with_any_torch(findings: Iterable[Finding]) -> bool:
    """Whether findings are about files that are missing or too old, not about symbols."""
    return all(finding.rule in {"L1", "L7"} for finding in findings)


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


def with_any_torch(one: Surroundings, unread: Iterable[Found], tabled: str | None) -> Surroundings:
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


class _Names(NamedTuple):
    outside: frozenset[str]
    """What a wheel's libraries ask for and it does not hold."""
    inside: tuple[tuple[str, int], ...]
    """What they ask for and it holds, and in how many libraries."""
    unsure: frozenset[str]
    """Of these, the ones that not every library that asks finds where it looks first."""
    folders: frozenset[str]
    """Where its libraries have the linker look."""
    plain: bool
    """Whether all that is asked for are file names, none of them paths."""


def _names(wheel: WheelFacts) -> _Names:
    asked: dict[str, list[Library]] = {}
    for library in wheel.libraries:
        for name in {*library.needed, *library.requires}:
            asked.setdefault(name, []).append(library)
    lying = {(library.folder, library.name) for library in wheel.libraries}
    inside = sorted(asked.keys() & wheel.held.keys())
    return _Names(
        outside=frozenset(asked.keys() - wheel.held.keys()),
        inside=tuple((name, len(wheel.held[name])) for name in inside),
        unsure=frozenset(
            name for name in inside if not all((_looks_first(library), name) in lying for library in asked[name])
        ),
        folders=frozenset(
            folder for library in wheel.libraries for folders in library.search_folders for folder in folders
        ),
        plain=not any("/" in name for name in asked),
    )


def _looks_first(library: Library) -> str:
    """Return the folder in which the linker looks first for what a library needs; empty if it names none."""
    rpath, runpath = library.search_folders
    return next(iter(runpath if library.runpath else rpath), "")


def _kept(wheel: WheelFacts) -> _Names:
    return wheel.once("names asked for", None, lambda: _names(wheel))


def that_keep_to_themselves(linker: Linker) -> dict[int, tuple[WheelFacts, bool]]:
    """Return the wheels whose libraries find none but their own, the base's and torch's, and are found by no others.

    Returns:
        Identity -> wheel, and whether it finds something that torch has loaded.
    """
    wheels = [(wheel, _kept(wheel)) for wheel in linker.installation.native]
    asked = Counter[str]()
    for _, names in wheels:
        asked.update(names.outside)
        asked.update(names.unsure)
    found: dict[int, tuple[WheelFacts, bool]] = {}
    for wheel, names in wheels:
        elsewhere = names.outside & linker.holding.keys()
        of_torch = [name for name in elsewhere if linker.loaded_from_wheel(name)]
        if (
            names.plain
            and not wheel.is_torch
            and all(name in of_torch or _in_the_base(linker, name, names) for name in elsewhere)
            and all(_its_own(linker, name, count, names) for name, count in names.inside)
            and all(asked[name] == (name in names.unsure) for name in asked.keys() & wheel.held.keys())
        ):
            found[id(wheel)] = wheel, bool(of_torch)
    return found


def _in_the_base(linker: Linker, name: str, names: _Names) -> bool:
    """Whether a name that others hold, a wheel does not, and torch has not loaded from one finds the base's library."""
    return linker.of_the_system(name) and all(
        library.folder not in names.folders for _, library in linker.holding[name]
    )


def _its_own(linker: Linker, name: str, count: int, names: _Names) -> bool:
    """Whether a name that a wheel holds finds what it holds."""
    return len(linker.holding[name]) == count or (name not in names.unsure and not linker.loaded_from_wheel(name))
