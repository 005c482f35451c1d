"""The files that ship with assay, and those of a project that take their place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from assay import resources
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.diagnose import default_library
from assay.errors import ConfigError


@pytest.mark.parametrize("kind", resources.KINDS)
def test_every_kind_is_found_in_a_checkout(kind: str) -> None:
    assert resources.folder(kind).exists()


def test_the_wheel_gets_everything_that_a_checkout_has_beside_the_code(root: Path) -> None:
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert {name: f"assay/resources/{name}" for name in resources.CHECKOUT} == wheel["force-include"]


def test_a_file_of_the_project_takes_the_place_of_the_shipped_one_alone(tmp_path: Path) -> None:
    shipped = resources.files("templates")
    own = tmp_path / "templates" / "server.Dockerfile.j2"
    own.parent.mkdir()
    own.write_text("FROM mine\n")

    assert {**shipped, own.name: own} == resources.files("templates", tmp_path)
    assert own == resources.find("templates", own.name, tmp_path)
    assert shipped["_macros.j2"] == resources.find("templates", "_macros.j2", tmp_path)
    texts = ProjectFiles(tmp_path).templates()
    assert "FROM mine\n" == texts[own.name]
    assert "_macros.j2" in texts


def test_files_left_by_the_interpreter_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "probes" / "__pycache__").mkdir(parents=True)
    (tmp_path / "probes" / "__pycache__" / "harness.py").write_text("")

    assert resources.files("probes") == resources.files("probes", tmp_path)


def test_a_missing_file_names_what_is_missing_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"knowledge/nothing\.yaml: .* install assay-images again"):
        resources.find("knowledge", "nothing.yaml")


def test_one_file_of_knowledge_is_enough_for_a_project(tmp_path: Path) -> None:
    (tmp_path / "knowledge").mkdir()
    text = resources.find("knowledge", "ptx_isa.yaml").read_text()
    (tmp_path / "knowledge" / "ptx_isa.yaml").write_text(text.replace("version: 1", "version: 2"))
    with pytest.raises(ConfigError, match=r"knowledge/ptx_isa\.yaml"):
        load_knowledge(tmp_path)


def test_a_project_adds_failures_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "knowledge" / "failures"
    folder.mkdir(parents=True)
    shipped = resources.files("knowledge", below="failures", pattern="*.yaml")
    first = next(iter(shipped))
    own = shipped[first].read_text()
    known = default_library()
    (folder / "mine.yaml").write_text(own)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        default_library(tmp_path)
    (folder / "mine.yaml").unlink()
    (folder / Path(first).name).write_text("[]\n")

    assert set(default_library(tmp_path).entries) < set(known.entries)
