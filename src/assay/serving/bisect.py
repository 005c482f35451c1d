"""Finding the smallest set of changes that makes something work, with few tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["FoundSetting", "smallest"]


@dataclass(frozen=True, kw_only=True)
class FoundSetting:
    """What came of the search."""

    changes: tuple[str, ...] | None
    """The changes that are needed; None if not even all of them together help."""
    tries: int
    proven: bool
    """No smaller set helps: every one was tried. Otherwise only none of the changes found can be left out."""


def smallest(changes: Sequence[str], works: Callable[[frozenset[str]], bool], *, budget: int = 64) -> FoundSetting:
    """Return the smallest set of changes with which `works` is true.

    It tries nothing, then everything, each change alone, and then narrows down by halves (delta debugging: Zeller and
    Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) and, as long as `budget` tries are not used
    up, every smaller set. No set is tried twice.
    """
    known: dict[frozenset[str], bool] = {}

    def good(chosen: Sequence[str]) -> bool:
        key = frozenset(chosen)
        if key not in known:
            known[key] = works(key)
        return known[key]

    def found(result: Sequence[str] | None, *, proven: bool) -> FoundSetting:
        return FoundSetting(changes=None if result is None else tuple(result), tries=len(known), proven=proven)

    if good(()):
        return found((), proven=True)
    if not changes or not good(changes):
        return found(None, proven=True)
    for change in changes:
        if len(known) >= budget:
            break
        if good((change,)):
            return found((change,), proven=True)
    best = _narrow(list(changes), good, lambda: len(known) >= budget)
    for size in range(2, len(best)):
        for candidate in combinations(changes, size):
            if len(known) >= budget:
                return found(best, proven=False)
            if good(candidate):
                return found(candidate, proven=True)
    return found(best, proven=len(known) < budget or len(best) <= 1)


def _narrow(changes: list[str], good: Callable[[Sequence[str]], bool], spent: Callable[[], bool]) -> list[str]:
    parts = 2
    while len(changes) > 1 and not spent():
        size = max(1, len(changes) // parts)
        slices = [changes[start : start + size] for start in range(0, len(changes), size)]
        for part in slices:
            if spent():
                return changes
            rest = [change for change in changes if change not in part]
            if good(part):
                changes, parts = part, 2
                break
            if rest and good(rest):
                changes, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(changes), parts * 2)
    return changes
