"""What is judged: a base and the wheels that are, or would be, installed on it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from assay.wheels.facts import Library, WheelFacts

__all__ = ["Base", "Installation"]


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
