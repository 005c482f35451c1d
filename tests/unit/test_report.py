"""What the report says of records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from assay.evidence import report
from assay.evidence.record import AnyRecord, BuildRecord, BuildStatus, Device, FeatureResult, ProbeRecord, RunSummary
from assay.foundation.outcome import Outcome
from assay.matrix import loading as matrix
from assay.matrix import plan
from assay.matrix.cell import Cell

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def cells(matrix_text: str, image_text: str) -> Sequence[Cell]:
    return plan.make(matrix.load(matrix_text, {"serving": image_text})).cells


def built(cell: Cell, status: BuildStatus = BuildStatus.BUILT, *, minute: int = 0, **more: Any) -> BuildRecord:
    more = {"image_digest": DIGEST, "size_bytes": 4_800_000_000, "seconds": 478.0} | more
    return BuildRecord(created=START + timedelta(minutes=minute), run="r", cell=cell.id, status=status, **more)


def probed(cell: Cell, digest: str = DIGEST, **outcomes: Outcome) -> ProbeRecord:
    return ProbeRecord(
        created=START + timedelta(hours=1),
        run="p",
        cell=cell.id,
        image_digest=digest,
        suite_digest=DIGEST,
        executor="docker",
        devices=(Device(name="NVIDIA H200", capability="9.0", memory_bytes=1),),
        packages={},
        features={
            name.replace("_", "-"): FeatureResult(outcome=outcome, reason="<why>") for name, outcome in outcomes.items()
        },
    )


def test_report_row_has_status_size_time_and_probe_outcomes(cells: Sequence[Cell]) -> None:
    records: list[AnyRecord] = [built(cells[0]), probed(cells[0], cuda_graphs=Outcome.WORKS, marlin=Outcome.WRONG)]
    rows = report.text_rows(report.make(cells, records))

    assert rows[0] == (cells[0].id, "built", "4.8 GB", "478 s", "", "sm_90: 1/2 work", "", "")
    assert rows[1][1] == "not built yet"


def test_newest_record_counts_and_shows_changes(cells: Sequence[Cell]) -> None:
    records = [built(cells[0], BuildStatus.FAILED, minute=2, reason="no\nmore", cause="abi-x"), built(cells[0])]
    row = report.make(cells, records).rows[0]

    assert (row.status, row.change(), row.reason) == ("failed", "was built", "abi-x: no")


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({}, {}, ""),
        ({"lock_digest": DIGEST}, {"lock_digest": "sha256:" + "2" * 64, "content_key": DIGEST}, "new lock"),
        ({}, {"content_key": DIGEST}, "new recipe"),
        ({}, {"content_key": DIGEST, "size_bytes": 5_000_000_000}, "new recipe, +200 MB"),
        ({}, {"size_bytes": 4_800_000_001}, ""),
        ({"status": BuildStatus.FAILED, "cause": "a"}, {"status": BuildStatus.FAILED, "cause": "b"}, "was a"),
        ({"status": BuildStatus.FAILED}, {"status": BuildStatus.FAILED, "cause": "b"}, "was without a known cause"),
    ],
)
def test_differences_from_the_previous_build_are_reported(
    cells: Sequence[Cell], before: dict[str, Any], after: dict[str, Any], change: str
) -> None:
    row = report.make(cells, [built(cells[0], **before), built(cells[0], minute=1, **after)]).rows[0]

    assert change == row.change()


def test_skipped_cells_of_the_last_run_are_reported(cells: Sequence[Cell]) -> None:
    last = RunSummary(run="r2", cells={cells[0].id: BuildStatus.CACHED, cells[1].id: BuildStatus.BUILT})
    made = report.make(cells, [built(cells[0]), built(cells[1], minute=1)], last=last)
    document = report.as_document(made)
    tests = ET.fromstring(report.as_junit(made)).findall(".//testcase")

    assert [row[6] for row in report.text_rows(made)[:2]] == ["skipped: nothing changed", ""]
    assert made.last_counts() == "1 built, 1 skipped"
    assert [cell.skipped for cell in document.cells[:2]] == [True, False]
    assert document.last_run == last
    assert [test.get("time") for test in tests[:2]] == ["0", "478.000"]
    assert tests[0].findtext("system-out") == "skipped: the image of 2026-11-20 12:00 UTC is there"
    assert tests[0].find("failure") is None


def test_another_machines_probe_counts_where_the_digest_is_this_machines(cells: Sequence[Cell]) -> None:
    theirs = probed(cells[0], cuda_graphs=Outcome.WORKS)
    cached = built(cells[0], BuildStatus.CACHED, minute=5, image_digest=None)
    other = "sha256:" + "2" * 64

    def words(records: Sequence[AnyRecord], digests: dict[str, str]) -> str:
        made = report.make(cells[:1], records, elsewhere=[theirs], digests=digests)
        return report.text_rows(made)[0][5]

    assert words([], {}) == "not probed"
    assert words([], {cells[0].id: DIGEST}) == "sm_90: 1/1 work"
    assert words([], {cells[0].id: other}) == "not probed"
    assert words([built(cells[0]), cached], {}) == "sm_90: 1/1 work"
    assert words([built(cells[0], image_digest=other)], {cells[0].id: DIGEST}) == "not probed"


def test_an_aborted_build_does_not_hide_the_one_before(cells: Sequence[Cell]) -> None:
    row = report.make(cells, [built(cells[0]), built(cells[0], BuildStatus.ABORTED, minute=1)]).rows[0]

    assert row.status == "built"


def test_a_probe_of_another_image_does_not_count(cells: Sequence[Cell]) -> None:
    other = probed(cells[0], "sha256:" + "2" * 64, marlin=Outcome.WORKS)

    assert report.text_rows(report.make(cells, [built(cells[0]), other]))[0][5] == "not probed"


@pytest.mark.parametrize(
    ("status", "cause", "good"),
    [
        (BuildStatus.REFUSED, "arch-torch-incompatible", True),
        (BuildStatus.REFUSED, "another-cause", False),
        (BuildStatus.BUILT, None, False),
    ],
)
def test_control_passes_when_it_fails_as_expected(
    cells: Sequence[Cell], status: BuildStatus, cause: str | None, good: bool
) -> None:
    row = report.make(cells, [built(cells[2], status, cause=cause)]).rows[2]

    assert good == row.as_it_must


def test_junit_counts_failures_and_is_xml_whatever_the_log_says(cells: Sequence[Cell]) -> None:
    records: list[AnyRecord] = [
        built(cells[0], BuildStatus.FAILED, reason="<script>\x00\x1b[31m & more"),
        built(cells[1]),
        probed(cells[1], marlin=Outcome.WRONG, numa=Outcome.NOT_RUN, nccl=Outcome.WORKS),
    ]
    suites = ET.fromstring(report.as_junit(report.make(cells, records)))

    assert [(s.get("tests"), s.get("failures"), s.get("skipped")) for s in suites] == [("3", "1", "1"), ("3", "1", "1")]


def test_markdown_keeps_its_columns(cells: Sequence[Cell]) -> None:
    text = report.as_markdown(report.make(cells, [built(cells[0], BuildStatus.FAILED, reason="a | b <i>")]))

    assert {line.replace("\\|", "").count("|") for line in text.splitlines()} == {len(report.COLUMNS) + 1}
    assert "<i>" not in text
