"""Constraints added to a recipe keep its comments and layout, and a recipe that cannot take them is refused."""

from __future__ import annotations

import pytest
import yaml

from assay.errors import UsageError
from assay.matrix import recipe

RECIPE = """\
# A recipe.
description: one
overrides:
  - match: {vllm: 0.11.0}
    as_of: 2025-10-20
  # the last one
  - match: {torch: nightly}
    forced_requirements: ["torch{{ torch.pin }}"]

# For binding processes.
system_packages: [libnuma1]
"""


def added(text: str) -> str:
    return recipe.with_constraints(
        text, {"cuda": "13.0", "base": "slim"}, ["nvcc==13.0.*"], comments=["R7: why"], file="images/x/image.yaml"
    )


def test_an_override_is_added_behind_the_last_one() -> None:
    text = added(RECIPE)
    before, _, after = text.partition("  # R7: why\n")

    assert RECIPE == before + after.split("\n", 2)[2]
    assert before.endswith('    forced_requirements: ["torch{{ torch.pin }}"]\n')
    document = yaml.safe_load(text)
    assert {"match": {"cuda": "13.0", "base": "slim"}, "constraints": ["nvcc==13.0.*"]} == document["overrides"][2]
    assert ["libnuma1"] == document["system_packages"]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_recipe_without_overrides_gets_the_list(end: str) -> None:
    document = yaml.safe_load(added("description: one\nrequirements: [a]" + end))

    assert [{"match": {"cuda": "13.0", "base": "slim"}, "constraints": ["nvcc==13.0.*"]}] == document["overrides"]


def test_two_additions_stand_side_by_side() -> None:
    assert 4 == len(yaml.safe_load(added(added(RECIPE)))["overrides"])


@pytest.mark.parametrize("overrides", ["overrides: [{match: {a: b}}]", "overrides: []", "overrides:"])
def test_a_list_in_one_line_is_refused(overrides: str) -> None:
    with pytest.raises(UsageError, match="cannot add to `overrides`") as caught:
        added(f"description: one\n{overrides}\n")

    assert caught.value.hint is not None
    assert "by hand" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "version", "expected"),
    [
        ("  torch: {label: torch, values: [2.8.0, 2.14.1]}\n", "2.15.0", "[2.8.0, 2.14.1, 2.15.0]"),
        ("  torch: [2.8.0, 2.14.1]\n", "2.9.1", "[2.8.0, 2.9.1, 2.14.1]"),
        ("  torch: [2.8.0]\n", "2.7.0", "[2.7.0, 2.8.0]"),
        (
            "  torch:\n    values:\n      # The first.\n      - 2.8.0\n      - {id: nightly, spec: '>=2'}\n",
            "2.9.0",
            "      - 2.8.0\n      - 2.9.0\n      - {id: nightly",
        ),
    ],
)
def test_a_value_is_added_in_the_order_of_versions(values: str, version: str, expected: str) -> None:
    text = f"axes:\n{values}  other: [1.0]\n"
    made = recipe.with_value(text, "torch", version, file="matrix.yaml")

    assert expected in made
    assert made.replace("# The first.", "").count("#") == 0
    assert made.endswith("  other: [1.0]\n")


def test_a_point_stands_after_the_one_that_it_follows() -> None:
    text = "include:\n  # Old.\n  - {a: 1.0}\n  # Newer.\n  - {a: 2.0, platform: linux/arm64}\n\nenv: {}\n"
    point = {"a": "3.0"}
    first = recipe.with_point(text, point, beside={"a": "1.0"}, comment="why", file="image.yaml")
    second = recipe.with_point(text, point, beside={"a": "2.0", "platform": "arm64"}, comment="why", file="image.yaml")

    assert "  - {a: 1.0}\n  # why\n  - {a: 3.0}\n  # Newer.\n" in first
    assert "linux/arm64}\n  # why\n  - {a: 3.0}\n\nenv" in second
    assert recipe.with_point("env: {}\n", point, beside={}, comment="why", file="x").endswith(
        "include:\n  # why\n  - {a: 3.0}\n"
    )


@pytest.mark.parametrize("text", ["axes: {}\n", "axes: {torch: {}}\n", "axes: {torch: {values: []}}\n"])
def test_an_axis_without_a_list_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="cannot add to"):
        recipe.with_value(text, "torch", "2.9.0", file="matrix.yaml")
