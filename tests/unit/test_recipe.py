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
