"""`assay lock`: what --check accepts, and what becomes of the lock of a renamed cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from schema_tools import answers

from assay.adapters.index.uv import UvResolver
from assay.cli import main
from assay.ports.resolver import Failure, Unresolved

OLD = "images/vllm-blackwell/cells/vllm-blackwell-cu130-torch2.14.0-vllm0.33.0"
NEW = "images/vllm-blackwell/cells/vllm-blackwell-cu130-torch2.14.0-engine0.33.0"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    assert 0 == main(["init", str(tmp_path), "--image", "vllm"])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def rename(project: Path) -> None:
    text = (project / "matrix.yaml").read_text()
    text = text.replace("label: vllm", "label: engine")
    (project / "matrix.yaml").write_text(text.replace(Path(OLD).name, Path(NEW).name))


def fails(monkeypatch: pytest.MonkeyPatch, failure: Failure) -> None:
    monkeypatch.setattr(UvResolver, "resolve", lambda *_: Unresolved(failure=failure, explanation="it is so"))


def test_renamed_cell_keeps_its_lock_and_the_user_is_warned(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / OLD / "lock.txt").read_text()
    rename(project)

    assert 0 == main(["lock", "--no-audit"])
    said = capsys.readouterr().err
    assert f"renamed: {Path(NEW).name} keeps the lock of {Path(OLD).name}" in said
    assert f"removed {OLD}: matrix.yaml has no such cell" in said
    assert before.replace(Path(OLD).name, Path(NEW).name) == (project / NEW / "lock.txt").read_text()
    assert not (project / OLD).exists()
    assert 0 == main(["lock", "--check"])
    assert 0 == main(["render", "--check"])


def test_a_cell_that_is_gone_loses_what_was_generated_and_nothing_else(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / OLD / "notes.md").write_text("mine")
    rename(project)

    assert 0 == main(["render"])
    assert f"removed {OLD}: matrix.yaml has no such cell (kept: notes.md)" in capsys.readouterr().err
    assert ["notes.md"] == [path.name for path in (project / OLD).iterdir()]


@pytest.mark.parametrize("failure", list(Failure))
def test_check_accepts_a_recorded_reason_until_the_recipe_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Failure
) -> None:
    (project / OLD / "lock.txt").unlink()
    fails(monkeypatch, failure)
    assert 1 == main(["lock", "--check"])
    capsys.readouterr()
    assert 1 == main(["lock", "--no-audit", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    answers(document, "lock")
    assert [failure.value] == [one["status"] for one in document["locks"]]
    text = (project / OLD / "unresolved.txt").read_text()
    assert text.startswith(f"{failure.value}\n\n")
    assert ("it is so" in text) == (failure is not Failure.UNREACHABLE)
    capsys.readouterr()

    assert 0 == main(["lock", "--check"])
    assert f"{failure.value}, as recorded" in (said := capsys.readouterr().err)
    assert "1 have none, for the reason in unresolved.txt" in said
    recipe = project / "images" / "vllm-blackwell" / "image.yaml"
    recipe.write_text(recipe.read_text().replace("constraints: [", "constraints: [ninja<2, "))
    assert 1 == main(["lock", "--check"])


def test_an_index_out_of_reach_leaves_the_lock_and_a_reason_that_was_found_before(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = (project / OLD / "lock.txt").read_text()
    recipe = project / "images" / "vllm-blackwell" / "image.yaml"
    recipe.write_text(recipe.read_text().replace("constraints: [", "constraints: [ninja<2, "))
    fails(monkeypatch, Failure.UNREACHABLE)
    assert 1 == main(["lock", "--no-audit"])
    assert lock == (project / OLD / "lock.txt").read_text()
    assert not (project / OLD / "unresolved.txt").exists()

    fails(monkeypatch, Failure.CONFLICT)
    assert 1 == main(["lock", "--no-audit"])
    reason = (project / OLD / "unresolved.txt").read_text()
    fails(monkeypatch, Failure.UNREACHABLE)
    assert 1 == main(["lock", "--no-audit"])
    assert reason == (project / OLD / "unresolved.txt").read_text()


def test_the_locks_of_this_repository_answer_their_recipes(root: Path) -> None:
    assert 0 == main(["lock", "--check", "--project", str(root)])
