"""`assay diff` and `assay bisect` over a project on disk; the cells' tests are stood in for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from project_tools import lock_text
from schema_tools import answers

import assay.pipeline.bisect as step
from assay.adapters.files.records import FileStore
from assay.cli import main
from assay.errors import EngineError
from assay.evidence.record import BuildRecord, BuildStatus, Device, FeatureResult, ProbeRecord
from assay.foundation.outcome import Outcome
from assay.matrix.bisection import Trial
from assay.matrix.cell import Cell

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
VERSIONS = [f"{i}.0" for i in range(1, 17)]
MATRIX = f"""\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  tiny: {{kind: registry, image: "docker.io/library/tiny:1", python: 3.11, glibc: 2.36}}
indexes: {{pypi: {{}}}}
axes:
  flavour: {{label: f, values: [{", ".join(VERSIONS)}]}}
"""
IMAGE = f"""\
description: a line of versions
engine: none
targets: [sm_120]
id: [flavour]
defaults: {{base: tiny}}
axes: {{flavour: [{", ".join(VERSIONS)}]}}
template: tiny
"""


def probe(version: str, outcome: Outcome, run: str = "r", *, day: int = 0) -> ProbeRecord:
    return ProbeRecord(
        created=WHEN + timedelta(days=day), run=run, cell=f"made-f{version}", suite_digest="s", executor="docker",
        devices=(Device(name="g", capability="12.0", memory_bytes=1),), packages={"flavour": version},
        features={"marlin": FeatureResult(outcome=outcome)},
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "images" / "made").mkdir(parents=True)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "tiny.Dockerfile.j2").write_text("FROM {{ base.reference }}\n")
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "images" / "made" / "image.yaml").write_text(IMAGE)
    return tmp_path


def bisect(project: Path, *words: str) -> int:
    ends = ["--good", "made-f1.0", "--bad", "made-f16.0"]
    return main(["bisect", "--feature", "marlin", *ends, "--project", str(project), *words])


def test_the_first_bad_version_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tested: list[str] = []

    def test(cell: Cell, *_: object) -> Trial:
        tested.append(cell.id)
        return Trial.BAD if float(cell.id.rsplit("f", 1)[1]) >= 11 else Trial.GOOD

    monkeypatch.setattr(step, "try_cell", test)
    assert bisect(project) == 0
    assert capsys.readouterr().out.splitlines() == [
        "first bad: flavour 11.0 (made-f11.0)",
        "last good: flavour 10.0 (made-f10.0)",
    ]
    assert len(tested) == 4
    assert bisect(project, "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    answers(document, "bisect")
    assert document["answer"]["first_bad"] == "11.0"
    assert len(tested) == 4


def test_interrupted_command_resumes(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tested: list[str] = []

    def test(cell: Cell, *_: object) -> Trial:
        if len(tested) == 2:
            tested.append("interrupted")
            raise KeyboardInterrupt
        tested.append(cell.id)
        return Trial.BAD if float(cell.id.rsplit("f", 1)[1]) >= 3 else Trial.GOOD

    monkeypatch.setattr(step, "try_cell", test)
    assert bisect(project) == 130
    assert bisect(project) == 0
    assert "first bad: flavour 3.0" in capsys.readouterr().out
    assert len(tested) == len(set(tested)) == 5


def test_records_answer_without_a_test(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> Trial:
        raise AssertionError("nothing has to be tested")

    store = FileStore(project / "build_logs")
    store.append(probe("6.0", Outcome.WORKS))
    store.append(probe("7.0", Outcome.BROKEN))
    monkeypatch.setattr(step, "try_cell", never)

    assert bisect(project) == 0
    assert "first bad: flavour 7.0" in capsys.readouterr().out


def test_versions_that_cannot_be_tested_leave_candidates_and_exit_with_1(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def test(cell: Cell, *_: object) -> Trial:
        version = float(cell.id.rsplit("f", 1)[1])
        return Trial.SKIP if 6 <= version <= 8 else Trial.BAD if version > 8 else Trial.GOOD

    monkeypatch.setattr(step, "try_cell", test)
    assert bisect(project) == 1
    out = capsys.readouterr().out
    assert "is one of 6.0, 7.0, 8.0, 9.0" in out
    assert "last good: flavour 5.0" in out


def test_a_dry_run_tests_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bisect(project, "--dry-run") == 0
    assert "at most 4 to test" in capsys.readouterr().err
    assert not (project / "build_logs").exists()


def test_an_engine_that_fails_ends_the_command_and_gives_no_result_for_the_cell(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> Trial:
        raise EngineError("the engine is gone")

    monkeypatch.setattr(step, "try_cell", broken)

    assert bisect(project) == 4
    assert "the engine is gone" in capsys.readouterr().err
    (state,) = (json.loads(path.read_text()) for path in project.glob("build_logs/bisect/*/state.json"))
    assert state["trials"] == {}


def test_two_runs_are_compared_and_a_regression_exits_with_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(project / "build_logs")
    store.append(probe("1.0", Outcome.WORKS, "before"))
    store.append(probe("1.0", Outcome.BROKEN, "after", day=1))

    assert main(["diff", "before", "after", "--project", str(project), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(c["direction"], c["what"]) for c in document["changes"]] == [("regression", "marlin on sm_120")]
    assert main(["diff", "after", "before", "--project", str(project)]) == 0
    assert main(["diff", "before", "before", "--project", str(project)]) == 0


def test_cells_and_tags_are_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(project / "build_logs")
    for version, digest in (("1.0", "a"), ("2.0", "b")):
        store.append(
            BuildRecord(
                created=WHEN,
                run="r",
                cell=f"made-f{version}",
                status=BuildStatus.BUILT,
                tags=(f"made:v{version}",),
                image_digest="sha256:" + digest * 64,
                size_bytes=1_000_000 if digest == "a" else 2_000_000,
            )
        )
    for one, other in (("made-f1.0", "made-f2.0"), ("v1.0", "v2.0"), ("sha256:aaaa", "made:v2.0")):
        assert main(["diff", one, other, "--project", str(project), "--format", "json"]) == 1
        found = json.loads(capsys.readouterr().out)["changes"]
        assert [(c["what"], c["direction"]) for c in found] == [("size", "regression"), ("digest", "change")]


def test_run_is_compared_with_a_cell_or_tag_for_that_cell_only(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FileStore(project / "build_logs")
    for day, (run, cell, outcome) in enumerate(
        [("one", "1.0", Outcome.WORKS), ("one", "2.0", Outcome.WORKS), ("two", "2.0", Outcome.BROKEN)]
    ):
        digest = f"sha256:{day:064x}"
        store.append(
            BuildRecord(
                created=WHEN + timedelta(days=day), run=run, cell=f"made-f{cell}", status=BuildStatus.BUILT,
                image_digest=digest, tags=(f"registry.example/made:v{day}",),
            )
        )  # fmt: skip
        store.append(probe(cell, outcome, run, day=day).model_copy(update={"image_digest": digest}))

    for after in ("made-f2.0", "v2"):
        assert main(["diff", "one", after, "--project", str(project), "--format", "json"]) == 1
        found = json.loads(capsys.readouterr().out)["changes"]
        assert next((c["what"], c["before"], c["after"]) for c in found) == ("marlin on sm_120", "works", "broken")
        assert {c["cell"] for c in found} == {f"one / {after}"}
    assert main(["diff", "two", "made-f1.0", "--project", str(project)]) == 2
    assert "the run two has no record of made-f1.0" in capsys.readouterr().err


def test_locks_of_runs_are_compared_by_the_digest_in_their_records(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FileStore(project / "build_logs")
    text = lock_text("made-f1.0")
    texts = [
        text + f"torch=={version} --hash=sha256:{'a' * 64}  # torch.whl 1 pypi\n" for version in ("2.8.0", "2.9.0")
    ]
    digests = [*(store.put_document(text.encode()) for text in texts), "sha256:" + "0" * 64]
    for number, digest in enumerate(digests):
        record = BuildRecord(
            created=WHEN + timedelta(days=number), run=f"r{number}", cell="made-f1.0", status=BuildStatus.BUILT,
            lock_digest=digest,
        )  # fmt: skip
        store.append(record)

    assert main(["diff", "r0", "r1", "--project", str(project), "--format", "json"]) == 0
    said = capsys.readouterr()
    found = {change["what"]: (change["before"], change["after"]) for change in json.loads(said.out)["changes"]}
    assert found["version of torch"] == ("2.8.0", "2.9.0")
    assert "warning" not in said.err
    assert main(["diff", "r0", "r2", "--project", str(project)]) == 0
    assert "versions of made-f1.0 are not compared" in capsys.readouterr().err


def test_unknown_name_is_reported_with_the_nearest_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FileStore(project / "build_logs").append(probe("1.0", Outcome.WORKS))

    assert main(["diff", "made-f1.O", "made-f1.0", "--project", str(project)]) == 2
    assert "made-f1.0" in capsys.readouterr().err


def test_markdown_of_a_diff_holds_hostile_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(project / "build_logs")
    store.append(probe("1.0", Outcome.WORKS, "a"))
    bad = probe("1.0", Outcome.BROKEN, "b", day=1)
    hostile = {"marlin": FeatureResult(outcome=Outcome.BROKEN, reason="<img src=x> | a\nb")}
    store.append(bad.model_copy(update={"features": hostile}))

    assert main(["diff", "a", "b", "--project", str(project), "--format", "markdown"]) == 1
    out = capsys.readouterr().out
    assert "&lt;img src=x> \\| a b" in out
