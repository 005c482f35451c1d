"""The grid of torches and cards: what a cell says, and how it reads at any width and in every form."""

from __future__ import annotations

import html.parser
import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from assay.audit.findings import AuditReport, CodeRow, Finding, Prediction
from assay.audit.grid import Column, Grid, GridCell, GridRow, State, cell_of, unanswered
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.pages.grid import grid_badge, grid_html, grid_markdown, grid_text

EXT, TORCH = "my-ext 1.0", "torch 2.9.1"


def report(*findings: Finding, code: tuple[CodeRow, ...] = (), **more: object) -> AuditReport:
    values: dict[str, object] = {
        "subject": "wheels", "name": "x", "python": "3.12", "base": "slim", "targets": ("sm_120", "sm_90"),
        "verdict": Verdict.OK, "findings": findings, "code": code, "asked": (EXT,), **more,
    }  # fmt: skip
    return AuditReport.model_validate(values)


def row(runs: str = "sass", *, package: str = EXT, library: str = "ext/_C.abi3.so", target: str = "sm_120",
        used: bool = True) -> CodeRow:  # fmt: skip
    counts = {"sass": (2, 0, 0), "ptx": (0, 2, 0), "none": (0, 0, 2), "partial": (1, 0, 1)}[runs]
    values = {
        "package": package, "library": library, "target": target, "runs": runs, "sass": counts[0], "ptx": counts[1],
        "none": counts[2], "targets": ("sm_90a",), "used": used, "needs_cuda": "12.9" if runs == "ptx" else None,
    }  # fmt: skip
    return CodeRow.model_validate(values)


def error(rule: str, message: str, *, package: str = EXT, **more: object) -> Finding:
    values = {"rule": rule, "severity": Severity.ERROR, "package": package, "message": message, **more}
    return Finding.model_validate(values)


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ((row("sass"),), "native", ""),
        ((row("partial"),), "native", ""),
        ((row("ptx"),), "ptx", "PTX alone in _C.abi3.so: compiled at first start, by a driver for CUDA 12.9 or newer"),
        ((row("none"),), "fails", "no code for sm_120: it has sm_90a"),
        ((row("sass"), row("none", library="ext/fa3.so")), "native", "no code in fa3.so"),
        ((row("sass"), row("ptx", library="ext/moe.so")), "native", "PTX alone in moe.so"),
        # Not of the wheel, not for the card, not loaded there: none of it makes a cell native.
        ((row("none"), row("sass", package=TORCH)), "fails", "no code"),
        ((row("none"), row("sass", target="sm_90")), "fails", "no code"),
        ((row("none"), row("sass", library="ext/sm90/_C.so", used=False)), "fails", "no code"),
        ((), "loads", ""),
    ],
)
def test_a_cell_speaks_of_the_code_of_the_wheel_asked_about(
    code: tuple[CodeRow, ...], state: State, reason: str
) -> None:
    cell = cell_of(report(code=code), "sm_120")

    assert cell.state == state
    assert reason in cell.reason


def test_an_error_names_its_symbol_and_the_wheels_own_comes_first() -> None:
    of_torch = error("L1", "needs libcudart.so.12", package=TORCH)
    own = error("L9", "built for torch 2.8")
    symbol = error("L3", "lacks c10::SymInt::sym_ne", symbols=("_ZNK3c106SymInt6sym_neERKS0_",), library="ext/_C.so")
    cell = cell_of(report(of_torch, own, symbol, code=(row("sass"),)), "sm_120")

    assert ("fails", "L3", "_ZNK3c106SymInt6sym_neERKS0_") == (cell.state, cell.rule, cell.symbol)
    assert cell.reason == "_C.so: lacks c10::SymInt::sym_ne"
    assert cell_of(report(of_torch, code=(row("sass"),)), "sm_120").reason == "torch 2.9.1 needs libcudart.so.12"


def test_an_error_on_another_card_does_not_count() -> None:
    found = report(error("G1", "has no code", target="sm_90"), code=(row("sass"),))

    assert cell_of(found, "sm_120").state == "native"
    assert cell_of(found, "sm_90").state == "fails"


def test_beside_a_torch_without_cuda_that_is_the_reason() -> None:
    symbol = error("L3", "lacks getCurrentDeviceProperties")
    cpu = error("G1", "is built without CUDA", package=TORCH, cause="abi-cpu-torch")

    assert cell_of(report(symbol, cpu), "sm_120").reason == "torch 2.9.1 is built without CUDA"


def test_predicted_problems_and_unread_code_are_reported() -> None:
    wrong = Prediction(target="sm_120", feature="marlin-moe", outcome=Outcome.WRONG, verdict=Verdict.FAIL, reason="r",
                       asked=True)  # fmt: skip
    others = wrong.model_copy(update={"asked": False, "feature": "torch-device"})
    cell = cell_of(report(code=(row("ptx"),), predictions=(wrong, others)), "sm_120")

    assert cell.trouble == ("marlin-moe wrong",)
    assert cell_of(report(code_unread=(EXT,)), "sm_120").state == "unread"


def grid(*states: State, columns: int = 3, reason: str = "") -> Grid:
    cells = [GridCell(state=state, reason=reason) for state in states]
    names = ["H200", "RTX PRO 6000 Blackwell", "DGX Spark", *(f"RTX {number}" for number in range(3000, 3020))]
    heads = [Column(target=f"sm_{90 + n}", title=names[n], platform="x86_64") for n in range(columns)]
    rows = [
        GridRow(torch=f"2.{8 + n}.0", python="3.12", cells=tuple(cells[n * columns : (n + 1) * columns]))
        for n in range(len(cells) // columns)
    ]
    return Grid.of([EXT], heads, rows, ["torch 2.8.0: my-ext 1.0 requires torch==2.8.0"] * 2)


@pytest.mark.parametrize(
    ("states", "verdict", "code", "summary"),
    [
        (("native", "native", "loads"), "ok", 0, "works in 3 of 3"),
        (("native", "ptx", "loads"), "warn", 0, "works in 3 of 3, 1 by PTX"),
        (("native", "fails", "unanswered"), "fail", 1, "fails in 1 of 3"),
        (("native", "unanswered", "ptx"), "warn", 2, "unknown in 1 of 3"),
        (("native", "unread", "ptx"), "warn", 0, "unknown in 1 of 3"),
    ],
)
def test_the_verdict_and_the_exit_code(states: tuple[State, ...], verdict: str, code: int, summary: str) -> None:
    found = grid(*states)

    assert (verdict, code, summary) == (found.verdict.value, found.exit_code, found.summary)
    assert found.assumed == ("torch 2.8.0: my-ext 1.0 requires torch==2.8.0",)


LONG = "_C.abi3.so: built for torch 2.8; torch 2.9.1 lacks c10::SymInt::sym_ne(c10::SymInt const&) const " * 2


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("columns", [1, 3, 14])
def test_text_is_right_at_every_width(width: int, columns: int) -> None:
    states: list[State] = ["native", "ptx", "fails", "unread", "unanswered", "loads", "native"]
    found = grid(*itertools.islice(itertools.cycle(states), columns * 3), columns=columns, reason=LONG)
    lines = list(grid_text(found, width))
    words = re.findall(r"[\w*]+", "\n".join(lines))

    assert max(map(len, lines)) <= width
    # No word of the table is broken: each card's name, each torch and each state is there whole.
    for column in found.columns:
        assert column.target in words
        assert all(part in words for part in column.title.split())
    assert sum(len(re.findall(r"\b(?:native|PTX|fails|not read|no answer|loads)\b", line)) for line in lines
               if line.startswith("2.")) == columns * 3  # fmt: skip


def test_reasons_are_reported_once_with_a_number() -> None:
    lines = list(grid_text(grid("fails", "fails", "native", reason="because"), 80))

    assert [line for line in lines if "because" in line] == ["  1  because"]
    assert any("fails 1" in line and line.count("fails 1") == 2 for line in lines)


def test_markdown_is_a_table_that_nothing_escapes_from() -> None:
    nasty = "a|b <script> @everyone `x` *y* [z](http://e.example)\nnew"
    lines = list(grid_markdown(grid("fails", "native", "ptx", reason=nasty)))
    table = [line for line in lines if line.startswith("|")]

    assert {line.count("|") for line in table} == {5}
    assert "**fails** (1)" in table[2]
    assert lines[-1].startswith("1. a\\|b &lt;script&gt; &#64;everyone \\`x\\`")
    assert "\n" not in "".join(lines)


class _Seen(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    page = grid_html([grid("fails", "native", "ptx", reason="<img src=x onerror=alert(1)>")])
    seen = _Seen()
    seen.feed(page)

    assert seen.links == []
    assert not {"script", "img", "link"} & set(seen.tags)
    assert seen.tags.count("td") == 3
    assert "default-src 'none'" in page
    assert "&lt;img" in page
    assert '<td class="fails"><b>fails</b> <sup>1</sup></td>' in page


def test_badge_shows_the_worst_result_of_all_grids() -> None:
    picture = grid_badge([grid("native", columns=1), grid("native", "fails", "ptx"), grid("ptx", columns=1)])

    assert ET.fromstring(picture).attrib["aria-label"] == "my-ext: fails in 1 of 3"
    assert "#b3202a" in picture


def test_a_question_without_an_answer_is_not_a_failure() -> None:
    cell = unanswered("the package index has no wheel of torch==9.9")

    assert (cell.state, cell.reason) == ("unanswered", "the package index has no wheel of torch==9.9")
