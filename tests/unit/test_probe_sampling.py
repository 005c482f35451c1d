"""What a sampler may choose, decided without torch."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


def load(name: str) -> ModuleType:
    """Load a module of the probes that needs no other of them."""
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).parents[2] / "probes" / "probelib" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLING = load("sampling")
EVEN = [math.log(0.4), math.log(0.3), math.log(0.2), math.log(0.08), math.log(0.02)]


@pytest.mark.parametrize(
    ("cut", "allowed"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {0, 1}),
        # The likelier 0.7 leave room for the third; the likelier 0.9 do, by the rounding, for the fourth.
        ({"top_p": 0.75}, {0, 1, 2}),
        ({"top_p": 0.89}, {0, 1, 2, 3}),
        ({"min_p": 0.1}, {0, 1, 2, 3}),
        ({"top_k": 4, "top_p": 0.6, "min_p": 0.1}, {0, 1}),
    ],
)
def test_only_tokens_allowed_by_every_parameter_are_possible(cut: dict[str, Any], allowed: set[int]) -> None:
    possible = {token for token in range(5) if not SAMPLING.impossible(EVEN, token, temperature=1.0, slack=0.05, **cut)}

    assert allowed == possible


def test_the_temperature_moves_the_edge() -> None:
    assert SAMPLING.impossible(EVEN, 3, temperature=0.25, top_p=0.9)
    assert not SAMPLING.impossible(EVEN, 3, temperature=4.0, top_p=0.9)


def draw(row: list[float], source: random.Random, *, temperature: float, top_k: int, top_p: float, min_p: float) -> int:
    """Sample as engines do: the temperature, the k likeliest, their nucleus, those near the likeliest."""
    weights = {token: math.exp(value / temperature) for token, value in enumerate(row)}
    kept = sorted(weights, key=lambda token: -weights[token])[: top_k or None]
    total, before, nucleus = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if before < top_p * total:
            nucleus.append(token)
        before += weights[token]
    last = [token for token in nucleus if weights[token] >= min_p * weights[kept[0]]]
    return source.choices(last, [weights[token] for token in last])[0]


@given(
    st.integers(0, 2**32), st.floats(0.3, 2), st.sampled_from((0, 1, 5, 20)), st.floats(0.05, 1), st.floats(0, 0.9)
)  # fmt: skip
def test_correct_sampler_passes_despite_rounding(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    source = random.Random(seed)
    row = [source.gauss(0, 2) for _ in range(64)]
    rounded = [value + source.uniform(-0.02, 0.02) * temperature for value in row]
    cut: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}

    assert "" == SAMPLING.impossible(row, draw(rounded, source, **cut), **cut)


def test_answers_are_alike_up_to_their_first_difference() -> None:
    alike = SAMPLING.alike

    assert [2, 0, 3] == [alike([1, 2, 3], [1, 2, 4]), alike([1], [2]), alike([1, 2, 3], [1, 2, 3, 4])]
