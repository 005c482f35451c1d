"""Coverage of releases: what changed between them, and how it reads."""

from __future__ import annotations

import pytest

from assay.adapters.index.fake import FakeIndex
from assay.audit.context import TargetGpu
from assay.audit.coverage import Coverage, CoverageRow, covered
from assay.audit.findings import AuditReport, Prediction
from assay.cli import main
from assay.foundation.outcome import Outcome, Verdict
from assay.pages.coverage import coverage_html, coverage_markdown, coverage_text
from assay.pipeline.coverage import CoveragePorts, coverage
from assay.ports.index import IndexFile


def row(version: str, platform: str, states: dict[str, dict[str, str]], **more: object) -> CoverageRow:
    values = {"distribution": "ext", "version": version, "platform": platform, "uploaded": "2026-01-01"}
    return CoverageRow.model_validate({**values, "targets": states, **more})


ROWS = (
    row("0.9", "x86_64", {"sm_120": {"marlin": "works"}, "sm_90": {"marlin": "works", "nvfp4": "unsupported"}}),
    row("0.10", "x86_64", {}, problem="it is damaged"),
    row("0.28", "x86_64", {"sm_120": {"marlin": "broken"}, "sm_90": {"marlin": "works", "nvfp4": "unsupported"}}),
    row("0.29", "x86_64", {"sm_120": {"marlin": "works_if"}, "sm_90": {"marlin": "works", "nvfp4": "works"}}),
    row("0.9", "aarch64", {"sm_121": {"marlin": "works"}}),
    row("0.28", "aarch64", {"sm_121": {}}),
)
FOUND = Coverage(made="2026-11-30", since="2025-11-30", rows=ROWS)


def test_changes_name_what_was_lost_and_gained_and_skip_what_was_not_read() -> None:
    changes = {(one.platform, one.before, one.after): list(one.words()) for one in FOUND.changes}

    assert changes == {
        ("x86_64", "0.9", "0.28"): ["sm_120 lost `marlin`"],
        ("x86_64", "0.28", "0.29"): ["sm_120 gained `marlin`", "sm_90 gained `nvfp4`"],
        ("aarch64", "0.9", "0.28"): ["sm_121 lost `marlin`"],
    }


def test_nothing_passes_from_one_platform_or_target_to_another() -> None:
    for change in FOUND.changes:
        own = {target for one in ROWS if one.platform == change.platform for target in one.targets}
        assert {*change.lost, *change.gained} <= own


def test_states_keep_conditions_and_only_the_wheel_asked_about() -> None:
    def one(feature: str, outcome: Outcome, verdict: Verdict, *, asked: bool = True) -> Prediction:
        return Prediction(target="sm_120", feature=feature, outcome=outcome, verdict=verdict, reason="r", asked=asked)

    report = AuditReport(
        subject="wheels",
        name="x",
        python="3.12",
        base="b",
        targets=("sm_120",),
        verdict=Verdict.OK,
        findings=(),
        predictions=(
            one("a", Outcome.WORKS, Verdict.OK),
            one("b", Outcome.WORKS, Verdict.WARN),
            one("c", Outcome.BROKEN, Verdict.FAIL),
            one("torch-device", Outcome.WORKS, Verdict.OK, asked=False),
        ),
    )

    assert covered(report, report.targets) == {"sm_120": {"a": "works", "b": "works_if", "c": "broken"}}


def file(version: str, tag: str, day: str) -> IndexFile:
    name = f"ext-{version}-{tag}.whl"
    return IndexFile(project="ext", filename=name, url=f"https://x.example/{name}", uploaded=day)


def test_each_platform_is_judged_with_its_own_cards() -> None:
    files = [
        file("1.0", "cp312-cp312-manylinux_2_28_x86_64", "2025-01-01"),
        file("2.0", "cp312-cp312-manylinux_2_28_x86_64", "2026-01-01"),
        file("2.0", "cp312-cp312-manylinux_2_28_aarch64", "2026-01-01"),
        file("3.0", "py3-none-any", "2026-02-01"),
    ]
    asked: list[tuple[str, str, list[str]]] = []

    def judge(word: str, _python: str, machine: str, gpus: object) -> AuditReport:
        names = [gpu.name for gpu in gpus]  # type: ignore[attr-defined]
        asked.append((word, machine, names))
        return AuditReport(
            subject="wheels", name=word, python="3.12", base="b", targets=tuple(names), verdict=Verdict.OK, findings=()
        )

    targets = {
        "x86_64": [TargetGpu(name="sm_120", capability=120)],
        "aarch64": [TargetGpu(name="sm_121", capability=121)],
    }
    found = coverage(
        ["ext", "nowhere"],
        targets,
        CoveragePorts(index=FakeIndex({"pypi": files}), judge=judge),
        since="2025-12-01",
        made="2026-11-30",
    )

    assert [(one.version, one.platform) for one in found.rows] == [
        ("2.0", "aarch64"),
        ("3.0", "any"),
        ("2.0", "x86_64"),
    ]
    assert asked == [
        ("ext==2.0", "x86_64", ["sm_120"]),
        ("ext==2.0", "aarch64", ["sm_121"]),
        ("ext==3.0", "x86_64", ["sm_120", "sm_121"]),
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_fits_the_terminal(width: int) -> None:
    assert max(map(len, coverage_text(FOUND, width=width))) <= width


def test_the_page_shows_changes_newest_first_and_both_platforms() -> None:
    lines = list(coverage_markdown(FOUND))
    changes = [line for line in lines if line.startswith("- ")]

    assert changes[0].startswith("- 0.28 → 0.29 (linux/amd64): sm_120 gained `marlin`")
    assert "- 0.9 → 0.28 (linux/arm64): sm_121 lost `marlin`" in changes
    assert "Not read: 0.10 (linux/amd64)." in "\n".join(lines)
    assert "| `nvfp4` |  | ✓ |" in lines
    html = coverage_html(FOUND)
    assert "<code>marlin</code>" in html
    assert "<script" not in html


def test_the_document_reads_back() -> None:
    assert Coverage.model_validate_json(FOUND.model_dump_json()) == FOUND


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--coverage", "--format", "junit"), "no JUnit form"),
        (("--coverage", "--since", "last year"), "is not a date"),
        (("--since", "2026-01-01"), "--since goes with --coverage"),
        (("--coverage", "--measured"), "--coverage goes with"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err
