"""`assay report --html`, `--into` and `--badges` over a project on disk."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assay.adapters.files.records import FileStore
from assay.cli import main
from assay.evidence.record import BuildRecord, BuildStatus, Device, FeatureResult, ProbeRecord, dump, file_name
from assay.foundation.outcome import Outcome

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
MATRIX = """\
targets:
  sm_120: {name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}
bases:
  tiny: {kind: registry, image: "docker.io/library/tiny:1", python: 3.11, glibc: 2.36}
indexes: {pypi: {}}
axes:
  flavour: {label: f, values: [1.0, 2.0]}
"""
IMAGE = """\
description: two cells
engine: sglang
targets: [sm_120]
id: [flavour]
defaults: {base: tiny}
axes: {flavour: [1.0, 2.0]}
template: tiny
requirements: [torch]
"""
CLAIMS = """\
version: 1
claims:
  - {feature: marlin, outcome: broken, target: sm_120, engine: sglang, says: old, source: a report, date: 2025-09-16}
  - {feature: marlin, outcome: works, target: sm_120, engine: sglang, says: new, source: a thread, date: 2026-01-01}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "images" / "made").mkdir(parents=True)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "tiny.Dockerfile.j2").write_text("FROM {{ base.reference }}\n")
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "images" / "made" / "image.yaml").write_text(IMAGE)
    (tmp_path / "images" / "made" / "claims.yaml").write_text(CLAIMS)
    store = FileStore(tmp_path / "build_logs")
    log = tmp_path / "build_logs" / "r" / "a.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\x1b[31mred\x1b[0m <b>\n" * 5000)
    store.append(BuildRecord(created=WHEN, run="r", cell="made-f1.0", status=BuildStatus.FAILED, log="r/a.log"))
    outside = BuildRecord(created=WHEN, run="s", cell="made-f2.0", status=BuildStatus.FAILED, log="../matrix.yaml")
    store.append(outside)
    probe = ProbeRecord(
        created=WHEN, run="r", cell="docker.io/others/image:1", suite_digest="s", executor="docker", packages={},
        devices=(Device(name="g", capability="12.0", memory_bytes=1),),
        features={"sampling": FeatureResult(outcome=Outcome.WORKS)},
    )  # fmt: skip
    store.append(probe)
    return tmp_path


def report(project: Path, *words: str) -> int:
    return main(["report", "--project", str(project), *words])


def test_pages_are_written_with_logs_and_claims(project: Path) -> None:
    assert report(project, "--html", str(project / "site")) == 0

    page = (project / "site" / "cells" / "made-f1.0.html").read_text()
    assert "red &lt;b&gt;" in page
    assert "\x1b" not in page
    assert ", the end of it</summary>" in page
    assert page.count("red &lt;b&gt;") == 120
    assert "a report, 2025-09-16" in page
    assert "a thread, 2026-01-01" in page
    # A record may name any path; nothing outside build_logs/ is shown.
    assert "shared_memory_per_block" not in (project / "site" / "cells" / "made-f2.0.html").read_text()


def test_pages_link_to_coverage_once_it_is_there(project: Path) -> None:
    site = project / "site"
    assert report(project, "--html", str(site)) == 0
    pages = [site / "index.html", site / "cells" / "made-f1.0.html"]
    assert [] == [page for page in pages if "coverage.html" in page.read_text()]

    (site / "coverage.html").write_text("made by assay report --coverage")
    assert report(project, "--html", str(site)) == 0

    assert '<a href="coverage.html">Coverage</a>' in pages[0].read_text()
    assert '<a href="../coverage.html">Coverage</a>' in pages[1].read_text()
    assert "made by" in (site / "coverage.html").read_text()


def test_newest_of_contradicting_claims_is_shown(project: Path) -> None:
    readme = project / "README.md"
    readme.write_text("# x\n<!-- assay matrix: begin -->\n<!-- assay matrix: end -->\n")
    assert report(project, "--into", str(readme)) == 0

    text = readme.read_text()
    assert "✓ works (claimed)" in text
    assert "✗ broken (claimed)" not in text
    assert text.startswith("# x\n")


def test_a_selection_shows_only_its_cells(project: Path) -> None:
    assert report(project, "--html", str(project / "all")) == 0
    assert report(project, "made-f1.0", "--html", str(project / "one")) == 0

    assert len(list((project / "all" / "cells").iterdir())) == 3
    assert [path.name for path in (project / "one" / "cells").iterdir()] == ["made-f1.0.html"]


def test_badges_are_written(project: Path) -> None:
    assert report(project, "--badges", str(project / "b")) == 0

    assert [path.suffix for path in (project / "b").iterdir()] == [".svg"]


def test_a_file_without_markers_is_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = project / "README.md"
    readme.write_text("# x\n")

    assert report(project, "--into", str(readme)) == 2
    assert readme.read_text() == "# x\n"
    assert "markers" in capsys.readouterr().err


def test_claims_that_are_wrong_are_left_out_with_a_warning(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "images" / "made" / "claims.yaml").write_text("version: 1\nclaims: [{feature: x}]\n")

    assert report(project, "--html", str(project / "site")) == 0
    assert "claims are left out" in capsys.readouterr().err


def committed(project: Path) -> Path:
    """Keep a record outside build_logs/, as a repository does."""
    probe = ProbeRecord(
        created=WHEN, run="elsewhere", cell="made-f1.0", suite_digest="s", executor="docker", packages={},
        devices=(Device(name="card", capability="12.0", memory_bytes=1, driver="580"),),
        features={"radix-cache": FeatureResult(outcome=Outcome.WORKS)},
    )  # fmt: skip
    folder = project / "docs" / "records" / "sm_120"
    folder.mkdir(parents=True)
    (folder / file_name(probe)).write_bytes(dump(probe))
    return folder.parent


def test_committed_records_are_shown_beside_those_of_this_machine(project: Path, tmp_path: Path) -> None:
    folder = committed(project)
    page = "cells/made-f1.0.html"
    for words, builds in (((), True), (("--records", str(folder)), False)):
        out = tmp_path / f"site{len(words)}"
        assert main(["report", "--html", str(out), "--project", str(project), *words]) == 0
        text = (out / page).read_text()

        assert "radix-cache" in text
        assert ("r/a.log" in text) is builds


def test_a_readme_holds_what_was_measured_and_a_check_finds_drift(project: Path) -> None:
    folder = committed(project)
    readme = project / "README.md"
    readme.write_text("# Mine\n<!-- assay matrix: begin -->\n<!-- assay matrix: end -->\n")
    words = ["report", "--records", str(folder), "--measured", "--into", str(readme), "--project", str(project)]

    assert main([*words, "--check"]) == 1
    assert "made-f1.0" not in readme.read_text()
    assert main(words) == 0
    assert main([*words, "--check"]) == 0
    text = readme.read_text()
    assert re.search(r"^- ✓ works in all 1: .*radix-cache", text, re.MULTILINE)
    assert "measured on card" in text
    assert "claimed" not in text
    readme.write_text(text.replace("✓ works", "✗ broken"))
    assert main([*words, "--check"]) == 1


def test_options_of_pages_without_pages_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--measured"], ["--check"], ["--records", str(project)], ["--check", "--html", "x"]):
        assert main(["report", "--project", str(project), *words]) == 2
        assert "--into" in capsys.readouterr().err


def test_measurements_of_a_killed_run_are_reported(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(project / "build_logs")
    with store.new_run() as run:
        run.draft(
            ProbeRecord(
                created=WHEN, run=run.name, cell="made-f1.0", suite_digest="s", executor="docker", packages={},
                devices=(Device(name="g", capability="12.0", memory_bytes=1),),
                features={"marlin": FeatureResult(outcome=Outcome.WRONG, log=f"{run.name}/marlin.log")},
            )
        )  # fmt: skip
        assert report(project, "--badges", str(project / "b")) == 0
        assert "was killed" not in capsys.readouterr().err
    page = project / "site" / "cells" / "made-f1.0.html"

    assert report(project, "--html", str(project / "site")) == 0
    assert f"the run {run.name} was killed; what it had measured" in capsys.readouterr().err
    assert "wrong" in page.read_text()


def test_report_works_although_a_draft_cannot_be_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: FileStore) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(FileStore, "adopt", refuse)

    assert report(project, "--badges", str(project / "b")) == 0
    assert "could not be recorded: read-only" in capsys.readouterr().err
