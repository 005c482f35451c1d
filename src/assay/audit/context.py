"""What all rules are given: the installation, the knowledge, the targets, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar, cast

from assay.audit.companions import Mismatch, mismatches
from assay.audit.findings import Finding
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import Knowledge, LibraryPolicy, RuntimeNeed
from assay.audit.linker import Closure, FoundLibrary, Linker, Where
from assay.foundation.outcome import Severity
from assay.foundation.versions import fits, public
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.symbols import SymbolKind
from assay.wheels.variants import for_others

__all__ = ["AsLocked", "Context", "Root", "TargetGpu", "label", "minor"]

T = TypeVar("T")
_EXTENSION: Final = re.compile(r"\.(?:abi3|cpython-\d+[a-z]*(?:-[\w-]+)?|pypy\w*(?:-[\w-]+)?)\.so$")


@dataclass(frozen=True, kw_only=True)
class TargetGpu:
    """A GPU that has to be supported."""

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
class AsLocked:
    """What an image should hold, and which files of it are not those of the locked wheels."""

    versions: Mapping[str, str]
    """Distribution -> version, as the lock has it."""
    changed: Mapping[str, Sequence[str]]
    """Distribution -> paths of its libraries that are others than in the locked wheel."""
    missing: Mapping[str, Sequence[str]]
    """Distribution -> paths of its libraries that are not there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Root:
    """A library that something loads by itself: a Python extension, or operators registered with torch."""

    wheel: WheelFacts
    library: Library
    closure: Closure
    policy: LibraryPolicy | None


def label(wheel: WheelFacts) -> str:
    """Return `name version`."""
    return f"{wheel.name} {wheel.version}"


@lru_cache(maxsize=1 << 12)
def minor(version: str) -> str:
    """Return `2.8` for `2.8.0+cu128`."""
    return ".".join(public(version).split(".")[:2])


@lru_cache(maxsize=1 << 14)
def _is_extension(name: str) -> bool:
    return _EXTENSION.search(name) is not None


@lru_cache(maxsize=1 << 16)
def _matches(path: str, glob: str) -> bool:
    return fnmatchcase(path, glob)


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """One question: would this work. Rules read it and change nothing in it."""

    installation: Installation
    knowledge: Knowledge
    targets: Sequence[TargetGpu] = ()
    demangle: Callable[[str], str] = str
    known: Mapping[str, Sequence[WheelFacts]] = field(default_factory=dict)
    """Distribution -> facts of other versions that are at hand, for suggestions."""
    problems: Sequence[Finding] = ()
    """Findings of the reading itself."""
    locked: AsLocked | None = None
    """For images: what should be installed."""
    _shared: dict[Callable[[Context], Any], Any] = field(default_factory=dict, init=False, repr=False)
    _others: dict[str, frozenset[str]] = field(default_factory=dict, init=False, repr=False)
    """Content of a wheel -> paths of its libraries for others."""

    def shared(self, analysis: Callable[[Context], T]) -> T:
        """Return what an analysis that several rules share says of this question; it runs once."""
        if analysis not in self._shared:
            self._shared[analysis] = analysis(self)
        return cast("T", self._shared[analysis])

    @cached_property
    def linker(self) -> Linker:
        """The dynamic linker's view of the installation."""
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
        targets = self.targets if target is None else (target,)
        return next(
            (
                entry
                for entry in self._policies.get(wheel.name, ())
                if self._names(entry, wheel, library)
                and fits(wheel.version, entry.versions)
                and (not entry.targets or (bool(targets) and all(self.on(gpu, entry.targets) for gpu in targets)))
            ),
            None,
        )

    @cached_property
    def _policies(self) -> dict[str, list[LibraryPolicy]]:
        found: dict[str, list[LibraryPolicy]] = {}
        for entry in self.knowledge.dispatch.libraries:
            found.setdefault(entry.package, []).append(entry)
        return found

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

    def tabled(self, listed: Iterable[FoundLibrary]) -> str | None:
        """Return the release by which the table of torch's exports stands in for libraries that were not read."""
        torch = self.torch
        if torch is None or not any(found.wheel is torch for found in listed):
            return None
        release = public(torch.version)
        return release if self.knowledge.history.knows(release) else None

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """What is loaded by itself, of all wheels but torch."""
        return tuple(root for _, roots in self.roots_of for root in roots)

    @cached_property
    def roots_of(self) -> tuple[tuple[WheelFacts, tuple[Root, ...]], ...]:
        """Each wheel with libraries, and what of it is loaded by itself; of torch nothing, it is loaded first."""
        return tuple((wheel, () if wheel.is_torch else tuple(self._roots(wheel))) for wheel in self.installation.native)

    def _roots(self, wheel: WheelFacts) -> Iterable[Root]:
        others = self.others(wheel)
        for library in wheel.libraries:
            if library.scope == "listed" or library.machine == "cuda" or library.path in others:
                continue
            policy = self.policy(wheel, library)
            loads = library.torch_kind is not SymbolKind.NONE or _is_extension(library.name) or library.extension
            if loads or (policy is not None and policy.use == "required"):
                start = FoundLibrary(
                    soname=library.soname or library.name, where=Where.PATH, wheel=wheel, library=library
                )
                yield Root(wheel=wheel, library=library, closure=self.linker.closure(start), policy=policy)

    def others(self, wheel: WheelFacts) -> frozenset[str]:
        """Return the paths of a wheel's libraries for another torch, Python or CUDA: packages load the one that fits.

        That one is for another torch, its name says. For another Python or CUDA it is only if the one for these stands
        beside it: alone it is what rules L5 and L1 are about.
        """
        if wheel.content not in self._others:
            torch = self.torch
            self._others[wheel.content] = for_others(
                wheel,
                torch=None if torch is None else minor(torch.version),
                cuda=None if torch is None else torch.cuda,
                python=self.installation.python,
            )
        return self._others[wheel.content]

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

    @staticmethod
    def severity(policy: LibraryPolicy | None, default: Severity = Severity.ERROR) -> Severity:
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
