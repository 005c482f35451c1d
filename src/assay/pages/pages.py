"""The static site: values in, files out. No address outside it is loaded; it works from disk."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from assay import resources
from assay.engines.table import all_engines
from assay.evidence.ranking import strength
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.foundation.printable import json_text, printable
from assay.pages.answers import answers, is_apart
from assay.pages.charts import svg
from assay.pages.gather import megabytes
from assay.pages.model import About, CellPage, Event, Result, Site, Source
from assay.pages.serving import speeds

__all__ = ["cell_file", "render"]

_STATIC_ROWS: Final = 3
_MOST_CELLS_OF_A_FEATURE: Final = 400
_MOST_HISTORY: Final = 400
_MOST_HINTS: Final = 6
_PLACES: Final = re.compile(r"(?:\{\w+\})+")
_PLACES_ASIDE: Final = re.compile(r"\s*\((?:\{\w+\}\s*)+\)")
_NAVIGATION: Final = (("Matrix", "index.html"), ("Compare", "compare.html"), ("Causes", "causes.html"))
_COVERAGE: Final = ("Coverage", "coverage.html")
"""Made by `assay report --coverage --html`."""


def _text(name: str) -> str:
    return resources.find("pages", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(loader=FunctionLoader(_text), autoescape=True, trim_blocks=False, auto_reload=False)
    environment.globals.update(size=_size, number=_number, feature_file=feature_file, cell_file=cell_file)
    environment.filters["blank"] = _blank
    return environment


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} B"


def _number(value: bool | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _blank(text: str) -> str:
    """Return a sentence of the library with an ellipsis where a log's own words are put in."""
    return _PLACES.sub("…", _PLACES_ASIDE.sub("", text)).replace("….", "…")


def _safe(name: str) -> str:
    """Return a file name for any text: itself where it is harmless, else with a digest of what was replaced."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120].lstrip(".") or "_"
    return plain if plain == name else f"{plain}-{sha256_of(name.encode(errors='backslashreplace'))[7:15]}"


def cell_file(cell: str) -> str:
    """Return the name of a cell's page in cells/."""
    return _safe(cell) + ".html"


def feature_file(feature: str) -> str:
    """Return the name of a feature's page in features/."""
    return _safe(feature) + ".html"


def _policy(style: str, script: str) -> str:
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    scripts = digest(script) if script else "'none'"
    return (
        f"default-src 'none'; style-src {digest(style)}; script-src {scripts}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> Markup:
    """Serialise for a script element: nothing in it can end the element or open a comment."""
    text = json_text(value, indent=None)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


class _Row:
    """One row of the matrix: a cell on a target."""

    def __init__(self, page: CellPage, target: str, features: tuple[str, ...]) -> None:
        self.page = page
        self.target = target
        self.apart = is_apart(page)
        self.file = cell_file(page.id)
        self.build = page.build.status if page.build else ""
        newest = page.audits[-1] if page.audits else None
        self.audit = newest.verdicts.get(target, newest.verdict) if newest else ""
        best: dict[str, Result] = {}
        for result in page.results:
            if result.target not in {target, ""}:
                continue
            there = best.get(result.feature)
            if there is None or result.strength < there.strength:
                best[result.feature] = result
        self.results = [best.get(feature) for feature in features]

    @property
    def strength(self) -> int:
        """Of the strongest statement in the row; less is stronger, and a row without any comes last."""
        return min((result.strength for result in self.results if result), default=strength("nothing") + 1)

    @property
    def codes(self) -> str:
        outcomes = list(Outcome)
        return "".join(f"{r.letter}{outcomes.index(r.outcome)}" if r else "--" for r in self.results)


_BAD: Final = {Outcome.BROKEN, Outcome.WRONG, Outcome.UNSUPPORTED, Outcome.DEGRADED}


class _Span:
    """Last good and first bad of a feature in one cell on one target, over time."""

    def __init__(self, cell: str, target: str, events: list[Event]) -> None:
        self.cell, self.target, self.file = cell, target, cell_file(cell)
        good = [i for i, event in enumerate(events) if event.outcome is Outcome.WORKS]
        start = good[-1] + 1 if good else 0
        self.good = events[good[-1]] if good else None
        self.bad = next((event for event in events[start:] if event.outcome in _BAD), None)
        self.measured = sum(event.outcome is not Outcome.NOT_RUN for event in events)

    @property
    def order(self) -> int:
        """What got worse comes first, then what never worked, then what works."""
        return 0 if self.good and self.bad else 1 if self.bad else 2


def _hints(feature: str, spans: list[_Span], pages: dict[str, CellPage]) -> list[str]:
    """Return the bisections that would find the first bad version: cells of one image that differ in one axis."""

    def lines(span: _Span) -> Iterator[tuple[str, ...]]:
        """Yield the lines through a cell: all of its values but one axis's."""
        page = pages.get(span.cell)
        point = page.point if page is not None else {}
        for axis in point:
            rest = (f"{name}={value}" for name, value in sorted(point.items()) if name != axis)
            yield (page.image if page else "", span.target, axis, *rest)

    good: dict[tuple[str, ...], str] = {}
    for span in spans:
        if span.good and not span.bad:
            good |= dict.fromkeys(lines(span), span.cell)
    found = [
        f"assay bisect --feature {feature} --good {good[line]} --bad {span.cell}"
        for span in spans
        if span.bad
        for line in lines(span)
        if line in good
    ]
    return found[:_MOST_HINTS]


class _Renderer:
    def __init__(self, site: Site, *, coverage: bool) -> None:
        self.site = site
        self.navigation = (*_NAVIGATION, _COVERAGE) if coverage else _NAVIGATION
        self.style = _text("style.css")
        self.rows = [
            _Row(page, target, site.features) for page in site.cells for target in (page.shown or ("unknown",))
        ]
        # What was measured is what people come for; the order of the plan holds among equals. What is no image comes
        # last.
        self.rows.sort(key=lambda row: (row.apart, row.strength))
        self.pages = {page.id: page for page in site.cells}

    def page(self, template: str, path: str, *, script: str = "", **values: Any) -> tuple[str, bytes]:
        html = _environment().get_template(template).render(
            site=self.site,
            style=Markup(self.style),  # noqa: S704 - the project's own file
            script=Markup(script),  # noqa: S704 - the project's own file
            csp=_policy(self.style, script),
            navigation=self.navigation,
            here=path,
            up="../" if "/" in path else "",
            **values,
        )  # fmt: skip
        return path, printable(html).encode()

    def index(self) -> tuple[str, bytes]:
        data = {
            "features": list(self.site.features),
            "outcomes": [str(outcome) for outcome in Outcome],
            "symbols": {str(outcome): outcome.symbol for outcome in Outcome},
            "rows": [
                [row.page.id, row.file, row.page.engine, row.target, row.build, row.audit, row.codes, int(row.apart)]
                for row in self.rows
            ],
        }
        return self.page(
            "index.html.j2",
            "index.html",
            script=_text("matrix.js"),
            rows=self.rows,
            first=[row for row in self.rows if not row.apart][:_STATIC_ROWS],
            apart=sum(row.apart for row in self.rows),
            answers=answers(self.site),
            outcomes=list(Outcome),
            sources=list(Source),
            engines=sorted({page.engine for page in self.site.cells}),
            # A column in which nobody has anything to say is only in the way.
            without=" ".join(
                name
                for name, found in (
                    ("no-build", any(row.build for row in self.rows)),
                    ("no-audit", any(row.audit for row in self.rows)),
                )
                if not found
            ),
            data=_json(data),
        )

    def cell(self, page: CellPage) -> tuple[str, bytes]:
        results = sorted(page.results, key=lambda r: (r.feature, r.target, r.strength))
        said = [result for result in results if result.outcome is not Outcome.NOT_RUN]
        counts: dict[tuple[str, Outcome], int] = {}
        for result in said:
            if result.source is Source.MEASURED:
                counts[result.target, result.outcome] = counts.get((result.target, result.outcome), 0) + 1
        return self.page(
            "cell.html.j2",
            f"cells/{cell_file(page.id)}",
            page=page,
            results=said,
            left_out=[result for result in results if result.outcome is Outcome.NOT_RUN],
            counts=sorted(counts.items(), key=lambda item: (item[0][0], list(Outcome).index(item[0][1]))),
            layers=sum(layer.bytes for layer in page.build.layers) if page.build else 0,
            charts=[svg(chart) for chart in page.charts],
        )

    def feature(self, feature: str) -> tuple[str, bytes]:
        position = self.site.features.index(feature)
        known = [(row, found) for row in self.rows if (found := row.results[position]) is not None]
        # What was measured comes first: a feature page is read for that.
        known.sort(key=lambda pair: (pair[0].apart, pair[1].strength))
        cells = [{"id": row.page.id, "file": row.file, "target": row.target, "result": found} for row, found in known]
        events = [event for event in self.site.history if event.feature == feature]
        groups: dict[tuple[str, str], list[Event]] = {}
        for event in events:
            groups.setdefault((event.cell, event.target), []).append(event)
        spans = [_Span(cell, target, found) for (cell, target), found in sorted(groups.items())]
        apart = {row.page.id for row in self.rows if row.apart}
        spans = sorted((one for one in spans if one.measured), key=lambda one: (one.cell in apart, one.order))
        return self.page(
            "feature.html.j2",
            f"features/{feature_file(feature)}",
            feature=feature,
            about=self.site.about.get(feature, About()),
            cells=cells[:_MOST_CELLS_OF_A_FEATURE],
            more=max(0, len(cells) - _MOST_CELLS_OF_A_FEATURE),
            history=[event for event in events[::-1] if event.outcome is not Outcome.NOT_RUN][:_MOST_HISTORY],
            spans=spans[:_MOST_CELLS_OF_A_FEATURE],
            hints=_hints(feature, spans, self.pages),
            claims=[claim for claim in self.site.claims if claim.feature == feature],
        )

    def compare(self) -> tuple[str, bytes]:
        cells: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            mine = cells.setdefault(row.page.id, {"f": self._facts(row.page), "r": {}})
            mine["r"][row.target] = row.codes
        data = {
            "features": list(self.site.features),
            "outcomes": [str(outcome) for outcome in Outcome],
            "symbols": {str(outcome): outcome.symbol for outcome in Outcome},
            "cells": cells,
            "runs": self.site.run_results,
        }
        names = [*self.site.runs[::-1], *(page.id for page in self.site.cells)][:500]
        return self.page(
            "compare.html.j2",
            "compare.html",
            script=_text("compare.js"),
            suggestions=names,
            examples=[pair for pair in (self.site.runs[-2:], [row.page.id for row in self.rows][:2]) if len(pair) == 2],
            data=_json(data),
        )

    @staticmethod
    def _facts(page: CellPage) -> dict[str, str]:
        facts = {f"axis {axis}": value for axis, value in page.point.items()}
        if page.base:
            facts["base"] = page.base
        if page.build:
            facts["build"] = page.build.status
            if page.build.size:
                facts["size"] = megabytes(page.build.size)
        facts |= {f"audit of {audit.subject}": audit.verdict for audit in page.audits} | speeds(page.charts)
        # Only what the image is about; a lock of 200 distributions for each of 10,000 cells would be the whole page.
        own = (package for engine in all_engines() for package in engine.packages)
        wanted = ("torch", "triton", *own, "flashinfer-python", "numpy")
        return facts | {f"version of {name}": page.packages[name] for name in wanted if name in page.packages}

    def causes(self) -> tuple[str, bytes]:
        met: dict[str, list[tuple[str, str]]] = {name: [] for name in self.site.causes}
        for page in self.site.cells:
            mine = {result.cause for result in page.results if result.cause}
            if page.build and page.build.cause:
                mine.add(page.build.cause)
            for cause in mine & met.keys():
                met[cause].append((page.id, cell_file(page.id)))
        classes: dict[str, list[str]] = {}
        for name, known in sorted(self.site.causes.items()):
            classes.setdefault(known.cause_class or "other", []).append(name)
        return self.page("causes.html.j2", "causes.html", met=met, classes=sorted(classes.items()))


def render(site: Site, *, coverage: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the site: path relative to its folder, and bytes; the matrix comes first.

    Args:
        site: what is shown.
        coverage: whether the folder has coverage.html too, which the pages then link to.
    """
    renderer = _Renderer(site, coverage=coverage)
    yield renderer.index()
    yield renderer.compare()
    yield renderer.causes()
    for feature in site.features:
        yield renderer.feature(feature)
    for page in site.cells:
        yield renderer.cell(page)
