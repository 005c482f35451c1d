"""Engines: what is specific to one stands in its module alone, and others are found by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from assay.adapters.files.serving import load_server_flags
from assay.engines.table import all_engines, engine_named, engine_names, release_in
from assay.errors import UsageError

SOURCE = Path(__file__).parents[2] / "src" / "assay"
ALLOWED = {
    "of Tegra parts with themselves alone (vLLM PR 20219)": "the source of a rule of the audit",
}
"""A phrase that names an engine outside engines/, and the reason."""


def test_no_engine_is_named_outside_its_module() -> None:
    """DESIGN: no engine name appears outside engines/, images/, knowledge/ and probes/."""
    named = re.compile("|".join(engine_names()), re.IGNORECASE)
    # The recipes of a new project are images/, too.
    apart = (SOURCE / "engines", SOURCE / "resources" / "project")
    found = []
    for path in sorted(SOURCE.rglob("*")):
        if not path.is_file() or path.suffix == ".pyc" or any(map(path.is_relative_to, apart)):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if named.search(line) and not any(phrase in line for phrase in ALLOWED):
                found.append(f"{path.relative_to(SOURCE)}:{number}: {line.strip()}")

    assert [] == found


def test_no_engine_is_named_in_the_module_of_another() -> None:
    for own in engine_names():
        text = (SOURCE / "engines" / f"{own}.py").read_text().lower()

        assert [] == [other for other in engine_names() if other != own and other in text]


def test_an_engine_is_found_under_the_name_it_has() -> None:
    assert engine_names() == tuple(engine.name for engine in all_engines())


@pytest.mark.parametrize("name", engine_names())
def test_the_first_distribution_of_an_engine_is_the_one_whose_version_decides(name: str) -> None:
    known = load_server_flags(SOURCE.parents[1] / "knowledge" / "server_flags.yaml").engines[name]

    assert known.package == engine_named(name).packages[0]
    assert "1.0" == release_in({known.package: "1.0"}, name)


def test_the_release_of_an_engine_that_is_no_longer_installed_is_that_of_its_name() -> None:
    assert "1.0" == release_in({"gone": "1.0"}, "gone")


def test_an_unknown_engine_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="there is no engine 'vlm'; did you mean 'vllm'"):
        engine_named("vlm")
