"""The part of `assay audit` that is about wheels: questions, and grids of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cli.asking import Asker, Question
from assay.errors import AssayError, PackageIndexError, QuestionError, UsageError, WheelError

if TYPE_CHECKING:
    from assay.audit.context import TargetGpu
    from assay.audit.findings import AuditReport
    from assay.audit.grid import Column, Grid, GridCell, GridRow
    from assay.matrix.cards import Named

    _Group = tuple[str | None, tuple[tuple[Named, TargetGpu], ...]]

__all__ = ["WheelQuestion", "WheelsAnswer", "answer_grid", "answer_one", "questions", "read_suffix"]


@dataclass(frozen=True, kw_only=True)
class WheelQuestion:
    """The options given beside the wheels."""

    torches: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    python: str | None = None
    machine: str | None = None
    gpus: tuple[tuple[Named, TargetGpu], ...] = ()


@dataclass(frozen=True, kw_only=True)
class WheelsAnswer:
    """A grid, and the reports it was made of."""

    grid: Grid
    reports: tuple[AuditReport, ...]


def questions(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which wheels belong to one question.

    Wheels of one distribution for several Pythons or platforms cannot be installed together: each is a question of its
    own. Others are judged together.
    """
    from assay.pipeline.wheel_choice import distribution_of

    names = [distribution_of(word) for word in words]
    if len(set(names)) == len(names):
        return [tuple(words)]
    return [(word,) for word in words]


def answer_one(asker: Asker, words: Sequence[str], asked: WheelQuestion) -> AuditReport:
    """Return the one report where there is one torch, or none said, and one platform.

    Raises:
        QuestionError: there is no verdict, as a wheel is not there or cannot be read.
        UsageError: the cards are for several platforms.
    """
    machines = {machine for machine, _ in _by_machine(asked, words, words)}
    if len(machines) > 1:
        raise UsageError("the targets are of several platforms", hint="name one with --platform")
    try:
        return asker.answer(_question(words, asked, next(iter(asked.torches), None), next(iter(machines)), asked.gpus))
    except (PackageIndexError, WheelError) as error:
        raise QuestionError(error.message, hint=error.hint) from error


def _question(
    words: Sequence[str],
    asked: WheelQuestion,
    torch: str | None,
    machine: str | None,
    gpus: Sequence[tuple[Named, TargetGpu]],
) -> Question:
    return Question(
        words=tuple(words),
        others=asked.others,
        torch=torch,
        python=asked.python,
        machine=machine,
        targets=_targets(gpus),
    )


def _targets(gpus: Sequence[tuple[Named, TargetGpu]]) -> tuple[TargetGpu, ...]:
    """Return each architecture once, with the names of all its cards."""
    found: dict[str, TargetGpu] = {}
    for named, gpu in gpus:
        known = found.get(gpu.name)
        title = named.title if known is None else f"{known.title}, {named.title}"
        found[gpu.name] = replace(gpu, title=title)
    return tuple(found.values())


def _by_machine(
    asked: WheelQuestion, words: Sequence[str], siblings: Sequence[str]
) -> list[tuple[str | None, tuple[tuple[Named, TargetGpu], ...]]]:
    """Return the cards by the platform of their machines; None: that of the wheel.

    Args:
        asked: with the cards.
        words: the wheels of this question.
        siblings: all wheels that somebody asked about: another file for the platform of a card answers for it.
    """
    from assay.pipeline.wheel_choice import filename_of, is_wheel
    from assay.wheels.tags import platform_of

    own = {platform for word in words if is_wheel(word) and (platform := platform_of(filename_of(word)))}
    theirs = {platform for word in siblings if is_wheel(word) and (platform := platform_of(filename_of(word)))}
    found: dict[str | None, list[tuple[Named, TargetGpu]]] = {}
    for named, gpu in asked.gpus:
        machine = asked.machine or named.platform
        if machine is not None and own and machine not in own and machine in theirs:
            continue
        found.setdefault(machine, []).append((named, gpu))
    if not found and not asked.gpus:
        return [(asked.machine, ())]
    return [(machine, tuple(gpus)) for machine, gpus in found.items()]


def answer_grid(
    asker: Asker, words: Sequence[str], asked: WheelQuestion, siblings: Sequence[str]
) -> WheelsAnswer | None:
    """Return what becomes of wheels with each torch on each card; None where other files answer for all of these.

    Raises:
        QuestionError: nothing at all could be asked.
    """
    from assay.audit.findings import AuditReport
    from assay.audit.grid import Grid, GridRow

    groups = _by_machine(asked, words, siblings)
    if not groups:
        return None
    columns: list[Column] = []
    rows: list[GridRow] = []
    reports: list[AuditReport] = []
    failures: list[AssayError] = []
    for torch in asked.torches or (None,):
        answered: list[AuditReport | AssayError] = []
        for machine, gpus in groups:
            try:
                answered.append(asker.answer(_question(words, asked, torch, machine, gpus)))
            except (PackageIndexError, WheelError) as error:
                answered.append(error)
        there = [item for item in answered if isinstance(item, AuditReport)]
        failures += [item for item in answered if isinstance(item, AssayError)]
        reports += there
        if not columns or any(isinstance(item, AuditReport) for item in answered):
            columns = list(itertools.chain.from_iterable(map(_columns, groups, answered)))
        cells = itertools.chain.from_iterable(map(_cells, groups, answered))
        rows.append(GridRow(torch=_torch(torch, there), python=there[0].python if there else "", cells=tuple(cells)))
    if not reports:
        raise QuestionError(failures[0].message, hint=failures[0].hint) from failures[0]
    assumed = itertools.chain.from_iterable(report.assumed for report in reports)
    return WheelsAnswer(grid=Grid.of(reports[0].asked, columns, rows, assumed), reports=tuple(reports))


def _torch(said: str | None, reports: Sequence[AuditReport]) -> str:
    return next((report.packages["torch"] for report in reports if "torch" in report.packages), said or "")


def _columns(group: _Group, answer: AuditReport | AssayError) -> Iterator[Column]:
    from assay.audit.findings import AuditReport
    from assay.audit.grid import Column

    machine, gpus = group
    platform = answer.platform if isinstance(answer, AuditReport) else machine or "x86_64"
    if not gpus:
        yield Column(target="", title="any card", platform=platform)
    for named, gpu in gpus:
        yield Column(target=gpu.name, title=named.title, platform=platform)


def _cells(group: _Group, answer: AuditReport | AssayError) -> Iterator[GridCell]:
    from assay.audit.grid import cell_of, unanswered

    for _, gpu in group[1] or ((None, None),):
        if isinstance(answer, AssayError):
            yield unanswered(answer.message + (f"; {answer.hint}" if answer.hint else ""))
        else:
            yield cell_of(answer, gpu.name if gpu is not None else "")


def read_suffix(path: Path) -> str:
    """Return the form that a file's name asks for.

    Raises:
        UsageError: none.
    """
    forms = {".md": "markdown", ".html": "html", ".svg": "badge", ".json": "json", ".txt": "text"}
    if path.suffix not in forms:
        raise UsageError(f"{path}: the suffix selects the format", hint=f"one of {', '.join(forms)}")
    return forms[path.suffix]
