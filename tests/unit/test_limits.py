"""Configurations that are absurdly large: counted before anything is made of them."""

from __future__ import annotations

import time

import pytest
from project_tools import IMAGE, MATRIX

from assay.errors import ConfigError
from assay.foundation import yamltext
from assay.matrix import loading as matrix
from assay.matrix.plan import make, render_requirements


def cube(side: int, axes: str = "abc") -> tuple[str, str]:
    """Return a matrix and an image with `side` values on each of some axes."""
    values = {axis: ", ".join(f"1.{number}" for number in range(side)) for axis in axes}
    declared = "".join(f"  {axis}: {{label: {axis}, values: [{found}]}}\n" for axis, found in values.items())
    used = ", ".join(f"{axis}: [{found}]" for axis, found in values.items())
    text = MATRIX.replace("axes:\n", "axes:\n" + declared)
    return text, IMAGE.replace("axes: {flavour: [1.0, 2.0, 3.0]}", f"axes: {{{used}}}")


@pytest.mark.parametrize(("side", "axes"), [(1000, "abc"), (28, "abc"), (142, "ab")])
def test_points_are_counted_before_they_are_made(side: int, axes: str) -> None:
    matrix_text, image_text = cube(side, axes)
    started = time.process_time()
    with pytest.raises(ConfigError, match=f"make {side ** len(axes)} points, more than 20000") as told:
        matrix.load(matrix_text, {"sundae": image_text})

    assert "images/sundae/image.yaml:" in str(told.value)
    assert time.process_time() - started < 20


def test_images_add_up() -> None:
    matrix_text, image_text = cube(110, "ab")
    image_text = image_text.replace("id: [flavour]", "id: [a, b]")
    matrix.load(matrix_text, {"sundae": image_text})
    with pytest.raises(ConfigError, match="all images together make 24200 points"):
        matrix.load(matrix_text, {"sundae": image_text, "sorbet": image_text})


@pytest.mark.parametrize(
    "text",
    [
        'a: "' + "x" * (5 << 20) + '"\n',
        "a: [" + "x," * 1_000_000 + "x]\n",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    ],
    ids=["one long text", "a million values", "aliases"],
)
def test_a_file_of_more_than_anyone_writes_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="more than"):
        yamltext.load(text, file="matrix.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**10) %}x{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{{ 2 ** 10000000000 }}",
        "{% set a = 'x' %}{{ a ~ a }}",
        "{% macro m() %}x{% endmacro %}{{ m() }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'x'|center(999999999) }}",
        "{{ range(99999)|list }}",
        "{{ 'x'.__class__.__mro__ }}",
        "{{ 'x'.replace('x', 'y') }}",
        "{% include 'x' %}",
        "{{ " + "(" * 900 + "1" + ")" * 900 + " }}",
        "{{ 1 // 0 }}",
        "x" * 3000 + "{{ 1 }}",
    ],
)
def test_a_requirement_computes_nothing(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"not allowed|can be called|no filter|nested|characters|is not a requirement|unsafe|undefined"
    ):
        render_requirements([text], {})


@pytest.mark.parametrize("digits", ["١٢.٠", "12.٠", "１２.0"])
def test_digits_of_other_scripts_are_no_numbers(digits: str) -> None:
    with pytest.raises(ConfigError, match="compute_capability"):
        matrix.load(MATRIX.replace("compute_capability: 12.0", f'compute_capability: "{digits}"'), {"sundae": IMAGE})


def test_ids_that_differ_in_capitals_alone_are_one() -> None:
    text = MATRIX.replace("[1.0, 2.0, 3.0]", "[1.0, 1.0RC1, 1.0rc1]")
    image = IMAGE.replace("[1.0, 2.0, 3.0]", "[1.0, 1.0RC1, 1.0rc1]")
    with pytest.raises(ConfigError, match="two cells have the id"):
        make(matrix.load(text, {"sundae": image}))


@pytest.mark.parametrize("glibc", ["2", "2.36rc1", "2.36.1", "٢.36"])
def test_a_c_library_has_two_numbers(glibc: str) -> None:
    with pytest.raises(ConfigError, match="glibc"):
        matrix.load(MATRIX.replace("glibc: 2.36", f'glibc: "{glibc}"'), {"sundae": IMAGE})


def test_a_base_that_only_some_points_name_is_missed() -> None:
    text = IMAGE.replace("base: tiny", "") + "include: [{flavour: 3.0, base: tiny}]\n"
    with pytest.raises(ConfigError, match="no base: add `base`"):
        matrix.load(MATRIX, {"sundae": text})
