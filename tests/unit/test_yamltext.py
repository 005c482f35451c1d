"""YAML without guessing, with every problem at its place."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ConfigError
from assay.foundation import yamltext


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("torch: 2.10", {"torch": "2.10"}),
        ("on: yes", {"on": "yes"}),
        ("a: 0x10\nb: 1_000\nc: 2026-11-01", {"a": "0x10", "b": "1_000", "c": "2026-11-01"}),
        ("a:\nb: ~\nc: null\nd: ''\ne: 'null'", {"a": None, "b": None, "c": None, "d": "", "e": "null"}),
        ("- [1, {a: 2}]", [["1", {"a": "2"}]]),
        ("x: &x [1]\ny: *x", {"x": ["1"], "y": ["1"]}),
    ],
)
def test_yaml_scalars_stay_as_written(text: str, data: object) -> None:
    document = yamltext.load(text, file="f.yaml")

    assert data == document.data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: [2\nc: 3", "f.yaml:3:2"),
        ("a: 1\na: 2", "f.yaml:2:1: the key 'a' occurs twice"),
        ("", "f.yaml:1:1: the file is empty"),
        ("a: &a [*a]", "an alias contains itself"),
        ("? [1]\n: 2", "f.yaml:1:3: a key must be a plain word"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1"),
    ],
)
def test_invalid_document_error_names_the_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yamltext.load(text, file="f.yaml")

    assert problem in str(caught.value)


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    with pytest.raises(ConfigError, match="aliases that multiply"):
        yamltext.load("\n".join(lines), file="f.yaml")


def test_deep_nesting_is_an_error_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"nested too deeply|maximum nesting depth"):
        yamltext.load("[" * 5000, file="f.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        yamltext.load(text, file="f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" + "a," * 1_000_000 + "a]", id="values"),
        pytest.param("- a\n" * 500_000, id="lines"),
        pytest.param("a: &a [x]\nb: [" + "*a," * 500_000 + "]", id="aliases"),
        pytest.param("[" * 100_000, id="brackets"),
        pytest.param("- " * 100_000, id="dashes"),
        pytest.param("a: \ud83d", id="half a character"),
        pytest.param("a: \x00", id="zero"),
    ],
)
def test_what_no_file_holds_is_a_problem_of_the_file_within_a_second_or_two(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError):
        yamltext.load(text, file="f.yaml")

    assert time.process_time() - begun < 5
