"""Every table and text for people fits a terminal of 60, 80 or 120 columns, and no word is broken."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
from terminal_tools import (
    CELL,
    FEATURES,
    LIBRARY,
    OTHER,
    ROOT,
    VERSION,
    WHY,
    benched,
    judged,
    outcome,
    probed,
    project,
    report,
    served,
)

from assay.adapters.files.records import FileStore
from assay.audit.formats import text
from assay.audit.grid import Column, Grid, GridCell, GridRow
from assay.cli import bench, build, console, main, probe, serve_check, status, verdicts
from assay.evidence.reference import Reference
from assay.foundation.outcome import Outcome
from assay.foundation.printable import wrapped
from assay.matrix import loading, plan
from assay.matrix.lock import LockedCell
from assay.pages.grid import grid_text
from assay.pipeline.rebuild import DifferingWheel, Rebuilt
from assay.ports.services import KeptServer

__all__ = ["project"]

WIDTHS: Final = (60, 80, 120)
UNLIMITED: Final = 10_000
COMMANDS: Final = (
    "plan",
    "plan --excluded",
    "report",
    "recommend --target sm_120",
    "recommend --target sm_120 --offline --need cuda-graphs,fp8-kv-cache-engine",
    "facts list --facts facts",
    f"facts show torch=={VERSION} --facts facts",
    "doctor",
    "probe --list",
    "jobs --all",
    "diagnose --known",
    "diagnose server.log",
    f"diff {CELL} {OTHER}",
    "audit plain-1.0-py3-none-any.whl --target sm_120 --facts facts --no-record",
)


def show_servers() -> None:
    server = KeptServer(
        name="qwen3-32b-awq", container="assay-up-qwen3-32b-awq", image="assay/x:y", running=True, state="Up 3 minutes",
        labels={"assay.up.port": "8000", "assay.up.model": "Qwen/Qwen3-32B-AWQ"},
    )  # fmt: skip
    status._show([(server, "not healthy")], "table")


def show_dry_run() -> None:
    cells = plan.make(loading.load((ROOT / "matrix.yaml").read_text(), _recipes())).cells
    build._dry_run([LockedCell(cell=cell, lock=None, unresolved=WHY) for cell in cells], None, "text")


def _recipes() -> Mapping[str, str]:
    return {path.parent.name: path.read_text() for path in (ROOT / "images").glob("*/image.yaml")}


def show_probed() -> None:
    planned = plan.make(loading.load((ROOT / "matrix.yaml").read_text(), _recipes()))
    probe._show_all([probed()], "text", planned, Path(), FileStore(Path("build_logs")))
    probe._show_unmeasured([], planned, Path(), FileStore(Path("build_logs")))


def show_audit() -> None:
    for verbose in (False, True):
        console.data("\n".join(text(report(), verbose=verbose, width=console.width())))


def show_rebuilt() -> None:
    digest = "sha256:" + "a" * 64
    layers = (("COPY /out/ /opt/venv/ # buildkit and more words that wrap", digest, ""),) * 3
    place = Reference.parse("registry.example/team/x:plain-v1")
    verdicts.show_rebuilt(
        Rebuilt(
            reference=place,
            cell="plain-v1",
            published=digest,
            rebuilt=digest[:-1] + "b",
            differing=layers,
            wheels=(DifferingWheel(name="sglang-kernel", published=digest, rebuilt=None),),
        )
    )


def show_grid() -> None:
    cell = GridCell(state="fails", reason=WHY, fix="pin torch beside it")
    columns = tuple(
        Column(target="sm_120", title="RTX PRO 6000 Blackwell Workstation", platform="x86_64") for _ in range(5)
    )
    rows = tuple(GridRow(torch=torch, python="3.12", cells=(cell,) * 5) for torch in ("2.8.0+cu128", "2.14.1"))
    grid = Grid.of(("sglang-kernel==0.3.9.post2",), columns, rows, (WHY,))
    console.data("\n".join(grid_text(grid, console.width() or UNLIMITED)))


PRINTERS: Final[Mapping[str, Callable[[], None]]] = {
    "build --dry-run": show_dry_run,
    "probe": show_probed,
    "audit": show_audit,
    "audit of several cards": show_grid,
    "verify --rebuild": show_rebuilt,
    "verify": lambda: verdicts.show_judgement(judged(), against=False),
    "bench": lambda: bench._show([benched(), benched(20)], "table"),
    "status": show_servers,
    "serve-check": lambda: serve_check._show(served(), "table"),
}


def words_of(printed: str) -> set[str]:
    """Return the words; in a block a column's name ends with a colon."""
    return {word.rstrip(":") for word in printed.split() if not re.fullmatch("─+", word)}


def heads_of(printed: str) -> set[str]:
    """Return the names of columns; a block does not have all of them."""
    lines = printed.splitlines()
    return {
        word
        for above, line in itertools.pairwise(lines)
        if re.fullmatch("[ ─]*─+[ ─]*", line)
        for word in above.split()
    }


def check(show: Callable[[], object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(UNLIMITED))
    capsys.readouterr()
    show()
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > min(WIDTHS), "this output is too short to test anything"
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        show()
        printed = capsys.readouterr().out

        # A command is copied, so it stays on one line.
        lines = [line for line in printed.splitlines() if not line.startswith("assay ")]
        wide = [line for line in lines if len(line) > width and len(line.split()) > 1]
        assert [] == wide, f"wider than {width} columns"
        assert set() == words_of(printed) - words_of(whole), f"words broken at {width} columns"
        assert set() == words_of(whole) - words_of(printed) - heads_of(whole), f"words lost at {width} columns"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("command", COMMANDS)
def test_command_output_fits_the_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(lambda: main(command.split()), capsys, monkeypatch)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", PRINTERS)
def test_printed_results_fit_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(PRINTERS[name], capsys, monkeypatch)


def test_every_module_that_prints_a_table_is_tested() -> None:
    printing = {
        path.stem for path in (ROOT / "src/assay/cli").glob("*.py") if "console.data_table(" in path.read_text()
    }
    tested = {command.split()[0] for command in COMMANDS} | {
        "build",
        "probe",
        "bench",
        "serve_check",
        "status",
        "verdicts",
    }

    assert set() == printing - tested


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["- one two-three four"]),
        (12, ["- one", "  two-three", "  four"]),
        (20, ["- one two-three four"]),
    ],
)
def test_text_is_wrapped_at_spaces_only(width: int | None, lines: list[str]) -> None:
    assert lines == wrapped("one two-three four", width, first="- ", hang="  ")


def test_word_without_room_beside_the_head_moves_to_its_own_line() -> None:
    assert ["feature works", " " * 8 + LIBRARY] == wrapped(LIBRARY, 60, first="feature works ", hang=" " * 40)


@pytest.mark.usefixtures("project")
def test_recommend_counts_features_and_prints_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["recommend", "--target", "sm_120"])
    printed = capsys.readouterr()

    works = sum(outcome(number) is Outcome.WORKS for number in range(len(FEATURES)))
    assert f"{works} of {len(FEATURES)}" in printed.out
    assert "wrong: " in printed.out
    assert "cuda-graphs" not in printed.out, "features that work are counted"
    assert re.search(rf"^assay up MODEL --image ({CELL}|{OTHER}) --target sm_120$", printed.out, re.MULTILINE)


@pytest.mark.usefixtures("project")
def test_recommend_without_measurements_names_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert 3 == main(["recommend", "--target", "Jetson Orin", "--offline"])
    assert "assay audit NAME==VERSION --target sm_87" in capsys.readouterr().err
