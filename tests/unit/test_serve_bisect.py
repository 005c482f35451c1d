"""The smallest set of changes is found, with few tries."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.serving.bisect import smallest

NAMES = tuple("abcdefg")


@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_it_is_as_small_as_any_that_helps(helps: list[set[str]]) -> None:
    tried: list[frozenset[str]] = []

    def works(chosen: frozenset[str]) -> bool:
        tried.append(chosen)
        return any(need <= chosen for need in helps)

    found = smallest(NAMES, works, budget=1000)

    assert found.changes is not None
    assert found.proven
    assert works(frozenset(found.changes))
    shorter = [set(c) for size in range(len(found.changes)) for c in combinations(NAMES, size)]
    assert not any(need <= chosen for chosen in shorter for need in helps)
    assert len(tried) - 1 == len(set(tried[:-1])) == found.tries


def test_one_culprit_costs_at_most_one_try_each() -> None:
    found = smallest(NAMES, lambda chosen: "g" in chosen)

    assert ("g",) == found.changes
    assert len(NAMES) + 2 == found.tries


def test_nothing_is_needed() -> None:
    found = smallest(NAMES, lambda chosen: True)

    assert () == found.changes
    assert 1 == found.tries


@pytest.mark.parametrize("changes", [(), NAMES])
def test_nothing_helps(changes: tuple[str, ...]) -> None:
    found = smallest(changes, lambda chosen: False)

    assert found.changes is None
    assert found.tries <= 2


def test_a_spent_budget_is_reported() -> None:
    found = smallest(NAMES, lambda chosen: {"a", "c", "e"} <= chosen, budget=12)

    assert found.changes is not None
    assert {"a", "c", "e"} <= set(found.changes)
    assert not found.proven
    assert found.tries <= 13
