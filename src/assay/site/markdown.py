"""The Markdown twin of the matrix, for a README: written between markers, everything else in the file is left alone."""

from __future__ import annotations

from typing import Final

from assay.errors import UsageError
from assay.model.outcome import Outcome
from assay.site.model import CellPage, Result, Site, Source

__all__ = ["BEGIN", "END", "between_markers", "table"]

BEGIN: Final = "<!-- assay matrix: begin -->"
END: Final = "<!-- assay matrix: end -->"
_MARK: Final = {Source.MEASURED: "", Source.PREDICTED: " (predicted)", Source.CLAIMED: " (claimed)"}


def _cell(text: str) -> str:
    """Make text harmless inside a table of GitHub's Markdown."""
    for old, new in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("`", "\\`"),
        ("\n", " "),
        ("[", "\\["),
    ):
        text = text.replace(old, new)
    return text


def _say(result: Result | None) -> str:
    if result is None:
        return "–"
    mark = "" if result.outcome is Outcome.NOT_RUN else _MARK[result.source]
    return f"{result.outcome.symbol} {result.outcome.value.replace('_', ' ')}{mark}"


def table(site: Site) -> str:
    """Return one table for each target: a row for each cell of which anything is known, a column for each feature."""
    parts: list[str] = []
    for target in site.targets:
        rows: list[tuple[CellPage, list[Result | None]]] = []
        for page in site.cells:
            if target in page.targets:
                results = [page.best(feature, target) for feature in site.features]
                if any(results) or page.build:
                    rows.append((page, results))
        columns = [f for i, f in enumerate(site.features) if any(results[i] for _, results in rows)]
        if not rows:
            continue
        parts += [f"**{_cell(target)}**", "", "| cell | build | " + " | ".join(map(_cell, columns)) + " |"]
        parts.append("|---" * (2 + len(columns)) + "|")
        for page, results in rows:
            said = [_say(results[site.features.index(feature)]) for feature in columns]
            build = page.build.status if page.build else "not built"
            parts.append("| " + " | ".join([_cell(page.id), build, *said]) + " |")
        parts.append("")
    if not parts:
        return "Nothing is recorded yet.\n"
    parts.append(
        "Measured unless it says predicted (read from the binaries by the audit) or claimed (written by others)."
    )
    return "\n".join(parts) + "\n"


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
