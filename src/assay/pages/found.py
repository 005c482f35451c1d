"""Format what `assay find` found as text of any width. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from assay.audit.found import Attempt, Search
from assay.foundation.outcome import Outcome
from assay.foundation.printable import wrapped

__all__ = ["found_text", "install_command"]

_WORD: Final = {
    "fits": "fits",
    "fails": "fails",
    "no_lock": "no lock",
    "no_wheel": "no wheel",
    "not_read": "not read",
}
_REASONS: Final = 3
"""Reasons that one attempt tells; JSON has all."""


def found_text(search: Search, *, verbose: bool = False, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a search for people.

    Args:
        search: what was tried.
        verbose: all reasons, and the features of what failed.
        width: of the terminal; None: each line is whole.
    """
    found, on = search.found, ", ".join(map(search.shown, search.targets)) or "any card"
    result = f"{found.version} fits" if found else "nothing fits"
    yield from wrapped(f"{search.asked} on {on}, Linux {search.platform}: {result}", width)
    failed = [one for one in search.attempts if one is not found]
    if failed:
        yield from wrapped(f"{'newer' if found else 'tried'}, and why not:", width, first="  ")
    for _, alike in groupby(failed, key=lambda one: (one.outcome, _key(one))):
        yield from _attempts(list(alike), width, verbose=verbose)
    if search.untried and not found:
        yield from wrapped(f"{search.untried} older releases were not tried (--most)", width, first="  ")
    if found:
        yield from _fitting(search, found, width, verbose=verbose)
    elif search.nearest is not None:
        yield from _nearest(search.nearest, width)


def _key(one: Attempt) -> str:
    """Return what consecutive attempts have in common when they are told as one."""
    return " ".join(one.reasons) if one.outcome == "no_wheel" else one.version + one.python


def _attempts(alike: list[Attempt], width: int | None, *, verbose: bool) -> Iterator[str]:
    first = alike[0]
    name = first.version if len(alike) == 1 else f"{first.version} to {alike[-1].version}"
    with_python = f" (Python {first.python})" if first.python else ""
    head = f"    {name:<12} {_WORD[first.outcome]}{with_python}: "
    space = " " * 8
    shown = first.reasons if verbose else first.reasons[:_REASONS]
    for number, reason in enumerate(shown):
        yield from wrapped(reason, width, first=head if number == 0 else space, hang=space)
    more = len(first.reasons) - len(shown)
    if more:
        yield f"{space}and {more} more (--verbose)"


def _fitting(search: Search, found: Attempt, width: int | None, *, verbose: bool) -> Iterator[str]:
    variant = f", {found.variant}" if found.variant else ""
    versions = ", ".join(f"{name} {found.packages[name]}" for name in found.main)
    others = len(found.packages) - len(found.main)
    yield from wrapped(
        f"with Python {found.python}{variant}: {versions}" + (f" and {others} more packages" if others else ""),
        width,
        first="  ",
        hang="    ",
    )
    if found.constraints:
        yield from wrapped(
            f"constraints that the audit asked for: {', '.join(found.constraints)}", width, first="  ", hang="    "
        )
    for target in search.targets:
        yield from _features(search, found, target, width)
    shown = found.reasons if verbose else found.reasons[:_REASONS]
    for reason in shown:
        yield from wrapped(reason, width, first="  note: ", hang="    ")
    if len(found.reasons) > len(shown):
        yield f"  and {len(found.reasons) - len(shown)} more notes (--verbose)"
    yield f"  install: {install_command(found)}"


def _features(search: Search, found: Attempt, target: str, width: int | None) -> Iterator[str]:
    by_outcome: dict[Outcome, list[str]] = {}
    for feature, outcome in sorted(found.features.get(target, {}).items()):
        by_outcome.setdefault(outcome, []).append(feature)
    if by_outcome:
        yield from wrapped(f"predicted on {search.shown(target)}, not measured:", width, first="  ")
    for outcome in Outcome:
        if outcome in by_outcome:
            head = f"    {outcome.symbol} {outcome:12} "
            yield from wrapped(", ".join(by_outcome[outcome]), width, first=head, hang=" " * len(head))


def _nearest(one: Attempt, width: int | None) -> Iterator[str]:
    yield from wrapped(f"nearest: {one.version}. What would have to change:", width, first="  ")
    changes = one.fixes or tuple(item.reason for item in one.lacking) or one.reasons
    for change in changes[:_REASONS]:
        yield from wrapped(change, width, first="    -> ", hang="       ")


def install_command(found: Attempt) -> str:
    """Return the command that installs what was found: the packages by version, and what else was constrained."""
    words = [f"{name}=={found.packages[name]}" for name in found.main if name in found.packages]
    return shlex.join(["uv", "pip", "install", "--python", found.python, *words, *found.constraints])
