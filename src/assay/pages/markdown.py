"""The Markdown twin of the matrix, for a README: written between markers, everything else in the file is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from assay.errors import UsageError
from assay.foundation.outcome import Outcome
from assay.foundation.printable import one_line
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


def table(site: Site, *, measured: bool = False) -> str:
    """Return one table for each target: a row for each feature, a column for each cell of which anything is known.

    With `measured`, only what ran on such a GPU; a target on which nothing ran says so.
    """
    parts: list[str] = []
    for target in site.targets:
        pages = [page for page in site.cells if target in page.targets]
        found = {page.id: {f: page.best(f, target) for f in site.features} for page in pages}
        if measured:
            found = {cell: {f: r if _ran(r) else None for f, r in row.items()} for cell, row in found.items()}
            pages = [page for page in pages if any(found[page.id].values())]
            if not pages:
                parts += [f"**{cell_text(target)}**: nothing has been measured yet.", ""]
                continue
            notes = sorted({r.note for page in pages for r in found[page.id].values() if r and r.note})
            parts += [f"**{cell_text(target)}**, measured on {cell_text('; '.join(notes))}", ""]
        else:
            pages = [page for page in pages if page.build or any(found[page.id].values())]
            if not pages:
                continue
            parts += [f"**{cell_text(target)}**", ""]
        parts += _table(site, pages, found, builds=not measured)
    if not parts:
        return "Nothing is recorded yet.\n"
    if not measured:
        parts.append(
            "Measured unless it says predicted (read from the binaries by the audit) or claimed (written by others)."
        )
    return "\n".join(parts).rstrip("\n") + "\n"


def _ran(result: Result | None) -> bool:
    return result is not None and result.source is Source.MEASURED and result.outcome is not Outcome.NOT_RUN


def _table(
    site: Site, pages: Sequence[CellPage], found: Mapping[str, Mapping[str, Result | None]], *, builds: bool
) -> list[str]:
    lines = ["| | " + " | ".join(cell_text(page.id) for page in pages) + " |", "|---" * (1 + len(pages)) + "|"]
    if builds:
        said = [page.build.status if page.build else "not built" for page in pages]
        lines.append("| build | " + " | ".join(said) + " |")
    for feature in site.features:
        row = [found[page.id][feature] for page in pages]
        if any(row):
            lines.append(f"| {cell_text(feature)} | " + " | ".join(map(_say, row)) + " |")
    return [*lines, ""]


def between_markers(document: str, text: str, *, file: str = "README.md") -> str:
    """Return the document with the text between the markers.

    Raises:
        UsageError: a marker is missing, stands twice, or they stand in the wrong order.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise UsageError(
            f"{file} must have the markers {BEGIN} and {END} once each, in this order",
            hint=f"add two lines to {file}: {BEGIN} and, below it, {END}",
        )
    head, rest = document.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{tail}"
