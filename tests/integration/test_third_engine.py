"""An engine of another distribution: its module and its data are all that plan, audit, launch and serve-check need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from project_tools import Project
from tern_project import CELL, tern_project

from assay.adapters.files.records import FileStore
from assay.evidence.record import ServeRecord

ROOT = Path(__file__).parents[2]
SETTINGS = ("--set", "kernel=plain", "--set", "called=gull", "--set", "password=a-secret-word")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with tern_project(tmp_path, monkeypatch) as found:
        yield found


def test_plan_shows_its_cell(project: Project) -> None:
    code, said = project.json("plan")

    assert (0, [(CELL, "tern")]) == (code, [(cell["id"], cell["engine"]) for cell in said["cells"]])


def test_audit_reads_its_locked_wheels(project: Project) -> None:
    locked = project.run("lock", CELL)
    audited = project.run("audit", CELL, "--facts", str(project.root / "facts"))

    assert (0, 0) == (locked.returncode, audited.returncode), locked.stderr + audited.stderr
    assert "tern-serve==1.2.0" in (project.root / "images/small/cells" / CELL / "lock.txt").read_text()


@pytest.mark.parametrize("form", ["docker", "compose", "kubernetes", "systemd"])
def test_launch_writes_its_flags(project: Project, form: str) -> None:
    done = project.run("launch", CELL, "--model", "model", "--context", "1024", "--format", form)

    assert 0 == done.returncode, done.stderr
    for word in ("tern_server", "--weights", "--longest", "1024", "--slots", "/livez"):
        assert word in done.stdout


def test_serve_check_passes_its_server(project: Project) -> None:
    done = project.run("serve-check", "local", "--engine", "tern", "--model", "model", *SETTINGS)

    assert 0 == done.returncode, done.stdout + done.stderr
    (record,) = FileStore(project.root / "build_logs").records(kind="serve")
    assert isinstance(record, ServeRecord)
    assert [] == [check.name for check in record.checks if not check.passed]
    assert "gull" == next(check.detail for check in record.checks if check.name == "models")
    assert not any(b"a-secret-word" in path.read_bytes() for path in project.root.rglob("build_logs/**/*.*"))
    assert {"metrics", "seed"} <= {check.name for check in record.checks}
    expected: dict[str, Any] = {"attention_backend": "plain", "build": "debug", "cuda_graphs": 3, "prefill_chunk": 2048}
    assert expected == {name: record.chosen[name] for name in expected}
    assert "same seed: the same answer" in next(check.detail for check in record.checks if check.name == "seed")


def test_a_profile_for_an_older_release_is_written_in_the_words_of_this_one(project: Project) -> None:
    project.write("images/small/profiles/old.yaml",
                  'description: a profile\nengine: tern\nwritten_for: 1.0.0\nflags: {window: "512"}\n')  # fmt: skip

    done = project.run("launch", CELL, "--model", "model", "--profile", "old")

    assert 0 == done.returncode, done.stderr
    assert "--longest 512" in done.stdout


def test_an_engine_that_is_not_installed_is_an_error_with_a_suggestion(project: Project) -> None:
    project.change("images/small/image.yaml", "engine: tern", "engine: term")

    done = project.run("plan")

    assert 2 == done.returncode
    assert "engine: must be 'sglang', 'vllm', 'tern' or 'none', not 'term'; did you mean 'tern'?" in done.stderr


def test_an_engine_that_cannot_be_loaded_names_the_distribution(project: Project, tmp_path: Path) -> None:
    (tmp_path / "site" / "tern_serve-1.2.0.dist-info" / "entry_points.txt").write_text(
        "[assay.engines]\ntern = no_such_module:ENGINE\n"
    )

    done = project.run("launch", CELL, "--model", "model")

    assert 2 == done.returncode
    assert "the engine 'tern' of tern-serve cannot be loaded: No module named 'no_such_module'" in done.stderr
