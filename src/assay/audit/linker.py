"""The dynamic linker's view of an installation: which library a name finds, and which symbols are in reach.

Emulated is what glibc does with RTLD_NOW, as Python's import and torch's load_library do: names are looked up among
what is loaded already, then DT_RPATH of the asking library and of those that loaded it (unless it has DT_RUNPATH),
then DT_RUNPATH, then the system's folders; symbols in the global scope and then breadth first through the needed
libraries of the one that is loaded. Nothing of the machine this runs on is looked at.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Final

from assay.audit.installation import Installation
from assay.wheels.facts import Library, WheelFacts

__all__ = ["Closure", "FoundLibrary", "Linker", "Missing", "Rest", "Where"]

TORCH_ROOT: Final = re.compile(r"torch/(_C\.[^/]*\.so|lib/libtorch_global_deps\.so)$")


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
        self._imported = False
        self._holding: defaultdict[str, list[tuple[WheelFacts, Library]]] = defaultdict(list)
        for wheel in installation.native:
            for name, libraries in wheel.named.items():
                self._holding[name] += ((wheel, library) for library in libraries)
        self._places: dict[str, dict[str, tuple[WheelFacts | None, Library]]] = {}
        self._files: dict[str, list[Library]] = {}
        self.system: dict[str, FoundLibrary] = {}
        """Soname -> library of an image's base, where these were read."""
        for library in installation.base.libraries:
            found = FoundLibrary(soname=library.soname or library.name, where=Where.BASE, library=library)
            for name in {found.soname, library.name}:
                self.system.setdefault(name, found)
            self._files.setdefault(library.name, []).append(library)
        self.loaded: dict[str, FoundLibrary] = {}
        """Soname -> library, after `import torch`."""
        self.torch_missing: list[Missing] = []
        if self.installation.torch is not None:
            self._import_torch(self.installation.torch)
        self._imported = True
        self._all_there.clear()

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

    def closure(self, root: FoundLibrary) -> Closure:
        """Return a library with everything it pulls in, breadth first."""
        library = root.library
        if library is None:
            return Closure(root, Rest((), ()))
        key = library.needs, library.search_folders, bool(library.runpath)
        rest = self._rests.get(key)
        if rest is None or root.key in rest.keys:
            rest, around = self._pulled_in(root)
            if self._imported and not around:
                self._rests[key] = rest
        return Closure(root, rest)

    def _pulled_in(self, root: FoundLibrary) -> tuple[Rest, bool]:
        """Return what a library pulls in, and whether something of that needs the library itself again."""
        order, missing, around = [root], list[Missing](), False
        asked_by: dict[str, FoundLibrary | None] = {root.key: None}
        # What is found is appended while the list is gone through.
        for current in order:
            if current.library is None:
                continue
            needs: Sequence[FoundLibrary] | None = self._all_loaded(current.library.needs)
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
        return Rest(tuple(order[1:]), tuple(missing)), around

    def _all_loaded(self, names: tuple[str, ...]) -> tuple[FoundLibrary, ...] | None:
        """Return what names find if torch has loaded all of it: then it does not matter who asks."""
        if names not in self._all_there:
            every = all(name in self.loaded for name in names)
            there = tuple(self._loaded(name) for name in names) if every else None
            if there is None and not self._imported:
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
        key = library.needs, tuple(self._folders(chain))
        if key in self._looked_up:
            return self._looked_up[key]
        needs = _Needs()
        for name in library.needs:
            found = self.find(name, chain)
            if found.where in {Where.MISSING, Where.UNREACHABLE}:
                holders = tuple(f"{wheel.name} {wheel.version}" for wheel, _ in self.holders(name))
                needs.missing.append((name, found.where, holders))
            if found.where is not Where.MISSING:
                needs.found.append(found)
        if self._imported:
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
        if name in self.system:
            return self.system[name]
        if self.of_the_system(name):
            return FoundLibrary(soname=name, where=Where.BASE)
        holders = self.holders(name)
        if holders:
            where = Where.PRELOADED if name in self._preloaded and self.installation.torch else Where.UNREACHABLE
            return FoundLibrary(soname=name, where=where, wheel=holders[0][0], library=holders[0][1])
        return FoundLibrary(soname=name, where=Where.MISSING)

    def _lying(self, file: str) -> dict[str, tuple[WheelFacts | None, Library]]:
        """Return folder -> library, of all that have a file name; of two with the same path the first counts."""
        if file not in self._places:
            found: dict[str, tuple[WheelFacts | None, Library]] = {}
            for wheel, library in self.holders(file):
                if library.name == file:
                    found.setdefault(library.folder, (wheel, library))
            for library in self._files.get(file, ()):
                found.setdefault(library.folder, (None, library))
            self._places[file] = found
        return self._places[file]

    def holders(self, name: str) -> Sequence[tuple[WheelFacts, Library]]:
        """Return the libraries of wheels that go by a name."""
        return self._holding.get(name, ())

    def of_the_system(self, name: str) -> bool:
        """Whether the driver or the base has a library of a name, as far as names tell."""
        return name in self.driver or name in self.installation.base.sonames or name in self.runtime

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
