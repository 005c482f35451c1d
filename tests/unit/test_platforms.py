"""Platforms as values: names, cells, ids, locks, and which cards come with which."""

from __future__ import annotations

import json

import pytest

from assay.adapters.files.card_names import load_cards
from assay.errors import ConfigError, NothingSelected
from assay.foundation.platforms import Platform
from assay.matrix import loading, lockfile, plan, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.model import BootstrapBase

SPARK = """
  sm_121:
    name: GB10
    compute_capability: 12.1
    memory_gib: 128
    shared_memory_per_block: 101376
    cuda: ">=12.9"
    driver: ">=575"
    arch_list: 12.1
"""


def _made(matrix_text: str, image_text: str) -> plan.Plan:
    with_spark = matrix_text.replace("targets:\n", f"targets:{SPARK}", 1).replace(
        "[serving-cu128-torch2.8.0]", "[serving]"
    )
    return plan.make(loading.load(with_spark, {"serving": image_text}, cards=load_cards()))


def _both(image_text: str) -> str:
    """Return an image for two cards, and its included point again for linux/arm64."""
    both = image_text.replace("targets: [sm_120]", "targets: [sm_120, sm_121]")
    return both.replace("include:\n", "include:\n  - {cuda: 13.0, torch: 2.8.0, platform: linux/arm64}\n", 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("linux/arm64", "linux/arm64"), ("aarch64", "linux/arm64"), ("ARM64", "linux/arm64"), ("x86_64", "linux/amd64")],
)
def test_a_platform_has_several_names(name: str, expected: str) -> None:
    assert expected == Platform.of(name)


@pytest.mark.parametrize("name", ["linux/arm46", "windows/amd64", "", "linux/riscv64"])
def test_an_unknown_platform_names_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="linux/amd64 or linux/arm64"):
        Platform.of(name)


def test_a_target_that_names_no_platform_has_those_of_its_cards(matrix_text: str, image_text: str) -> None:
    targets = _made(matrix_text, image_text).project.matrix.targets

    assert targets["sm_121"].platforms == (Platform.ARM64,)
    assert targets["sm_120"].platforms == (Platform.AMD64, Platform.ARM64)


def test_an_arm64_cell_says_so_in_its_id_and_has_the_cards_that_come_with_it(matrix_text: str, image_text: str) -> None:
    made = _made(matrix_text, _both(image_text))
    (arm,) = made.select(["platform=arm64"])

    assert "serving-cu130-torch2.8.0-arm64" == arm.id
    assert ("sm_120", "sm_121") == arm.targets
    assert [arm] == made.select(["platform=linux/arm64"])
    assert all("sm_121" not in cell.targets for cell in made.select(["platform=amd64", "kind=build"]))


def test_a_card_of_one_platform_implies_it(matrix_text: str, image_text: str) -> None:
    made = _made(matrix_text, image_text.replace("targets: [sm_120]", "targets: [sm_121]"))

    assert {Platform.ARM64} == {cell.platform for cell in made.cells}
    assert all("arm64" in cell.id for cell in made.cells)


def test_a_cell_that_no_card_comes_with_is_left_out_with_the_reason(matrix_text: str, image_text: str) -> None:
    only = image_text.replace("targets: [sm_120]", "targets: [sm_121]").replace(
        "include:\n", "include:\n  - {cuda: 13.0, torch: 2.8.0, platform: amd64}\n", 1
    )
    left_out = {item.id: item for item in _made(matrix_text, only).excluded}["serving-cu130-torch2.8.0"]

    assert "matrix.yaml targets.sm_121.platforms" == left_out.rule
    assert "sm_121 comes with linux/arm64, and this cell is for linux/amd64" == left_out.reason


def test_an_unknown_platform_in_a_recipe_is_a_problem_with_its_place(matrix_text: str, image_text: str) -> None:
    wrong = image_text.replace("include:\n", "include:\n  - {cuda: 13.0, torch: 2.8.0, platform: arm46}\n", 1)

    with pytest.raises(ConfigError, match="the axis platform has no value 'arm46'; did you mean 'arm64'"):
        _made(matrix_text, wrong)


def test_a_lock_of_another_platform_is_stale(matrix_text: str, image_text: str) -> None:
    (arm,) = _made(matrix_text, _both(image_text)).select(["platform=arm64"])
    lock = Lock(
        cell=arm.id,
        python=arm.python,
        platform="x86_64-manylinux_2_36",
        requirements=lockfile.wanted(arm),
        base=arm.base,
        wheels=(),
    )

    reason = lockfile.stale_reason(lock, arm, glibc="2.36")

    assert reason == "the platform is aarch64-manylinux_2_36, the lock was made for x86_64-manylinux_2_36"


def test_a_bootstrapped_base_has_another_name_on_another_platform() -> None:
    base = BootstrapBase(kind="bootstrap", distribution="debian", suite="bookworm", python="3.11", glibc="2.36")
    names = {render.base_reference("slim", base, None, platform) for platform in Platform}

    assert len(Platform) == len(names)


def test_the_bake_file_builds_an_arm64_cell_for_arm64(matrix_text: str, image_text: str) -> None:
    cells: list[tuple[Cell, str]] = [(cell, "key") for cell in _made(matrix_text, _both(image_text)).cells]
    targets = json.loads(render.bake_file(cells, {}))["target"]

    assert ["linux/arm64"] == targets["serving-cu130-torch2_8_0-arm64"]["platforms"]
    assert "platforms" not in targets["serving-cu128-torch2_8_0"]


def test_a_selection_for_a_platform_without_cells_says_how_to_make_one(matrix_text: str, image_text: str) -> None:
    with pytest.raises(NothingSelected) as empty:
        _made(matrix_text, image_text).select(["serving", "platform=linux/arm64"])

    assert "`platform: arm64` in image.yaml" in (empty.value.hint or "")
