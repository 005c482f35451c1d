"""Cells, their ids, and why others are left out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ConfigError, NothingSelected, UsageError
from assay.matrix import loading as matrix
from assay.matrix import plan
from assay.matrix.cell import oci_tag


@pytest.fixture
def made(matrix_text: str, image_text: str) -> plan.Plan:
    return plan.make(matrix.load(matrix_text, {"serving": image_text}))


def test_cell_ids_are_readable_and_show_non_default_values(made: plan.Plan) -> None:
    assert [cell.id for cell in made.cells] == [
        "serving-cu128-torch2.8.0",
        "serving-cu130-torch2.10-k1.0+cu128",
        "serving-cu126-torch2.7.0-control.cu126",
    ]


def test_excluded_cells_have_rule_and_reason(made: plan.Plan) -> None:
    assert {item.id: (item.rule, item.reason) for item in made.excluded} == {
        "serving-cu126-torch2.7.0": ("matrix.yaml requires[0]", "nvcc knows compute_120 from CUDA 12.8 on."),
        "serving-cu126-torch2.8.0": ("matrix.yaml requires[0]", "nvcc knows compute_120 from CUDA 12.8 on."),
        "serving-cu128-torch2.7.0": (
            "images/serving/image.yaml exclude[0]",
            "PyTorch 2.7.0 for CUDA 12.8 was withdrawn by us.",
        ),
    }


def test_a_rule_takes_away_a_target_and_not_the_cell(matrix_text: str, image_text: str) -> None:
    both = plan.make(
        matrix.load(matrix_text, {"serving": image_text.replace("targets: [sm_120]", "targets: [sm_120, sm_90]")})
    )
    targets = {cell.id: cell.targets for cell in both.cells if cell.kind == "build"}

    assert targets["serving-cu126-torch2.8.0"] == ("sm_90",)
    assert targets["serving-cu128-torch2.8.0"] == ("sm_120", "sm_90")


def test_requirements_are_filled_in(made: plan.Plan) -> None:
    assert made.cells[1].requirements == ("torch==2.10", "kernel==1.0+cu128")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [0, 1, 2]),
        (["serving"], [0, 1, 2]),
        (["starter"], [0]),
        (["all-of-it"], [0, 1, 2]),
        (["newest"], [1]),
        (["serving-cu13*"], [1]),
        (["torch=2.8.0"], [0]),
        (["torch=2.8.0", "torch=2.10"], [0, 1]),
        (["torch>=2.8", "torch<2.9"], [0]),
        (["kind=control"], [2]),
        (["serving", "!kind=control"], [0, 1]),
        (["serving", "!starter"], [1, 2]),
        (["starter", "torch=2.8.*"], [0]),
    ],
)
def test_select(made: plan.Plan, words: list[str], expected: list[int]) -> None:
    assert [cell.id for cell in made.select(words)] == [made.cells[position].id for position in expected]


def test_without_words_the_default_group_is_built(made: plan.Plan) -> None:
    assert [cell.id for cell in made.select([], default=True)] == ["serving-cu128-torch2.8.0"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("servng", "did you mean 'serving'?"),
        ("serving-cu128-torch2.8.1", "did you mean 'serving-cu128-torch2.8.0'"),
        ("torsh=2", "no cell has an axis 'torsh'; did you mean 'torch'?"),
    ],
)
def test_unknown_words_name_the_nearest(made: plan.Plan, word: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made.select([word])

    assert message in str(caught.value)


def test_selecting_an_excluded_cell_says_why_it_is_left_out(made: plan.Plan) -> None:
    with pytest.raises(NothingSelected) as caught:
        made.select(["serving-cu128-torch2.7.0"])

    assert "was withdrawn by us" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_value_that_no_cell_has_is_named_with_the_nearest(made: plan.Plan) -> None:
    with pytest.raises(NothingSelected, match=r"no cell has torch=2\.8\.1; did you mean '2\.8\.0'"):
        made.select(["torch=2.8.1"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("serving-cu128-torch2.8.1", "is not a cell, image or group; did you mean 'serving-cu128-torch2.8.0'"),
        ("trch=2.8.0", "no cell has an axis 'trch'; did you mean 'torch'?"),
        ("torch>=2.x", "'>=2.x' is not a version condition"),
        ("!srving", "'srving' is not a cell, image or group; did you mean"),
    ],
)
def test_a_group_of_nothing_says_where(matrix_text: str, image_text: str, word: str, message: str) -> None:
    changed = matrix_text.replace("[serving-cu128-torch2.8.0]", f'["{word}"]')
    line = changed[: changed.index("  starter:")].count("\n") + 1

    with pytest.raises(ConfigError) as caught:
        plan.make(matrix.load(changed, {"serving": image_text}))

    assert message in str(caught.value)
    assert f"matrix.yaml:{line}:13: groups.starter" in str(caught.value)


def test_cells_with_one_id_are_refused(matrix_text: str, image_text: str) -> None:
    # Without dots both are 1280.
    matrix_text = matrix_text.replace("values: [12.6, 12.8, 13.0]", "values: [12.6, 12.8, 12.80, 12.8.0, 13.0]")
    image = image_text.replace("cuda: [12.6, 12.8]", "cuda: [12.80, 12.8.0]")

    with pytest.raises(ConfigError) as caught:
        plan.make(matrix.load(matrix_text, {"serving": image}))

    assert "two cells have the id" in str(caught.value)


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ('"torch{{ nope }}"', "'nope' is undefined"),
        ('"torch{{ torch.pin"', "torch{{ torch.pin"),
        ('"torch @ https://evil.example/torch.whl"', "cannot be locked by name"),
        ('"--index-url=https://evil.example torch"', "is not a requirement"),
        ('"torch==2.8.0; echo hi"', "is not a requirement"),
    ],
)
def test_bad_requirements_are_problems_of_the_image(
    matrix_text: str, image_text: str, requirement: str, message: str
) -> None:
    image = image_text.replace('"torch{{ torch.pin }}"', requirement)

    with pytest.raises(ConfigError) as caught:
        plan.make(matrix.load(matrix_text, {"serving": image}))

    assert message in str(caught.value)
    assert "images/serving/image.yaml:" in str(caught.value)


def test_shards_share_all_cells_once(made: plan.Plan) -> None:
    parts = [plan.shard(made.cells, f"{n}/2") for n in (1, 2)]

    assert sorted(cell.id for part in parts for cell in part) == sorted(cell.id for cell in made.cells)


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "1", "1/0", "-1/2"])
def test_bad_shards(made: plan.Plan, text: str) -> None:
    with pytest.raises(UsageError, match="is not I/N"):
        plan.shard(made.cells, text)


# Short ones of the characters that the mapping touches, so that a wrong mapping does collide.
IDS = st.from_regex(re.compile(r"[ae][pe_+!]{0,4}|[a-z0-9][a-zA-Z0-9._+!-]{0,40}"), fullmatch=True)


@given(IDS, IDS)
def test_tags_are_injective(first: str, second: str) -> None:
    assert (oci_tag(first) == oci_tag(second)) == (first == second)


def test_a_tag_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        oci_tag("a" * 129)
