"""Nearest known names, for messages about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest", "suggestion"]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names like this one, best first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or `; known: a, b` for short lists, or nothing."""
    names = list(known)
    close = nearest(name, names)
    if close:
        return "; did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    if 0 < len(names) <= 12:
        return "; known: " + ", ".join(sorted(names))
    return ""
