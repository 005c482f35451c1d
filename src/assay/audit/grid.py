"""The grid of one question: which torch, on which card, and what becomes of the wheel that was asked about. Pure.

A cell speaks of that wheel: its own findings and its own GPU code. That torch works there is taken for granted, unless
torch itself has an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from assay.audit.findings import CPU_TORCH, AuditReport, CodeRow, Finding
from assay.foundation.outcome import Severity, Verdict
from assay.foundation.strict import Value

__all__ = ["Column", "Grid", "GridCell", "GridRow", "State", "cell_of", "unanswered"]

State = Literal["native", "ptx", "fails", "loads", "unread", "unanswered"]


class Column(Value):
    """A card to be true on."""

    target: str
    """`sm_120`."""
    title: str = ""
    """As people name it: `RTX 5090`."""
    platform: str
    """`x86_64` or `aarch64`."""


class GridCell(Value):
    """What becomes of the wheel with one torch on one card."""

    state: State
    """`native`: machine code; `ptx`: the driver compiles it at first start; `fails`: it cannot work; `loads`: it has no
    GPU code that was found, and what it needs is there; `unread`: it may have GPU code, which was not read;
    `unanswered`: the question could not be asked (no such wheel)."""
    reason: str = ""
    rule: str = ""
    """The rule that failed."""
    symbol: str = ""
    """The first symbol that is missing, mangled."""
    fix: str = ""
    trouble: tuple[str, ...] = ()
    """Features of the wheel that are predicted wrong or broken all the same: `marlin-moe wrong`."""


class GridRow(Value):
    """One torch."""

    torch: str
    """Its version; empty where there is none in the question."""
    python: str
    cells: tuple[GridCell, ...]
    """One for each column."""


class Grid(Value):
    """All of it."""

    wheels: tuple[str, ...]
    """`name version` of what was asked about."""
    columns: tuple[Column, ...]
    rows: tuple[GridRow, ...]
    verdict: Verdict
    assumed: tuple[str, ...] = ()
    """What was taken from the wheels themselves, in words."""

    @classmethod
    def of(
        cls, wheels: Sequence[str], columns: Sequence[Column], rows: Sequence[GridRow], assumed: Iterable[str]
    ) -> Grid:
        """Return the grid with its verdict."""
        cells = [cell for row in rows for cell in row.cells]
        worst = Verdict.OK
        if any(cell.state == "fails" for cell in cells):
            worst = Verdict.FAIL
        elif any(cell.state in {"unread", "unanswered", "ptx"} or cell.trouble for cell in cells):
            worst = Verdict.WARN
        return cls(
            wheels=tuple(wheels),
            columns=tuple(columns),
            rows=tuple(rows),
            verdict=worst,
            assumed=tuple(dict.fromkeys(assumed)),
        )

    def count(self, *states: State) -> int:
        """Return how many cells are in one of some states."""
        return sum(cell.state in states for row in self.rows for cell in row.cells)

    @property
    def exit_code(self) -> int:
        """1 if anything fails; else 2 if anything could not be asked; else 0."""
        if self.verdict is Verdict.FAIL:
            return 1
        return 2 if self.count("unanswered") else 0

    @property
    def summary(self) -> str:
        """Return it in a few words: `works in 4 of 6`."""
        total = self.count("native", "ptx", "fails", "loads", "unread", "unanswered")
        fails, unknown = self.count("fails"), self.count("unread", "unanswered")
        if fails:
            return f"fails in {fails} of {total}"
        if unknown:
            return f"unknown in {unknown} of {total}"
        ptx = self.count("ptx")
        return f"works in {total} of {total}" + (f", {ptx} by PTX" if ptx else "")


def unanswered(message: str) -> GridCell:
    """Return a cell whose question could not be asked."""
    return GridCell(state="unanswered", reason=message)


def cell_of(report: AuditReport, target: str) -> GridCell:
    """Return what a report says of the wheels asked about, on one target.

    Their own faults come first, then that they have no code for the target, then the faults of what is beside them.
    """
    asked = frozenset(report.asked)
    errors = [item for item in report.of(Severity.ERROR) if item.target in ("", target)]
    # Beside a torch without CUDA everything of CUDA is missing.
    own = [item for item in errors if item.package in asked or not item.package or item.cause == CPU_TORCH]
    if own:
        return _failed(min(own, key=_weight), asked)
    trouble = tuple(f"{one.feature} {one.outcome}" for one in report.troubled if one.target == target)
    rows = [
        row
        for row in report.code
        if row.package in asked and row.target == target and row.used and row.runs != "unknown"
    ]
    found = _by_code(rows, report.shown(target), trouble) if rows else None
    if errors and (found is None or found.state != "fails"):
        return _failed(min(errors, key=_weight), asked)
    if found is not None:
        return found
    if report.code_unread:
        reason = f"GPU code of {', '.join(report.code_unread)} not read"
        return GridCell(state="unread", reason=reason, trouble=trouble, fix="ask with --full, which reads all of it")
    return GridCell(state="loads", trouble=trouble)


_ORDER: Final[Mapping[str, int]] = {"R2": 0, "L3": 1, "L1": 2, "L5": 3, "L9": 4}
"""What a wheel is not made for at all says more than what follows from that; then symbols, which are the clearest."""


def _weight(item: Finding) -> tuple[bool, int]:
    return item.cause != CPU_TORCH, _ORDER.get(item.rule, 5)


def _failed(error: Finding, asked: frozenset[str]) -> GridCell:
    whose = "" if error.package in asked or not error.package else f"{error.package} "
    where = f"{error.library.rpartition('/')[2]}: " if error.library and error.library not in error.message else ""
    return GridCell(
        state="fails",
        reason=f"{whose}{where}{error.message}",
        rule=error.rule,
        symbol=error.symbols[0] if error.symbols else "",
        fix=error.fix,
    )


def _by_code(rows: Sequence[CodeRow], where: str, trouble: tuple[str, ...]) -> GridCell:
    native = [row for row in rows if row.sass]
    ptx = [row for row in rows if row.ptx and not row.sass]
    without = [row for row in rows if not row.sass and not row.ptx]
    if not native and not ptx:
        has = ", ".join(dict.fromkeys(name for row in rows for name in row.targets))
        return GridCell(state="fails", reason=f"no code for {where}: it has {has}", rule="G1", trouble=trouble)
    notes = []
    if ptx:
        needs = max((row.needs_cuda for row in ptx if row.needs_cuda), key=_number, default=None)
        driver = f", by a driver for CUDA {needs} or newer" if needs else ""
        notes.append(f"PTX alone in {_names(ptx)}: compiled at first start{driver}")
    if without:
        notes.append(f"no code in {_names(without)}")
    return GridCell(state="native" if native else "ptx", reason="; ".join(notes), trouble=trouble)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _names(rows: Sequence[CodeRow]) -> str:
    names = list(dict.fromkeys(row.library.rpartition("/")[2] for row in rows))
    more = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return ", ".join(names[: 2 if more else 3]) + more
