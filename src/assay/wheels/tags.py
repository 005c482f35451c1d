"""What the name of a wheel file says of where it runs: Python and platform. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

__all__ = ["CPYTHON", "fits_platform", "platform_of", "platform_words", "python_of", "tags_for", "tags_of"]

CPYTHON: Final = re.compile(r"cp(\d)(\d+)")
_LINUX: Final = re.compile(r"(?:many)?linux(?:_\d+_\d+|\d+)?_(\w+)")
_MANYLINUX_LEGACY: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_NEWEST: Final = 14
"""The newest minor of Python 3 that is taken where a file says no more than the oldest."""


@lru_cache(maxsize=1 << 12)
def tags_of(filename: str) -> frozenset[Tag]:
    """Return the tags in the name of a wheel file; none if it is the name of no wheel."""
    try:
        return parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:
        return frozenset()


def fits_platform(platform: str, machine: str) -> bool:
    """Return whether a platform tag is for Linux with glibc on a machine, `x86_64` or `aarch64`."""
    match = _LINUX.fullmatch(platform)
    return platform == "any" or (match is not None and match[1] == machine)


def platform_of(filename: str) -> str | None:
    """Return the machine that a wheel for Linux is for: `x86_64`; None if for any, for another system, or for none."""
    machines = {match[1] for tag in tags_of(filename) if (match := _LINUX.fullmatch(tag.platform))}
    return min(machines, default=None)


def platform_words(filename: str) -> str:
    """Return what a wheel is for, as people say it: `Windows (win_amd64)`."""
    platforms = sorted({tag.platform for tag in tags_of(filename)})
    named = ", ".join(platforms)
    if all(platform.startswith("win") for platform in platforms):
        return f"Windows ({named})"
    if all(platform.startswith("macosx") for platform in platforms):
        return f"macOS ({named})"
    if all(platform.startswith("musllinux") for platform in platforms):
        return f"Linux with musl ({named})"
    machine = platform_of(filename)
    return f"Linux {machine} ({named})" if machine else named


def python_of(filename: str, requires: str | None = None) -> str | None:
    """Return the Python that a wheel is for by its own name; None if any will do.

    A file for some releases is for the newest of them. One with the stable ABI (`cp39-abi3`) has to work on the oldest
    Python it admits: of its tag and of its Requires-Python the newer one.
    """
    exact: list[int] = []
    least: list[int] = []
    for tag in tags_of(filename):
        match = CPYTHON.fullmatch(tag.interpreter)
        if match is None or match[1] != "3":
            continue
        (least if tag.abi == "abi3" else exact).append(int(match[2]))
    if exact:
        return f"3.{max(exact)}"
    if not least:
        return None
    minors = range(min(least), max(_NEWEST, min(least)) + 1)
    return next((f"3.{minor}" for minor in minors if _admits(requires, minor)), f"3.{min(least)}")


def _admits(requires: str | None, minor: int) -> bool:
    try:
        return not requires or SpecifierSet(requires).contains(f"3.{minor}.99")
    except InvalidSpecifier:
        return True


def tags_for(python: str, platform: str) -> dict[Tag, int]:
    """Return the wheel tags an interpreter takes, each with its rank (0 is best).

    Args:
        python: `3.11`.
        platform: `x86_64-manylinux_2_36`.
    """
    architecture, _, manylinux = platform.partition("-")
    highest = int(manylinux.rsplit("_", 1)[1])
    platforms: list[str] = []
    for minor in range(highest, 4, -1):
        platforms.append(f"manylinux_2_{minor}_{architecture}")
        if minor in _MANYLINUX_LEGACY:
            platforms.append(f"{_MANYLINUX_LEGACY[minor]}_{architecture}")
    platforms.append(f"linux_{architecture}")
    major, minor_text = python.split(".")[:2]
    version = (int(major), int(minor_text))
    interpreter = f"cp{major}{minor_text}"
    tags = [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}
