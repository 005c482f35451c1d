"""Versions and the specifiers they meet (PEP 440), in one place."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

__all__ = ["distance", "fits", "nearest", "parsed", "public"]


@lru_cache(maxsize=1 << 14)
def parsed(version: str) -> Version:
    """Return `Version(version)`: there are few, and they are compared often."""
    return Version(version)


@lru_cache(maxsize=1 << 12)
def public(version: str) -> str:
    """Return the version without its local part: `2.8.0` for `2.8.0+cu128`; what is not a version stays as it is."""
    try:
        return parsed(version).public
    except InvalidVersion:
        return version


@lru_cache(maxsize=1 << 16)
def fits(version: str, specifier: str, *, unknown: bool | None = None) -> bool:
    """Tell whether a version meets a specifier; pre-releases count, and nothing meets what is not a specifier.

    Args:
        unknown: the answer for what is not a version; by default only the empty specifier takes it.
    """
    try:
        return _specifiers(specifier).contains(parsed(version), prereleases=True)
    except InvalidVersion:
        return not specifier if unknown is None else unknown
    except InvalidSpecifier:
        return False


@lru_cache(maxsize=1 << 12)
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


def nearest(versions: Iterable[str], to: str) -> tuple[str, ...]:
    """Return up to three of the versions, nearest first; what is not a version is left out."""
    here = parsed(to)
    valid: list[tuple[tuple[int, ...], str]] = []
    for text in set(versions):
        try:
            valid.append((distance(parsed(text), here), text))
        except InvalidVersion:
            continue
    return tuple(text for _, text in sorted(valid)[:3])


def distance(one: Version, other: Version) -> tuple[int, ...]:
    """Return how far two versions are apart, the weightiest difference first."""
    length = max(len(one.release), len(other.release))
    first = one.release + (0,) * (length - len(one.release))
    second = other.release + (0,) * (length - len(other.release))
    return tuple(abs(a - b) for a, b in zip(first, second, strict=True))
