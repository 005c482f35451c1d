"""Bisection: few evaluations, skips, interruption, contradictions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.matrix.bisection import Answer, SearchState, Trial, answer, begin, propose, remaining

THOUSAND = [f"1.0.dev{i:04d}" for i in range(1000)]


def solve(state: SearchState, test: Callable[[str], Trial], *, most: int = 10_000) -> tuple[SearchState, Answer]:
    while (version := propose(state)) is not None:
        assert len(state.evaluated) < most
        assert version not in state.trials
        state = state.tell(version, test(version))
    return state, answer(state)


@pytest.mark.parametrize("first_bad", [1, 2, 3, 499, 500, 501, 777, 998, 999])
def test_a_thousand_versions_take_at_most_ten_evaluations(first_bad: int) -> None:
    state, found = solve(begin(THOUSAND), lambda v: Trial.BAD if THOUSAND.index(v) >= first_bad else Trial.GOOD)

    assert found.first_bad == THOUSAND[first_bad]
    assert found.last_good == THOUSAND[first_bad - 1]
    assert len(state.evaluated) <= 10
    assert remaining(begin(THOUSAND)) == 10


def test_every_change_of_a_thousand_versions_is_found_within_eleven() -> None:
    worst = 0
    for first_bad in range(1, 1000, 7):
        change = THOUSAND[first_bad]
        state, found = solve(begin(THOUSAND), lambda v: Trial.BAD if v >= change else Trial.GOOD)  # noqa: B023 - used at once
        assert found.first_bad == THOUSAND[first_bad]
        worst = max(worst, len(state.evaluated))

    assert worst <= 11


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 200), st.data())
def test_whatever_is_skipped_the_answer_holds_the_first_bad_version(size: int, data: st.DataObject) -> None:
    versions = [f"v{i}" for i in range(size)]
    first_bad = data.draw(st.integers(1, size - 1))
    skipped = data.draw(st.sets(st.integers(1, max(1, size - 2)), max_size=size)) - {0, size - 1}

    def test(version: str) -> Trial:
        i = versions.index(version)
        return Trial.SKIP if i in skipped else Trial.BAD if i >= first_bad else Trial.GOOD

    _, found = solve(begin(versions), test)
    assert versions[first_bad] in found.candidates
    # All candidates but the last (known to be bad) could not be tested.
    assert all(versions.index(v) in skipped for v in found.candidates[:-1])
    if not skipped:
        assert found.first_bad == versions[first_bad]


def test_a_block_of_versions_that_cannot_be_tested_costs_few_evaluations() -> None:
    """Fifty nightlies in the very middle do not build; the change lies elsewhere."""
    broken = set(THOUSAND[475:525])

    def test(version: str) -> Trial:
        return Trial.SKIP if version in broken else Trial.BAD if version >= THOUSAND[800] else Trial.GOOD

    state, found = solve(begin(THOUSAND), test)

    assert found.first_bad == THOUSAND[800]
    assert len(state.evaluated) <= 14


def test_interrupted_bisection_resumes() -> None:
    def test(version: str) -> Trial:
        return Trial.BAD if version >= THOUSAND[321] else Trial.GOOD

    state = begin(THOUSAND)
    for _ in range(4):
        version = propose(state)
        assert version is not None
        state = state.tell(version, test(version))
    again = SearchState.model_validate_json(state.model_dump_json())
    end, found = solve(again, test)

    assert again == state
    assert found.first_bad == THOUSAND[321]
    assert len(end.evaluated) <= 10


def test_known_results_cost_nothing() -> None:
    known = {THOUSAND[400]: Trial.GOOD, THOUSAND[403]: Trial.BAD, "elsewhere": Trial.BAD}
    state, found = solve(begin(THOUSAND, known=known), lambda v: Trial.BAD if v >= THOUSAND[402] else Trial.GOOD)

    assert found.first_bad == THOUSAND[402]
    assert len(state.evaluated) == 2


def test_neighbours_need_no_evaluation() -> None:
    state, found = solve(begin(["a", "b"]), lambda v: Trial.SKIP)

    assert (found.first_bad, found.last_good, state.evaluated) == ("b", "a", ())


def test_all_versions_between_skipped_leaves_candidates_and_no_answer() -> None:
    _, found = solve(begin(["a", "b", "c", "d"]), lambda v: Trial.SKIP)

    assert found.first_bad is None
    assert found.candidates == ("b", "c", "d")
    assert found.skipped == ("b", "c")


@pytest.mark.parametrize(
    ("versions", "known"),
    [(["a"], {}), (["a", "a"], {}), (["a", "b"], {"a": Trial.BAD}), (["a", "b"], {"b": Trial.GOOD})],
)
def test_feature_that_cannot_be_bisected_is_refused(versions: list[str], known: dict[str, Trial]) -> None:
    with pytest.raises(ValidationError):
        begin(versions, known=known)
