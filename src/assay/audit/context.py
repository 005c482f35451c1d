"""What all rules share: the installation, the knowledge, and what was worked out of them once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Final

from packaging.version import InvalidVersion

from assay.audit import settled
from assay.audit.companions import Mismatch, mismatches
from assay.audit.findings import Finding
from assay.audit.history import TorchHistory
from assay.audit.knowledge import Knowledge, LibraryPolicy, RuntimeNeed, fits, parsed
from assay.audit.linker import Base, Closure, FoundLibrary, Installation, Linker, Where
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts, torch_names
from assay.wheels.symbols import SymbolKind
from assay.wheels.variants import for_others

__all__ = ["Context", "Root", "TargetGpu", "label", "minor", "torch_release"]

_EXTENSION: Final = re.compile(r"\.(?:abi3|cpython-\d+[a-z]*(?:-[\w-]+)?|pypy\w*(?:-[\w-]+)?)\.so$")


@dataclass(frozen=True, kw_only=True)
class TargetGpu:
    """A GPU to be true on."""

    name: str
    capability: int
    """120 for 12.0."""
    driver_cuda: str | None = None
    """Newest CUDA version of the driver there, if that is known."""
    shared_memory: int | None = None
    title: str = ""
    """The card as people name it."""

    @cached_property
    def dotted(self) -> str:
        """`12.0`."""
        return f"{self.capability // 10}.{self.capability % 10}"


@dataclass(frozen=True, kw_only=True)
class Root:
    """A library that something loads by itself: a Python extension, or operators registered with torch."""

    wheel: WheelFacts
    library: Library
    closure: Closure
    kind: SymbolKind
    policy: LibraryPolicy | None


def label(wheel: WheelFacts) -> str:
    """Return `name version`."""
    return f"{wheel.name} {wheel.version}"


@lru_cache(maxsize=1 << 12)
def torch_release(version: str) -> str:
    """Return the release without local part: `2.8.0` for `2.8.0+cu128`."""
    try:
        return parsed(version).public
    except InvalidVersion:
        return version


@lru_cache(maxsize=1 << 12)
def minor(version: str) -> str:
    """Return `2.8` for `2.8.0+cu128`."""
    return ".".join(torch_release(version).split(".")[:2])


@lru_cache(maxsize=1 << 14)
def _is_extension(name: str) -> bool:
    return _EXTENSION.search(name) is not None


@lru_cache(maxsize=1 << 16)
def _matches(path: str, glob: str) -> bool:
    return fnmatchcase(path, glob)


def _loadable(wheel: WheelFacts, others: frozenset[str]) -> tuple[tuple[Library, bool], ...]:
    """Return the libraries of a wheel that were read and are not for others, and whether each is loaded by itself."""
    return wheel.once(
        ("loadable", others),
        None,
        lambda: tuple(
            (library, library.torch_kind is not SymbolKind.NONE or _is_extension(library.name) or library.extension)
            for library in wheel.libraries
            if library.scope != "listed" and library.machine != "cuda" and library.path not in others
        ),
    )


def _built_for(wheel: WheelFacts, others: frozenset[str], history: TorchHistory) -> tuple[str, ...]:
    for line in wheel.requires_dist:
        match = _TORCH_PIN.match(line)
        if match:
            return (minor(match.group(1)),)
    names = wheel.torch_names
    if others:
        names = torch_names(library for library in wheel.libraries if library.path not in others)
    releases = history.having_all(names) if names else ()
    return tuple(dict.fromkeys(minor(release) for release in releases))


@dataclass
class Context:
    """One audit."""

    installation: Installation
    knowledge: Knowledge
    targets: Sequence[TargetGpu] = ()
    demangle: Callable[[str], str] = str
    known: Mapping[str, Sequence[WheelFacts]] = field(default_factory=dict)
    """Distribution -> facts of other versions that are at hand, for suggestions."""
    findings: list[Finding] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    """Path of a root -> why it does not load."""
    failing: dict[str, str] = field(default_factory=dict)
    """The same with those that a package can do without."""
    uncertain: dict[int, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """Identity of a wheel -> (sha256, path) of libraries whose symbols would have to be read to be sure of it."""
    torch_bound: set[int] = field(default_factory=set)
    """Identities of wheels of which another torch might make something else."""
    crossed: set[int] = field(default_factory=set)
    """Identities of wheels that brought to light what is told of another one, and of that one."""
    with_versions: dict[int, list[Library]] = field(default_factory=dict)
    """Identity of a wheel -> its libraries that ask for versions of others than the runtime, or for newer ones."""
    _policy: dict[tuple[int, int | None], dict[str, LibraryPolicy | None]] = field(default_factory=dict)
    """Identity of a wheel and capability -> path of a library -> how it is used."""
    _variants: dict[int, frozenset[str]] = field(default_factory=dict)
    """Identity of a wheel -> paths of its libraries for others."""

    @cached_property
    def linker(self) -> Linker:
        sonames = self.knowledge.sonames
        return Linker(
            self.installation,
            driver=sonames.driver,
            runtime=sonames.always,
            preloaded=sonames.preloaded,
        )

    @property
    def base(self) -> Base:
        return self.installation.base

    @property
    def torch(self) -> WheelFacts | None:
        return self.installation.torch

    def policy(self, wheel: WheelFacts, library: Library, target: TargetGpu | None = None) -> LibraryPolicy | None:
        """Return how a package uses a library, from the first matching entry.

        Args:
            target: the GPU in question; none: an entry for some GPUs alone holds only if all targets are among them.
        """
        entries = self._policies.get(wheel.name)
        if entries is None:
            return None
        # Entries are for capabilities: whatever else is known of a GPU does not matter.
        here = (id(wheel), None if target is None else target.capability)
        kept = self._policy.get(here)
        if kept is None:
            gpus = tuple(gpu.capability for gpu in self.targets) if target is None else (target.capability,)
            key = "policies", id(self.knowledge), target is None, gpus, self._cuda_for(wheel)
            kept = self._policy[here] = wheel.once(key, self.knowledge, dict[str, LibraryPolicy | None])
        if library.path not in kept:
            targets = self.targets if target is None else (target,)
            kept[library.path] = next(
                (
                    entry
                    for entry in entries
                    if self._names(entry, wheel, library)
                    and fits(wheel.version, entry.versions)
                    and (not entry.targets or (bool(targets) and all(self.on(gpu, entry.targets) for gpu in targets)))
                ),
                None,
            )
        return kept[library.path]

    @cached_property
    def _policies(self) -> dict[str, list[LibraryPolicy]]:
        found: dict[str, list[LibraryPolicy]] = {}
        for entry in self.knowledge.dispatch.libraries:
            found.setdefault(entry.package, []).append(entry)
        return found

    def _cuda_for(self, wheel: WheelFacts) -> str | None:
        """Return the CUDA version of torch, where a wheel has libraries of which it picks one by that."""
        torch = self.torch
        picks = torch is not None and any(entry.by_cuda for entry in self._policies.get(wheel.name, ()))
        return torch.cuda if torch is not None and picks else None

    def _names(self, entry: LibraryPolicy, wheel: WheelFacts, library: Library) -> bool:
        """Whether an entry is about a library; of one with a place for CUDA's version, the library that is loaded."""
        if not entry.by_cuda:
            return _matches(library.path, entry.library)
        torch = self.torch
        if torch is None or torch.cuda is None:
            return False
        chosen = entry.chosen((item.path for item in wheel.libraries), torch.cuda)
        return chosen is not None and chosen == library.path

    def without_cuda(self, wheel: WheelFacts) -> tuple[str, ...] | None:
        """Return the CUDA versions a wheel has libraries for, if it picks one by torch's and none of them fits."""
        torch = self.torch
        if torch is None or torch.cuda is None:
            return None
        for entry in self._policies.get(wheel.name, ()):
            if entry.by_cuda and fits(wheel.version, entry.versions):
                paths = [item.path for item in wheel.libraries]
                if entry.chosen(paths, torch.cuda) is None:
                    return tuple(f"{major}.{minor}" for major, minor in sorted(entry.variants(paths))) or None
        return None

    @staticmethod
    def on(target: TargetGpu, globs: Iterable[str]) -> bool:
        """Tell whether a target's capability is among globs such as `12.*`."""
        return any(_matches(target.dotted, glob) for glob in globs)

    @cached_property
    def _surroundings(self) -> tuple[settled.Surroundings, ...]:
        """What the verdict on a wheel may rest on, the least first; empty where that is not told apart."""
        here = settled.surroundings_of(self.linker, self.knowledge, self.targets, self.demangle)
        if here is None:
            return ()
        unread = [found for found in self.linker.global_scope if self.linker.opaque(found)]
        return settled.with_any_torch(here, unread, self.tabled(unread)), here

    @cached_property
    def settled(self) -> Mapping[int, settled.Settled]:
        """Identity of a wheel -> what the rules about loading are known to say of it here."""
        found: dict[int, settled.Settled] = {}
        if not self._surroundings:
            return found
        for wheel in self.installation.native:
            if wheel.is_torch:
                continue
            kept = settled.settled_in(wheel, self._others(wheel))
            for one in itertools.chain.from_iterable(kept.get(id(here), ()) for here in self._surroundings):
                if one.holds_for(self.linker):
                    found[id(wheel)] = one
                    break
        return found

    def say_what_is_settled(self) -> None:
        """Say what the rules about loading said of the settled wheels in another cell."""
        for number, known in self.settled.items():
            self.findings += known.findings
            self.uncertain[number] = known.uncertain
            for path, why in known.broken:
                self.broken.setdefault(path, why)

    def settle(self, said: Iterable[Finding]) -> None:
        """Keep with wheels what the rules about loading said of them, where that holds in other cells too."""
        if not self._surroundings:
            return
        told: dict[str, list[Finding]] = {}
        for finding in said:
            told.setdefault(finding.package, []).append(finding)
        for wheel in self.installation.native:
            if not (wheel.is_torch or id(wheel) in self.settled or id(wheel) in self.crossed):
                self._settle(wheel, self.roots_of.get(id(wheel), ()), told.get(label(wheel), ()))

    def _settle(self, wheel: WheelFacts, roots: Sequence[Root], findings: Sequence[Finding]) -> None:
        versioned = self.with_versions.get(id(wheel), ())
        reached = {root.library.path for root in roots}.union(*(root.closure.rest.keys for root in roots))
        if not settled.holds(findings) or not all(library.path in reached for library in versioned):
            # Whether a library that it does not load itself is loaded, others decide.
            return
        asked = frozenset[str]().union(
            *(root.closure.rest.asked for root in roots), *(library.requires for library in versioned)
        )
        files = {name.rpartition("/")[2] for name in asked if "/" in name}
        names = asked | files
        any_torch, here = self._surroundings
        loaded = None
        if id(wheel) not in self.torch_bound and wheel.name not in self._policies:
            loaded = settled.of_the_base(names, self.linker)
        if loaded is None:
            # What torch has loaded is found whoever else goes by its name.
            names = (asked - self.linker.loaded_names) | files
        surroundings = here if loaded is None else any_torch
        kept = settled.settled_in(wheel, self._others(wheel)).setdefault(id(surroundings), [])
        if len(kept) < settled.MOST:
            kept.append(
                settled.Settled(
                    surroundings,
                    settled.RestsOn.of(names, self.linker),
                    loaded=loaded,
                    findings=tuple(findings),
                    uncertain=self.uncertain.get(id(wheel), frozenset()),
                    broken=tuple((path, why) for path, why in self.broken.items() if path in wheel.paths),
                    cuda_runtimes=self.cuda_runtimes.get(id(wheel), ()),
                    reaches=frozenset(reached - wheel.paths),
                )
            )

    @cached_property
    def cuda_runtimes(self) -> Mapping[int, tuple[str, ...]]:
        """Identity of a wheel -> CUDA's runtime as its modules ask for it, by SONAME."""
        asked: dict[int, dict[str, None]] = {}
        for root in self.roots:
            for name in root.library.needed:
                if name.startswith("libcudart.so."):
                    asked.setdefault(id(root.wheel), {})[name] = None
        return {number: tuple(names) for number, names in asked.items()} | {
            number: known.cuda_runtimes for number, known in self.settled.items() if known.cuda_runtimes
        }

    def tabled(self, listed: Iterable[FoundLibrary]) -> str | None:
        """Return the release by which the table of torch's exports stands in for libraries that were not read."""
        torch = self.torch
        if torch is None or not any(found.wheel is torch for found in listed):
            return None
        release = torch_release(torch.version)
        return release if self.knowledge.history.knows(release) else None

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """What is loaded by itself, of all wheels but torch, the CUDA libraries and those that are settled."""
        found: list[Root] = []
        for wheel in self.installation.native:
            if wheel.is_torch or id(wheel) in self.settled:
                continue
            for library, loads in _loadable(wheel, self._others(wheel)):
                policy = self.policy(wheel, library)
                if not loads and not (policy is not None and policy.use == "required"):
                    continue
                start = FoundLibrary(
                    soname=library.soname or library.name, where=Where.PATH, wheel=wheel, library=library
                )
                found.append(
                    Root(
                        wheel=wheel,
                        library=library,
                        closure=self.linker.closure(start),
                        kind=library.torch_kind,
                        policy=policy,
                    )
                )
        return tuple(found)

    @cached_property
    def roots_of(self) -> Mapping[int, Sequence[Root]]:
        """Identity of a wheel -> those of `roots` that are its own."""
        found: dict[int, list[Root]] = {}
        for root in self.roots:
            found.setdefault(id(root.wheel), []).append(root)
        return found

    def for_others(self, wheel: WheelFacts, library: Library) -> bool:
        """Whether a library is the variant for another torch, Python or CUDA: packages load the one that fits.

        That it is for another torch, its name says. For another Python or CUDA it is only if the one for these stands
        beside it: alone it is what rules L5 and L1 are about.
        """
        return library.path in self._others(wheel)

    def _others(self, wheel: WheelFacts) -> frozenset[str]:
        if id(wheel) not in self._variants:
            torch = self.torch
            self._variants[id(wheel)] = for_others(
                wheel,
                torch=None if torch is None else minor(torch.version),
                cuda=None if torch is None else torch.cuda,
                python=self.installation.python,
            )
        return self._variants[id(wheel)]

    def apart(self, wheel: WheelFacts) -> Hashable:
        """Return all of the rest of a cell that decides which libraries of a wheel are used, and how."""
        return self._others(wheel), self._cuda_for(wheel)

    def built_for(self, wheel: WheelFacts) -> tuple[str, ...]:
        """Return the torch minors a wheel with torch's unstable ABI can have been compiled against, oldest first.

        Known by a pin in its metadata, else by which releases export all it asks for; empty if nothing is known.
        """
        others, history = self._others(wheel), self.knowledge.history
        return wheel.once(("built for", others, id(history)), history, lambda: _built_for(wheel, others, history))

    @cached_property
    def read_in_part(self) -> bool:
        """Whether of any library of the wheels no more than its name is known."""
        return any(wheel.read_in_part for wheel in self.installation.native)

    @cached_property
    def unmet_needs(self) -> tuple[RuntimeNeed, ...]:
        """What packages that are here need when they run, and nothing here is known to bring."""
        versions = self.installation.versions
        have = versions.keys() | self.base.packages | self.installation.elsewhere
        return tuple(
            need
            for need in self.knowledge.needs.needs
            if need.package in versions
            and fits(versions[need.package], need.versions)
            and have.issuperset(need.beside)
            and have.isdisjoint(need.provided_by)
            and have.isdisjoint(need.unless)
            and not self._set_in_environment(need)
            and (not need.targets or any(self.on(gpu, need.targets) for gpu in self.targets))
        )

    @cached_property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """Return the packages whose versions must go together and do not."""
        return tuple(mismatches(self.knowledge.companions.companions, self.installation.versions))

    def _set_in_environment(self, need: RuntimeNeed) -> bool:
        known = self.base.environment
        return bool(need.provided_by_env) and (known is None or not known.isdisjoint(need.provided_by_env))

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)

    def severity(self, policy: LibraryPolicy | None, default: Severity = Severity.ERROR) -> Severity:
        """Return how much a fault of a library weighs."""
        if policy is None:
            return default
        match policy.use:
            case "required":
                return default
            case "optional":
                return Severity.WARNING
            case "never":
                return Severity.INFO


_TORCH_PIN: Final = re.compile(r"torch\s*\(?\s*===?\s*([\w.]+?)(?:\+\w[\w.]*)?\s*\)?\s*(?:;|$)")
