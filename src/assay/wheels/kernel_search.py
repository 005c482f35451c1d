"""Looks for kernels by expressions over their names, in one text with a name a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

__all__ = ["searcher"]

_PLAIN: Final = re.compile(r"(?:[a-z]-[a-z]|[0-9]-[0-9]|[A-Za-z0-9_|.*+?)\[\]]|\((?!\?)|\(\?[:=!])*")
"""Expressions that find in lines what they find in each line, and in small letters what they find in any."""
_WORD: Final = re.compile(r"[a-z0-9_]+")
_CLASS: Final = re.compile(r"\[[^\]]+\][?*+]?")
_GROUP: Final = re.compile(r"\([^()]*\)[?*+]?")
_OPTIONAL: Final = re.compile(r"[a-z0-9_][?*]")


@lru_cache(maxsize=1 << 10)
def searcher(expression: str) -> Callable[[bytes], bool] | None:
    """Return what tells whether an expression finds, whatever the case, a name among names in small letters.

    None for expressions that may find something else in such a text than in each name by itself.

    An expression with several alternatives has no fixed beginning for `re` to look for, and is several times slower
    than its alternatives one by one; most of these are words, or cannot be there where a word is not.
    """
    if not _PLAIN.fullmatch(expression):
        return None
    ways = [
        (_word_in(way).encode(), None if _WORD.fullmatch(way) else re.compile(way.encode()))
        for way in _alternatives(expression.lower())
    ]

    def finds(text: bytes) -> bool:
        return any(word in text and (way is None or way.search(text) is not None) for word, way in ways)

    return finds


def _alternatives(expression: str) -> Iterator[str]:
    """Yield the alternatives of an expression that are in no brackets, but in such as stand around all of it."""
    inner = expression[3:-1]
    if expression.startswith("(?:") and expression.endswith(")") and min(_depths(inner), default=0) >= 0:
        yield from _alternatives(inner)
        return
    start = 0
    for place, depth in enumerate(_depths(expression)):
        if expression[place] == "|" and depth == 0:
            yield expression[start:place]
            start = place + 1
    yield expression[start:]


def _depths(expression: str) -> list[int]:
    """Return in how many brackets each character stands; a closing one stands outside of its own."""
    depth, in_class, found = 0, False, list[int]()
    for char in expression:
        in_class = char == "[" or (in_class and char != "]")
        if not in_class:
            depth += (char == "(") - (char == ")")
        # What stands in a class is not an alternative.
        found.append(depth + in_class)
    return found


def _word_in(expression: str) -> str:
    """Return the longest word that stands in all that an expression without alternatives finds, as far as is known."""
    left, before = _CLASS.sub(" ", expression), ""
    while left != before:
        left, before = _GROUP.sub(" ", left), left
    return max(_WORD.findall(_OPTIONAL.sub(" ", left)), key=len, default="")
