"""Rule R1 takes most requirements apart by itself: the same as `packaging` does."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier
from packaging.utils import canonicalize_name

from assay.audit.requirements import _environment, _parsed

PIECES = st.sampled_from(
    [
        "a", "Foo.Bar_x", "2to3", "-", ".", " ", "\t", "\n", ">=1", "==1.*", "<2", "~=1.0", "!=1.5", "===odd",
        "==1+cu", "=", ">", ",", ";", "; ", "(", ")", "[x]", "@", " @ https://x.org/a", "#", '"', "'", "*", "1",
        "python_version", " < '3.12'", ' >= "3.8"', "sys_platform == 'win32'", "sys_platform == 'linux'", " and ",
        " or ", "extra == 'dev'", "extra == dev", "platform_machine != 'x86_64'", "nonsense == '1'", "os_name",
    ]
)  # fmt: skip


def by_packaging(line: str, python: str) -> tuple[str, str] | None:
    try:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate(_environment(python)):
            return None
    except (InvalidRequirement, InvalidSpecifier, UndefinedEnvironmentName):
        # packaging 24.2 lets InvalidSpecifier out of Requirement('a===odd,a').
        return None
    return canonicalize_name(wanted.name), str(wanted.specifier)


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@given(st.lists(PIECES, max_size=7).map("".join))
@settings(max_examples=400)
@example("a (>=1)")
@example("a>=1;")
@example("a;")
@example("a\n")
@example("a>=1 ; python_version < '3.12'")
@example("a>=1 ; python_version < '3.12' and extra == 'dev'")
@example("a ; extra == 'dev' or python_version > '3'")
@example("a>1.0(2)")
@example("a===odd,a")
def test_requirements_are_taken_apart_as_packaging_does(python: str, line: str) -> None:
    found = _parsed(line, python)

    assert by_packaging(line, python) == (None if found is None else (found.name, found.specifier))
    if found is not None:
        assert str(Requirement(found.line))
