"""SELECT expressions, which select cells.

    server                    an image: all its cells
    starter                   a group of matrix.yaml
    '*-cu128-torch2.8*'       a glob over cell ids
    torch=2.8.0  'torch>=2.9' a condition on an axis (or on target, base, engine, kind)
    '!*nightly*'              not these (any form, after an exclamation mark)

Names and globs add up; conditions on different axes must all hold, several on one axis must hold as alternatives
when they are `=` and together when they compare.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from assay.errors import UsageError
from assay.foundation.nearest import suggestion
from assay.foundation.platforms import Platform
from assay.foundation.versions import fits
from assay.matrix.cell import Cell
from assay.matrix.model import AxisValue, Group

__all__ = [
    "CONDITION",
    "DERIVED",
    "Facts",
    "condition_fault",
    "facts_of",
    "fault",
    "holds",
    "matches",
    "plain_value",
    "platform_values",
    "select",
]

Facts = Mapping[str, tuple[AxisValue, ...]]
"""What conditions look at: axis, `target`, `engine`, ... -> the values a cell has there."""

DERIVED: Final = ("base", "engine", "image", "kind", "platform", "python", "target")
"""What conditions can name beside the axes."""
_COMPARES: Final = re.compile(r"^(==|!=|<=|>=|<|>|~=)")
CONDITION: Final = re.compile(r"^([a-z][a-z0-9_]*)(==|!=|<=|>=|~=|=|<|>)(.+)$")


@lru_cache(maxsize=4096)
def plain_value(text: str) -> AxisValue:
    """Return a value that is only a name: a target, an engine, an image."""
    return AxisValue.model_construct(id=text)


def platform_values(platform: Platform) -> tuple[AxisValue, ...]:
    """Return the names under which conditions find a platform: `arm64` and `linux/arm64`."""
    return plain_value(platform.architecture), plain_value(platform.value)


def facts_of(cell: Cell) -> Facts:
    """Return what conditions can look at in a cell."""
    facts: dict[str, tuple[AxisValue, ...]] = {axis: (value,) for axis, value in cell.point.items()}
    facts["platform"] = platform_values(cell.platform)
    facts["target"] = tuple(plain_value(target) for target in cell.targets)
    for name in ("engine", "kind", "image", "base"):
        facts[name] = (plain_value(getattr(cell, name)),)
    if cell.python:
        facts["python"] = (AxisValue(id=cell.python, version=cell.python),)
    return facts


def holds(condition: str, value: AxisValue) -> bool:
    """Return whether one condition holds for one value.

    A condition that starts with a comparison is PEP 440 over the value's version (a nightly without one never
    satisfies it); anything else is a glob over the value's id.
    """
    return _holds(condition, value.id, value.version or value.id)


@lru_cache(maxsize=1 << 14)
def _holds(condition: str, identifier: str, text: str) -> bool:
    if not _COMPARES.match(condition):
        return fnmatchcase(identifier, condition)
    return fits(text, condition)


def matches(match: Mapping[str, str | tuple[str, ...]], facts: Facts) -> bool:
    """Return whether every key of a partial match holds; several conditions under one key are alternatives."""
    for axis, wanted in match.items():
        conditions = (wanted,) if isinstance(wanted, str) else wanted
        values = facts.get(axis, ())
        if not any(holds(condition, value) for condition in conditions for value in values):
            return False
    return True


def fault(word: str, *, names: Collection[str], ids: Iterable[str], axes: Iterable[str]) -> str | None:
    """Return why a SELECT expression matches nothing, with the nearest names, or None if it can match.

    Args:
        word: the word.
        names: images and groups.
        ids: cell ids, also of cells that are left out.
        axes: the axes of the matrix.
    """
    word = word.lstrip("!")
    condition = CONDITION.match(word)
    if condition is None:
        if word in names or any(fnmatchcase(identifier, word) for identifier in ids):
            return None
        return f"{word!r} is not a cell, image or group{suggestion(word, {*names, *ids})}"
    axis, operator, wanted = condition.groups()
    known = {*DERIVED, *axes}
    if axis not in known:
        return f"no cell has an axis {axis!r}{suggestion(axis, known)}"
    return condition_fault(wanted if operator == "=" else operator + wanted)


def condition_fault(condition: str) -> str | None:
    """Return why a condition can never hold, or None if it can: a comparison must be PEP 440."""
    if not _COMPARES.match(condition):
        return None
    try:
        SpecifierSet(condition)
    except InvalidSpecifier:
        return f"{condition!r} is not a version condition (PEP 440: >=12.8,<13)"
    return None


class _Words:
    """A list of SELECT words, sorted by what they do."""

    def __init__(self, words: Sequence[str]) -> None:
        self.names: list[str] = []
        self.without: list[str] = []
        self.equal: dict[str, tuple[str, ...]] = {}
        self.compare: list[tuple[str, str]] = []
        for word in words:
            condition = CONDITION.match(word)
            if word.startswith("!"):
                self.without.append(word[1:])
            elif condition is None:
                self.names.append(word)
            elif condition[2] == "=":
                self.equal[condition[1]] = (*self.equal.get(condition[1], ()), condition[3])
            else:
                self.compare.append((condition[1], condition[2] + condition[3]))

    def admit(self, facts: Facts) -> bool:
        """Return whether all conditions hold."""
        return matches(self.equal, facts) and all(matches({axis: text}, facts) for axis, text in self.compare)


def select(
    cells: Sequence[Cell],
    expressions: Sequence[str],
    *,
    groups: Mapping[str, Group],
    axes: Iterable[str] = (),
    others: Iterable[str] = (),
    trail: tuple[str, ...] = (),
) -> list[Cell]:
    """Return the cells that match the expressions, in the order of the plan; all without an expression.

    Args:
        cells: all cells of the plan.
        expressions: SELECT words.
        groups: the groups of the matrix; a group's conditions narrow that group only.
        axes: known axis names, for messages.
        others: names that exist but are no cell (excluded ids), for messages.
        trail: the groups being expanded.

    Raises:
        UsageError: an expression names nothing that exists; the nearest names are offered.
    """
    names = {*(cell.image for cell in cells), *groups}
    for word in expressions:
        wrong = fault(word, names=names, ids=[*(cell.id for cell in cells), *others], axes=axes)
        if wrong is not None:
            raise UsageError(
                wrong, hint="`assay plan` lists every cell, `assay plan --excluded` the excluded ones with reasons"
            )
    words = _Words(expressions)

    def named(word: str) -> set[str]:
        if word in trail:
            raise UsageError(
                f"the group {word!r} selects itself: {' -> '.join((*trail, word))}",
                hint="take one of these groups out of the other's `select` in matrix.yaml",
            )
        if word in groups:
            inner = select(cells, groups[word].select, groups=groups, axes=axes, others=others, trail=(*trail, word))
            return {cell.id for cell in inner}
        return {cell.id for cell in cells if cell.image == word or fnmatchcase(cell.id, word)}

    chosen = {cell_id for word in words.names for cell_id in named(word)} if words.names else {c.id for c in cells}
    for word in words.without:
        chosen -= {c.id for c in select(cells, [word], groups=groups, axes=axes, others=others, trail=trail)}
    return [cell for cell in cells if cell.id in chosen and words.admit(facts_of(cell))]
