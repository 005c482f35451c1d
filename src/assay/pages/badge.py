"""Badges: one small SVG for each feature on each target, readable without its colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from assay.foundation.outcome import Outcome
from assay.foundation.printable import one_line
from assay.pages.model import Result, Site, Source

__all__ = ["badge", "badges"]

# Each is dark enough for white text at 4.5 to 1.
_COLOURS: Final = {
    Outcome.WORKS: "#1a7f37",
    Outcome.DEGRADED: "#8a6100",
    Outcome.WRONG: "#b3202a",
    Outcome.BROKEN: "#b3202a",
    Outcome.UNSUPPORTED: "#2a5db0",
    Outcome.INCONCLUSIVE: "#6f4aa8",
    Outcome.NOT_RUN: "#5c6670",
}
_CHARACTER: Final = 6.6


def badge(label: str, value: str, colour: str) -> bytes:
    """Return a badge of two fields."""
    label, value = one_line(label), one_line(value)
    left, right = (round(len(text) * _CHARACTER) + 12 for text in (label, value))
    title = f"{label}: {value}"
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f"aria-label={quoteattr(title)}><title>{escape(title)}</title>"
        f'<rect width="{left}" height="20" fill="#444c56"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{escape(label)}</text>'
        f'<text x="{left + right / 2}" y="14">{escape(value)}</text></g></svg>\n'
    )
    return text.encode()


def badges(site: Site) -> Iterator[tuple[str, bytes]]:
    """Yield a badge for every feature of an image on a target that was measured: the newest measurement."""
    from assay.pages.pages import cell_file  # noqa: PLC0415 - the pages do not need badges

    newest: dict[tuple[str, str, str], Result] = {}
    for page in site.cells:
        for result in page.results:
            if result.source is Source.MEASURED and result.when is not None and result.outcome is not Outcome.NOT_RUN:
                key = (page.image or page.id, result.target, result.feature)
                there = newest.get(key)
                if there is None or there.when is None or result.when >= there.when:
                    newest[key] = result
    for (image, target, feature), result in sorted(newest.items()):
        name = cell_file(f"{image}-{target}-{feature}").removesuffix(".html")
        value = f"{result.outcome.symbol} {result.outcome.value.replace('_', ' ')}"
        yield f"badges/{name}.svg", badge(f"{feature} on {target}", value, _COLOURS[result.outcome])
