"""The Markdown twin of the matrix, for a README: written between markers, everything else in the file is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Final

from assay.errors import UsageError
from assay.foundation.outcome import Outcome
from assay.foundation.printable import one_line
from assay.pages.answers import is_apart
from assay.pages.model import CellPage, Result, Site, Source

__all__ = ["BEGIN", "END", "between_markers", "cell_text", "table"]

BEGIN: Final = "<!-- assay matrix: begin -->"
END: Final = "<!-- assay matrix: end -->"
_MARK: Final = {Source.MEASURED: "", Source.PREDICTED: " (predicted)", Source.CLAIMED: " (claimed)"}


def cell_text(text: str) -> str:
    """Make text harmless inside a table of GitHub's Markdown."""
    text = one_line(text)
    for old, new in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("`", "\\`"),
        ("[", "\\["),
    ):
        text = text.replace(old, new)
    return text


def _say(result: Result | None) -> str:
    if result is None:
        return "–"
    mark = "" if result.outcome is Outcome.NOT_RUN else _MARK[result.source]
    return f"{result.outcome.symbol} {result.outcome.value.replace('_', ' ')}{mark}"


def table(site: Site, *, measured: bool = False, name: Callable[[str], str] = str) -> str:
    """Return a table for each target: a row for each feature, a column for each cell with results.

    Args:
        measured: show only what ran on such a GPU, in images; otherwise predictions and claims too.
        name: gives the title of a target, such as `sm_120 (RTX 50)`.
    """
    tables = {target: _target(site, target, measured=measured, name=name(target)) for target in site.targets}
    others = sorted((target for target, lines in tables.items() if not lines), key=lambda one: (len(one), one))
    unmeasured = [name(target) for target in others if measured]
    parts = [*_wrapped(f"Not measured yet: {cell_text(', '.join(unmeasured))}."), ""] if unmeasured else []
    parts += [line for lines in tables.values() for line in lines]
    if not parts:
        return "Nothing is recorded yet.\n"
    if not measured:
        parts.append(
            "Measured unless it says predicted (read from the binaries by the audit) or claimed (written by others)."
        )
    return "\n".join(parts).rstrip("\n") + "\n"


def _target(site: Site, target: str, *, measured: bool, name: str) -> list[str]:
    pages = [page for page in site.cells if target in page.targets]
    found = {page.id: {feature: page.best(feature, target) for feature in site.features} for page in pages}
    if not measured:
        pages = [page for page in pages if page.build or any(found[page.id].values())]
        return [f"**{cell_text(name)}**", "", *_table(site, pages, found)] if pages else []
    # Environments of one machine are no images: their results stand on the pages, not in this table.
    found = {cell: {f: r if _ran(r) else None for f, r in row.items()} for cell, row in found.items()}
    pages = [page for page in pages if any(found[page.id].values()) and not is_apart(page)]
    if not pages:
        return []
    notes = sorted({r.note for page in pages for r in found[page.id].values() if r and r.note})
    return [f"**{cell_text(name)}**, measured on {cell_text('; '.join(notes))}", "", *_narrow(site, pages, found)]


def _ran(result: Result | None) -> bool:
    return result is not None and result.source is Source.MEASURED and result.outcome is not Outcome.NOT_RUN


def _table(site: Site, pages: Sequence[CellPage], found: Mapping[str, Mapping[str, Result | None]]) -> list[str]:
    said = [page.build.status if page.build else "not built" for page in pages]
    rows = [["", *(page.id for page in pages)], ["build", *said], *_features(site, pages, found)]
    lines = ["| " + " | ".join(map(cell_text, row)) + " |" for row in rows]
    return [lines[0], "|---" * (1 + len(pages)) + "|", *lines[1:], ""]


def _features(
    site: Site, pages: Sequence[CellPage], found: Mapping[str, Mapping[str, Result | None]]
) -> Iterator[list[str]]:
    for feature in site.features:
        row = [found[page.id][feature] for page in pages]
        if any(row):
            yield [feature, *map(_say, row)]


def _narrow(site: Site, pages: Sequence[CellPage], found: Mapping[str, Mapping[str, Result | None]]) -> list[str]:
    """Return an aligned table whose columns are named by versions; below it what works wherever it ran, and the ids."""
    shared = [axis for axis in pages[0].point if all(axis in page.point and axis != page.engine for page in pages)]
    axes = [axis for axis in shared if len({page.point[axis] for page in pages}) > 1]
    ran = {name: [r for page in pages if (r := found[page.id][name]) is not None] for name in site.features}
    fine = [name for name, results in ran.items() if results and {r.outcome for r in results} == {Outcome.WORKS}]
    rows = [["", *map(_short, pages)], *([axis, *(page.point[axis] for page in pages)] for axis in axes)]
    rows += (row for row in _features(site, pages, found) if row[0] not in fine)
    texts = [[cell_text(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(pages) + 1)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in texts]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    told = []
    for count in sorted({len(ran[name]) for name in fine}, reverse=True):
        where = f"in all {count}" if count == len(pages) else f"in {count} of {len(pages)}, not run in the others"
        told += _wrapped(f"- ✓ works {where}: {', '.join(name for name in fine if len(ran[name]) == count)}")
    return [
        lines[0],
        rule,
        *lines[1:],
        "",
        *told,
        *([""] if told else []),
        *(f"- {_short(page)}: `{page.id}`" for page in pages if page.point),
        "",
    ]


def _wrapped(text: str) -> list[str]:
    return wrap(text, 140, break_on_hyphens=False, break_long_words=False, subsequent_indent="  ")


def _short(page: CellPage) -> str:
    version = page.point.get(page.engine)
    return f"{page.engine} {version}" if version else page.id


def between_markers(document: str, text: str, *, file: str = "README.md") -> str:
    """Return the document with the text between the markers.

    Raises:
        UsageError: a marker is missing, occurs twice, or they stand in the wrong order.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise UsageError(
            f"{file} must have the markers {BEGIN} and {END} once each, in this order",
            hint=f"add two lines to {file}: {BEGIN} and, below it, {END}",
        )
    head, rest = document.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{tail}"
