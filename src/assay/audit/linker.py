"""The dynamic linker's view of an installation: which library a name finds, and which symbols are in reach.

Emulated is what glibc does with RTLD_NOW, as Python's import and torch's load_library do: names are looked up among
what is loaded already, then DT_RPATH of the asking library and of those that loaded it (unless it has DT_RUNPATH),
then DT_RUNPATH, then the system's folders; symbols in the global scope and then breadth first through the needed
libraries of the one that is loaded. Nothing of the machine this runs on is looked at.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

from assay.wheels.facts import Library, WheelFacts

__all__ = ["Base", "Closure", "FoundLibrary", "Installation", "Linker", "Missing", "Rest", "Where", "same"]

TORCH_ROOT: Final = re.compile(r"torch/(_C\.[^/]*\.so|lib/libtorch_global_deps\.so)$")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is there before any wheel is installed."""

    name: str
    glibc: str | None = None
    glibcxx: str | None = None
    cxxabi: str | None = None
    sonames: frozenset[str] = frozenset()
    """Libraries of the base known by name alone."""
    libraries: tuple[Library, ...] = ()
    """Libraries of an image, read; their paths are absolute."""
    packages: frozenset[str] = frozenset()
    """Packages of the distribution, as far as known."""
    environment: frozenset[str] | None = None
    """Names of the variables that are set in the image; None if nobody said."""
    known: bool = True
    """False where nobody said what the base is: then its own libraries are not reported as missing with certainty."""
    closed: bool = False
    """Whether `packages` names all that is there, so that what is not in it is not in the image."""
    search: tuple[str, ...] = ()
    """Folders of the loader's own configuration and LD_LIBRARY_PATH, for images."""

    @property
    def read(self) -> bool:
        """Whether its own libraries have been read and are searched for as the loader does: an image's."""
        return bool(self.libraries or self.search)

    @cached_property
    def ceilings(self) -> Mapping[str, str | None]:
        """Families of versions of the C and C++ runtime -> the newest that it has."""
        return {"GLIBC": self.glibc, "GLIBCXX": self.glibcxx, "CXXABI": self.cxxabi}

    def has(self, soname: str) -> bool:
        """Whether it has a library of a name: its own, or that of the file."""
        return soname in self.sonames or any(soname in {item.soname, item.name} for item in self.libraries)


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Everything that would be in one environment."""

    wheels: tuple[WheelFacts, ...]
    python: str
    base: Base
    complete: bool = True
    """Whether nothing else is installed, so that what is not here is missing."""
    named: bool = False
    """Whether all distributions are named, although the libraries of some are not known (a source archive, say)."""
    installed: bool = False
    """Installed already: requirements that do not hold were accepted by somebody, and weigh less."""
    elsewhere: frozenset[str] = frozenset()
    """Distributions in other folders that the same Python may see."""
    overridden: frozenset[str] = frozenset()
    """Distributions whose version was forced against what others ask for."""
    machine: str = "x86_64"
    """What it runs on: `x86_64` or `aarch64`."""
    asked: frozenset[str] = frozenset()
    """Distributions that somebody asks about, the others being there for their sake; empty: all alike."""

    @property
    def whole(self) -> bool:
        """Whether a distribution that is not here is not there at run time, as far as anybody knows."""
        return self.complete or self.named or self.installed

    @cached_property
    def native(self) -> tuple[WheelFacts, ...]:
        """The wheels with shared objects: half of those of a server, and all that loading is about."""
        return tuple(wheel for wheel in self.wheels if wheel.libraries)

    @cached_property
    def torch(self) -> WheelFacts | None:
        """The wheel of torch, if there."""
        return self.wheel("torch")

    def wheel(self, name: str) -> WheelFacts | None:
        """Return the wheel of a distribution."""
        return self._by_name.get(name)

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """Distribution -> version; of one that is there twice, the last."""
        return {wheel.name: wheel.version for wheel in self.wheels}

    @property
    def names(self) -> AbstractSet[str]:
        """Distributions that are there."""
        return self._by_name.keys()

    @cached_property
    def _by_name(self) -> dict[str, WheelFacts]:
        return {wheel.name: wheel for wheel in reversed(self.wheels)}


class Where(StrEnum):
    """How a library is found."""

    LOADED = "loaded"
    """Loaded already when torch is imported."""
    PATH = "path"
    """Through the asking library's own search path."""
    BASE = "base"
    DRIVER = "driver"
    PRELOADED = "preloaded"
    UNREACHABLE = "unreachable"
    """A wheel has it, but nothing tells the linker where."""
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class FoundLibrary:
    """A library in reach, or the lack of it."""

    soname: str
    where: Where
    wheel: WheelFacts | None = None
    library: Library | None = None
    """None where only the name is known (base, driver)."""

    key: str = field(init=False, default="")
    """What tells it from other libraries of the installation: the path, else the soname."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.soname if self.library is None else self.library.path)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A name that finds nothing usable."""

    soname: str
    asked_by: str
    where: Where
    holders: tuple[str, ...] = ()
    """Wheels that have it out of reach."""


@dataclass(frozen=True, eq=False)
class Rest:
    """What a library pulls in, itself left out; libraries that need the same and look in the same folders share it."""

    found: tuple[FoundLibrary, ...]
    missing: tuple[Missing, ...]
    """`asked_by` is empty where the library itself asks."""
    asked: frozenset[str] = frozenset()
    """All names by which it and the library ask: what they find rests on who goes by these names, and on no others."""

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of `found`."""
        return frozenset(found.key for found in self.found)


@dataclass(frozen=True, eq=False)
class Closure:
    """A library with all it pulls in, in load order."""

    root: FoundLibrary
    rest: Rest

    @cached_property
    def found(self) -> tuple[FoundLibrary, ...]:
        return (self.root, *self.rest.found)

    @cached_property
    def missing(self) -> tuple[Missing, ...]:
        if not self.rest.missing:
            return ()
        return tuple(item if item.asked_by else replace(item, asked_by=self.root.key) for item in self.rest.missing)


@dataclass
class _Needs:
    """What the names find that one library needs."""

    found: list[FoundLibrary] = field(default_factory=list)
    missing: list[tuple[str, Where, tuple[str, ...]]] = field(default_factory=list)
    """Name, how it is out of reach, and which wheels have it there."""


class _Imported(NamedTuple):
    """What the import of torch found."""

    holding: Mapping[str, Sequence[tuple[WheelFacts, Library]]]
    """Names by which libraries of wheels were asked for -> those there were; with others another import follows."""
    loaded: Mapping[str, FoundLibrary]
    missing: Sequence[Missing]


IMPORTS: Final = 8
"""So many different imports of one torch are kept: cells of a matrix share the libraries that it needs."""


def same(one: Sequence[tuple[WheelFacts, Library]], other: Sequence[tuple[WheelFacts, Library]]) -> bool:
    """Whether the very same libraries of the very same wheels."""
    return len(one) == len(other) and all(a[0] is b[0] and a[1] is b[1] for a, b in zip(one, other, strict=True))


class Linker:
    """Looks up libraries and symbols in one installation.

    Args:
        installation: what is installed.
        driver: sonames that come from the host's driver.
        runtime: sonames of the C and C++ runtime.
        preloaded: sonames that torch loads by itself although nothing needs them.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        driver: Iterable[str],
        runtime: Iterable[str],
        preloaded: Mapping[str, str],
    ) -> None:
        self.installation = installation
        self.driver = frozenset(driver)
        self.runtime = frozenset(runtime)
        self._preloaded = preloaded
        self._made: dict[tuple[str, Where, str], FoundLibrary] = {}
        self._as_loaded: dict[str, FoundLibrary] = {}
        self._elsewhere: dict[str, FoundLibrary] = {}
        self._all_there: dict[tuple[str, ...], tuple[FoundLibrary, ...] | None] = {}
        self._looked_up: dict[tuple[tuple[str, ...], tuple[str, ...]], _Needs] = {}
        self._rests: dict[tuple[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]], bool], Rest] = {}
        self._settled = False
        self._holding: defaultdict[str, list[tuple[WheelFacts, Library]]] = defaultdict(list)
        for wheel in installation.native:
            for name, held in wheel.held.items():
                self._holding[name] += held
        self._places: dict[str, dict[str, tuple[WheelFacts | None, Library]]] = {}
        self._files: dict[str, list[Library]] = {}
        self._system: dict[str, FoundLibrary] = {}
        for library in installation.base.libraries:
            found = FoundLibrary(soname=library.soname or library.name, where=Where.BASE, library=library)
            for name in {found.soname, library.name}:
                self._system.setdefault(name, found)
            self._files.setdefault(library.name, []).append(library)
        self.loaded: dict[str, FoundLibrary] = {}
        """Soname -> library, after `import torch`."""
        self.torch_missing: list[Missing] = []
        self._asked: set[str] = set()
        """Names by which libraries of wheels were asked for until torch was imported."""
        if self.installation.torch is not None:
            self._import_once(self.installation.torch)
        self._settled = True
        self._all_there.clear()

    def _import_once(self, torch: WheelFacts) -> None:
        """Import torch, or take over what an import of it found that asked for the same libraries."""
        base = self.installation.base
        if base.read:
            self._import_torch(torch)
            return
        key = "imported", self.driver, self.runtime, base.sonames, id(self._preloaded)
        kept = torch.once(key, self._preloaded, list[_Imported])
        for one in kept:
            if all(same(held, self._holders(name)) for name, held in one.holding.items()):
                self.loaded, self.torch_missing = dict(one.loaded), list(one.missing)
                return
        self._import_torch(torch)
        if len(kept) < IMPORTS:
            holding = {name: tuple(self._holders(name)) for name in self._asked}
            kept.append(_Imported(holding, dict(self.loaded), tuple(self.torch_missing)))

    def _import_torch(self, torch: WheelFacts) -> None:
        roots = [library for library in torch.libraries if TORCH_ROOT.search(library.path)]
        # libtorch_global_deps is loaded first and for all to see; then comes torch._C.
        for library in sorted(roots, key=lambda item: "global_deps" not in item.path):
            closure = self.closure(FoundLibrary(soname=library.name, where=Where.PATH, wheel=torch, library=library))
            for found in closure.found:
                self.loaded.setdefault(found.soname, found)
            self.torch_missing.extend(closure.missing)
        if any(library.scope == "listed" for library in roots):
            # What torch pulls in was not read; its own libraries are loaded with it at any rate.
            for library in torch.libraries:
                if library.path.startswith("torch/lib/"):
                    name = library.soname or library.name
                    self.loaded.setdefault(
                        name, FoundLibrary(soname=name, where=Where.PATH, wheel=torch, library=library)
                    )
        for found in list(self.loaded.values()):
            # A link in a wheel's folder asked for by file name finds the loaded library too.
            if found.library is not None:
                self.loaded.setdefault(found.library.name, found)

    @cached_property
    def global_scope(self) -> tuple[FoundLibrary, ...]:
        """Libraries whose symbols every other one sees: those of libtorch_global_deps."""
        torch = self.installation.torch
        if torch is None:
            return ()
        for library in torch.libraries:
            if library.path.endswith("libtorch_global_deps.so"):
                return self.closure(
                    FoundLibrary(soname=library.name, where=Where.PATH, wheel=torch, library=library)
                ).found
        return ()

    @cached_property
    def global_keys(self) -> frozenset[str]:
        """Keys of `global_scope`."""
        return frozenset(found.key for found in self.global_scope)

    @cached_property
    def global_ids(self) -> frozenset[int]:
        """Identities of the libraries of `global_scope`."""
        return frozenset(id(found.library) for found in self.global_scope if found.library is not None)

    def closure(self, root: FoundLibrary) -> Closure:
        """Return a library with everything it pulls in, breadth first."""
        library = root.library
        if library is None:
            return Closure(root, Rest((), ()))
        key = library.needed, library.search_folders, bool(library.runpath)
        rest = self._rests.get(key)
        if rest is None or root.key in rest.keys:
            rest, around = self._pulled_in(root)
            if self._settled and not around:
                self._rests[key] = rest
        return Closure(root, rest)

    def _pulled_in(self, root: FoundLibrary) -> tuple[Rest, bool]:
        """Return what a library pulls in, and whether something of that needs the library itself again."""
        order, missing, around, asked = [root], list[Missing](), False, set[str]()
        asked_by: dict[str, FoundLibrary | None] = {root.key: None}
        # What is found is appended while the list is gone through.
        for current in order:
            if current.library is None:
                continue
            asked.update(current.library.needed)
            needs: Sequence[FoundLibrary] | None = self._all_loaded(current.library.needed)
            if needs is None:
                needed = self._needed(current.library, current, asked_by)
                needs, by = needed.found, "" if current is root else current.key
                missing += (
                    Missing(soname=name, asked_by=by, where=where, holders=holders)
                    for name, where, holders in needed.missing
                )
            for found in needs:
                if found.key not in asked_by:
                    asked_by[found.key] = current
                    order.append(found)
                elif found.key == root.key:
                    around = True
        return Rest(tuple(order[1:]), tuple(missing), frozenset(asked)), around

    def _all_loaded(self, names: tuple[str, ...]) -> tuple[FoundLibrary, ...] | None:
        """Return what names find if torch has loaded all of it: then it does not matter who asks."""
        if names not in self._all_there:
            every = all(name in self.loaded for name in names)
            there = tuple(self._loaded(name) for name in names) if every else None
            if there is None and not self._settled:
                return None
            self._all_there[names] = there
        return self._all_there[names]

    def _needed(self, library: Library, current: FoundLibrary, asked_by: Mapping[str, FoundLibrary | None]) -> _Needs:
        """Return what a library needs and finds, and what it does not find."""
        chain: list[FoundLibrary] = []
        link: FoundLibrary | None = current
        while link is not None:
            chain.append(link)
            link = asked_by[link.key]
        # Who asks matters for where is looked alone; what torch has loaded matters as well until it is imported.
        key = library.needed, tuple(self._folders(chain))
        if key in self._looked_up:
            return self._looked_up[key]
        needs = _Needs()
        for name in library.needed:
            found = self.find(name, chain)
            if found.where in {Where.MISSING, Where.UNREACHABLE}:
                holders = tuple(f"{wheel.name} {wheel.version}" for wheel, _ in self._holders(name))
                needs.missing.append((name, found.where, holders))
            if found.where is not Where.MISSING:
                needs.found.append(found)
        if self._settled:
            self._looked_up[key] = needs
        return needs

    def find(self, name: str, chain: Sequence[FoundLibrary]) -> FoundLibrary:
        """Return what a needed name finds, asked by `chain[0]`, which `chain[1]` loaded, and so on."""
        if name in self.loaded:
            return self._loaded(name)
        head, _, file = name.rpartition("/")
        places = self._lying(file)
        if places:
            for folder in self._folders(chain):
                place = folder if not head else head if folder == "." else f"{folder}/{head}"
                if place in places:
                    wheel, library = places[place]
                    return self._found(library.soname or library.name, Where.PATH, wheel, library)
        if name not in self._elsewhere:
            self._elsewhere[name] = self._not_on_path(name)
        return self._elsewhere[name]

    def _not_on_path(self, name: str) -> FoundLibrary:
        if name in self.driver:
            return FoundLibrary(soname=name, where=Where.DRIVER)
        if name in self._system:
            return self._system[name]
        if self.of_the_system(name):
            return FoundLibrary(soname=name, where=Where.BASE)
        holders = self._holders(name)
        if holders:
            where = Where.PRELOADED if name in self._preloaded and self.installation.torch else Where.UNREACHABLE
            return FoundLibrary(soname=name, where=where, wheel=holders[0][0], library=holders[0][1])
        return FoundLibrary(soname=name, where=Where.MISSING)

    def _lying(self, file: str) -> dict[str, tuple[WheelFacts | None, Library]]:
        """Return folder -> library, of all that have a file name; of two with the same path the first counts."""
        if file not in self._places:
            found: dict[str, tuple[WheelFacts | None, Library]] = {}
            for wheel, library in self._holders(file):
                if library.name == file:
                    found.setdefault(library.folder, (wheel, library))
            for library in self._files.get(file, ()):
                found.setdefault(library.folder, (None, library))
            self._places[file] = found
        return self._places[file]

    def holders(self, name: str) -> Sequence[tuple[WheelFacts, Library]]:
        """Return the libraries of wheels that go by a name."""
        return self._holding.get(name, ())

    @property
    def held(self) -> Collection[str]:
        """Names that libraries of wheels go by."""
        return self._holding.keys()

    @cached_property
    def loaded_names(self) -> frozenset[str]:
        """Names of `loaded`."""
        return frozenset(self.loaded)

    @cached_property
    def loaded_from_wheels(self) -> frozenset[str]:
        """Names under which torch has loaded a wheel's library."""
        return frozenset(name for name, found in self.loaded.items() if found.wheel is not None)

    def of_the_system(self, name: str) -> bool:
        """Whether the driver or the base has a library of a name, as far as names tell."""
        return name in self.driver or name in self.installation.base.sonames or name in self.runtime

    def _holders(self, name: str) -> Sequence[tuple[WheelFacts, Library]]:
        """Return `holders`; until torch is imported, what was asked for is kept in mind."""
        if not self._settled:
            self._asked.add(name)
        return self.holders(name)

    def _loaded(self, name: str) -> FoundLibrary:
        if name not in self._as_loaded:
            loaded = self.loaded[name]
            where = Where.LOADED if loaded.wheel is not None else loaded.where
            self._as_loaded[name] = (
                FoundLibrary(soname=name, where=where)
                if loaded.library is None
                else self._found(name, where, loaded.wheel, loaded.library)
            )
        return self._as_loaded[name]

    def _found(self, name: str, where: Where, wheel: WheelFacts | None, library: Library) -> FoundLibrary:
        key = (name, where, library.path)
        if key not in self._made:
            self._made[key] = FoundLibrary(soname=name, where=where, wheel=wheel, library=library)
        return self._made[key]

    def _folders(self, chain: Sequence[FoundLibrary]) -> Iterable[str]:
        asking = chain[0].library
        if asking is None:
            return
        if not asking.runpath:
            for link in chain:
                if link.library is not None and not link.library.runpath:
                    yield from link.library.search_folders[0]
        yield from self.installation.base.search
        yield from asking.search_folders[1]

    def opaque(self, found: FoundLibrary) -> bool:
        """Whether a library is there of which the symbols are not known."""
        return found.library is None or found.library.scope == "listed"
