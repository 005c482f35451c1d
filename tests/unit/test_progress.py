"""What a run of many cells shows: a live table on a terminal, plain lines in pipes and in CI."""

from __future__ import annotations

import io
import sys
import time

import pytest

from assay.cli.progress import BuildProgress
from assay.evidence.record import BuildRecord, BuildStatus, now
from assay.matrix import loading as matrix
from assay.matrix import plan
from assay.matrix.cell import Cell


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def cell(matrix_text: str, image_text: str) -> Cell:
    return plan.make(matrix.load(matrix_text, {"serving": image_text})).cells[0]


def record(cell: Cell, status: BuildStatus) -> BuildRecord:
    return BuildRecord(
        created=now(), run="r", cell=cell.id, image=cell.image, assay_version="0", status=status, seconds=3.0
    )


def shown(
    cell: Cell, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, columns: int = 100, **environ: str
) -> str:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    with BuildProgress(2) as progress:
        progress.started(cell.id)
        progress.step(cell.id, "wheel-torch")
        if progress._live is not None:
            progress._live.refresh()
        progress.finished(cell.id, record(cell, BuildStatus.BUILT))
    return stream.getvalue()


def test_a_pipe_gets_whole_plain_lines(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(cell, io.StringIO(), monkeypatch, columns=20)

    assert [f"... {cell.id}", f"built     {cell.id} (3 s) 1/2"] == text.splitlines()


def test_piped_output_shows_the_last_step_and_that_it_continues(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [1000.0]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    progress = BuildProgress(2)
    progress.started(cell.id)
    for seconds, words in ((25, "wheel-torch"), (26, "image 4/27"), (27, "exporting layers")):
        moment[0] = 1000.0 + seconds
        progress.step(cell.id, words)
    # No step follows: whoever waits learns of the last one nevertheless.
    for seconds in (40, 46, 60, 107, 110):
        moment[0] = 1000.0 + seconds
        progress.tell()
    progress.finished(cell.id, record(cell, BuildStatus.BUILT))
    progress.tell()

    said = [line.split(f" {cell.id}: ") for line in stream.getvalue().splitlines()[1:-1]]
    assert [
        ["      25 s", "wheel-torch"],
        ["      46 s", "exporting layers"],
        ["     107 s", "exporting layers"],
    ] == said


def test_terminal_shows_running_and_waiting_jobs(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(cell, Screen(), monkeypatch)

    assert "\x1b[32mbuilt" in text
    assert "wheel-torch" in text
    assert "1 more" in text


def test_without_colour_nothing_is_coloured(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(cell, Screen(), monkeypatch, NO_COLOR="1")

    assert "\x1b[32m" not in text
    assert "wheel-torch" in text


def test_in_ci_a_terminal_is_treated_as_a_pipe(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(cell, Screen(), monkeypatch, CI="true", NO_COLOR="1")

    assert "\x1b" not in text
    assert "wheel-torch" not in text


@pytest.mark.parametrize("columns", [40, 60])
def test_on_a_narrow_terminal_the_end_of_an_id_stays(cell: Cell, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    long = cell.model_copy(update={"id": f"serving-{'x' * 50}-flavour9.9"})
    text = shown(long, Screen(), monkeypatch, columns=columns)

    assert any("…" in line and "vour9.9  " in line for line in text.splitlines())
