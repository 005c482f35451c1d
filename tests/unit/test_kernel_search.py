"""Kernels are found as `re` finds them in each name, whatever the case."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.adapters.files.knowledge import load_knowledge
from assay.wheels.kernel_search import searcher

PATTERNS = sorted(
    {
        entry.kernels
        for feature in load_knowledge().dispatch.features.values()
        for entry in feature.dispatch
        if entry.kernels
    }
)
PIECES = st.sampled_from(
    ["a", "b", "ab", "_", "1", ".", "*", "+", "?", "|", "(", "(?:", "(?=", "(?!", ")", "[ab]", "[a-z]", "[0-9]", "[|b]",
     "[a(]"]
)  # fmt: skip
NAMES = st.lists(st.text("abAB_1(|", min_size=1, max_size=6), min_size=1, max_size=4)


@given(st.lists(PIECES, max_size=8).map("".join), NAMES)
@settings(max_examples=1500)
@example("ab?|b", ["a"])
@example("(?:ab|b)1", ["b1"])
@example("a(?!b)", ["ab", "b"])
@example("(a|b)+_", ["ba_"])
@example("(?:a|b1)", ["b1"])
@example("(?:a)|(?:b)", ["b"])
@example("(?:[a(]|b)", ["(", "b"])
@example("(?:a|b)?", ["1"])
def test_a_name_is_found_as_by_re(expression: str, names: list[str]) -> None:
    try:
        wanted = re.compile(expression, re.IGNORECASE)
    except re.error:
        return
    finds = searcher(expression)
    if finds is not None:
        assert any(map(wanted.search, names)) == finds("\n".join(names).lower().encode())


@pytest.mark.parametrize("expression", PATTERNS)
def test_the_knowledge_asks_in_a_way_that_is_fast(expression: str) -> None:
    assert searcher(expression) is not None


@pytest.mark.parametrize("expression", ["a[^b]c", "x$", "^x", r"a\d", "(?i:a)", "(?-i:A)", "a\nb", "[a-Z]", "a{2}"])
def test_patterns_that_could_match_across_lines_are_unchanged(expression: str) -> None:
    assert searcher(expression) is None
