"""The releases of a distribution on an index, newest first, and the Pythons that each has a wheel for on a platform."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from assay.errors import QuestionError
from assay.foundation.versions import fits
from assay.ports.index import IndexFile, PackageIndex
from assay.wheels.tags import platform_words, tags_for

__all__ = ["Release", "builds", "pythons_of", "releases"]

_NAMED = 5
"""Versions that a message names."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version, with the files that are neither withdrawn nor of another version."""

    version: Version
    files: tuple[IndexFile, ...]

    @property
    def wheels(self) -> tuple[IndexFile, ...]:
        """Its wheels, for all platforms."""
        return tuple(file for file in self.files if file.filename.endswith(".whl"))

    @property
    def uploaded(self) -> str | None:
        """The day of its first file, where the index says it."""
        return min((file.uploaded for file in self.files if file.uploaded), default=None)

    def wheel(self, python: str, platform: str) -> IndexFile | None:
        """Return the wheel that an installer takes, its last build; None if there is none.

        Args:
            python: `3.12`.
            platform: `x86_64-manylinux_2_36`.
        """
        ranks = tags_for(python, platform)
        rated = []
        for file in self.wheels:
            _, _, build, tags = parse_wheel_filename(file.filename)
            rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
            if rank is not None and _admits(file.requires_python, python):
                rated.append(((build, -rank), file))
        return max(rated, key=lambda item: item[0])[1] if rated else None

    def lack(self, platform: str) -> str:
        """Return why it has no wheel for a platform, in words."""
        if not self.wheels:
            return "published only as source: nothing can be read before it is built"
        there = dict.fromkeys(platform_words(file.filename).partition(" (")[0] for file in self.wheels)
        machine, _, glibc = platform.partition("-manylinux_")
        where = f"Linux {machine}"
        if where in there:
            words = ", ".join(dict.fromkeys(platform_words(file.filename) for file in self.wheels))
            return f"no wheel for these Pythons on {where} with glibc {glibc.replace('_', '.')}; it has {words}"
        return f"no wheel for {where}; it has wheels for {', '.join(there)}"


def releases(index: PackageIndex, wanted: Requirement, *, pre: bool = False) -> list[Release]:
    """Return the releases that meet a requirement, newest first; local builds of a version belong to it.

    Args:
        index: where to look.
        wanted: name and versions.
        pre: pre-releases too; they count anyway if there is nothing else.

    Raises:
        QuestionError: the index does not know the name, has no such version, or has sources alone.
        PackageIndexError: the index cannot be asked.
    """
    name = str(canonicalize_name(wanted.name))
    files = index.files(name)
    if not files:
        hint = "check the spelling, or name the index that has it with --index"
        raise QuestionError(f"the package index does not know {name}", hint=hint)
    found: dict[Version, list[IndexFile]] = {}
    for file in files:
        if not file.yanked:
            found.setdefault(Version(_version(file).public), []).append(file)
    if not any(file.filename.endswith(".whl") for file in files):
        text = f"the package index has no wheels of {name}; it is published as source"
        raise QuestionError(text, hint="build the wheel, and add --index FOLDER")
    fitting = sorted((one for one in found if wanted.specifier.contains(one, prereleases=True)), reverse=True)
    final = [one for one in fitting if not one.is_prerelease]
    chosen = fitting if pre else final or fitting
    if not chosen:
        newest = [str(one) for one in sorted(found, reverse=True) if not one.is_prerelease][:_NAMED]
        text = f"the package index has no {wanted}"
        raise QuestionError(text, hint=f"its newest: {', '.join(newest)}")
    return [Release(version=one, files=tuple(found[one])) for one in chosen]


def builds(index: PackageIndex, name: str, version: str, python: str, platform: str) -> Sequence[str]:
    """Return the other builds of a version for CUDA that an index has: `2.14.0+cu128`; not those for CPUs.

    Args:
        index: where to look.
        name: the distribution.
        version: with its local part.
        python: `3.12`.
        platform: `x86_64-manylinux_2_36`.
    """
    here = Version(version)
    files: dict[Version, list[IndexFile]] = {}
    for file in index.files(name):
        one = _version(file)
        if one.public == here.public and one != here and (one.local or "").startswith("cu") and not file.yanked:
            files.setdefault(one, []).append(file)
    usable = (one for one in files if Release(version=one, files=tuple(files[one])).wheel(python, platform))
    return [str(one) for one in sorted(usable, reverse=True)]


def pythons_of(release: Release, asked: Iterable[str], platform: str) -> list[str]:
    """Return those of some Pythons that a release has a wheel for on a platform."""
    return [python for python in asked if release.wheel(python, platform) is not None]


def _version(file: IndexFile) -> Version:
    if file.filename.endswith(".whl"):
        return parse_wheel_filename(file.filename)[1]
    return parse_sdist_filename(file.filename)[1]


def _admits(requires: str | None, python: str) -> bool:
    return not requires or fits(f"{python}.99", requires)
