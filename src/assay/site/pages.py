"""The static site: values in, files out. No address outside it is loaded; it works from disk."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from assay.digest import sha256_of
from assay.model.outcome import Outcome
from assay.site.charts import svg
from assay.site.model import CellPage, Event, Result, Site, Source

__all__ = ["cell_file", "render"]

_STATIC_ROWS: Final = 50
_MOST_CELLS_OF_A_FEATURE: Final = 400
_MOST_HISTORY: Final = 400
_NAVIGATION: Final = (("Matrix", "index.html"), ("Compare", "compare.html"), ("Causes", "causes.html"))


def _text(name: str) -> str:
    return resources.files("assay.site").joinpath("templates", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(loader=FunctionLoader(_text), autoescape=True, trim_blocks=False, auto_reload=False)
    environment.globals.update(size=_size, number=_number, feature_file=feature_file)
    return environment


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} B"


def _number(value: bool | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """Return a file name for any text: itself where it is harmless, else with a digest of what was replaced."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120].lstrip(".") or "_"
    return plain if plain == name else f"{plain}-{sha256_of(name.encode())[7:15]}"


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
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


class _Row:
    """One row of the matrix: a cell on a target."""

    def __init__(self, page: CellPage, target: str, features: tuple[str, ...]) -> None:
        self.page = page
        self.target = target
        self.file = cell_file(page.id)
        self.build = page.build.status if page.build else ""
        self.audit = page.audits[-1].verdict if page.audits else ""
        best: dict[str, Result] = {}
        for result in page.results:
            if result.target not in {target, ""}:
                continue
            there = best.get(result.feature)
            if there is None or result.strength < there.strength:
                best[result.feature] = result
        self.results = [best.get(feature) for feature in features]

    @property
    def codes(self) -> str:
        outcomes = list(Outcome)
        return "".join(f"{r.letter}{outcomes.index(r.outcome)}" if r else "--" for r in self.results)


class _Spans:
    """Last good and first bad of a feature for one image on one target."""

    def __init__(self, image: str, target: str, events: list[Event]) -> None:
        self.image, self.target = image, target
        good = [i for i, event in enumerate(events) if event.outcome is Outcome.WORKS]
        bad = {Outcome.BROKEN, Outcome.WRONG, Outcome.UNSUPPORTED, Outcome.DEGRADED}
        start = good[-1] + 1 if good else 0
        first_bad = next((event for event in events[start:] if event.outcome in bad), None)
        self.good = self._say(events[good[-1]]) if good else "never seen to work"
        self.bad = self._say(first_bad) if first_bad else "none since" if good else "nothing bad either"

    @staticmethod
    def _say(event: Event) -> str:
        return f"{event.cell}, {event.when:%Y-%m-%d}"


class _Renderer:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.style = _text("style.css")
        self.rows = [
            _Row(page, target, site.features) for page in site.cells for target in (page.targets or ("unknown",))
        ]
        self.images = {page.id: page.image or page.id for page in site.cells}

    def page(self, template: str, path: str, *, script: str = "", **values: Any) -> tuple[str, bytes]:
        html = _environment().get_template(template).render(
            site=self.site,
            style=Markup(self.style),  # noqa: S704 - the project's own file
            script=Markup(script),  # noqa: S704 - the project's own file
            csp=_policy(self.style, script),
            navigation=_NAVIGATION,
            here=path,
            up="../" if "/" in path else "",
            **values,
        )  # fmt: skip
        return path, html.encode()

    def index(self) -> tuple[str, bytes]:
        data = {
            "features": list(self.site.features),
            "outcomes": [str(outcome) for outcome in Outcome],
            "symbols": {str(outcome): outcome.symbol for outcome in Outcome},
            "rows": [
                [row.page.id, row.file, row.page.engine, row.target, row.build, row.audit, row.codes]
                for row in self.rows
            ],
        }
        return self.page(
            "index.html.j2",
            "index.html",
            script=_text("matrix.js"),
            rows=self.rows,
            first=self.rows[:_STATIC_ROWS],
            outcomes=list(Outcome),
            sources=list(Source),
            engines=sorted({page.engine for page in self.site.cells}),
            data=_json(data),
        )

    def cell(self, page: CellPage) -> tuple[str, bytes]:
        results = sorted(page.results, key=lambda r: (r.feature, r.target, r.strength))
        return self.page(
            "cell.html.j2",
            f"cells/{cell_file(page.id)}",
            page=page,
            results=results,
            charts=[svg(chart) for chart in page.charts],
        )

    def feature(self, feature: str) -> tuple[str, bytes]:
        position = self.site.features.index(feature)
        known = [(row, found) for row in self.rows if (found := row.results[position]) is not None]
        # What was measured comes first: a feature page is read for that.
        known.sort(key=lambda pair: pair[1].strength)
        cells = [{"id": row.page.id, "file": row.file, "target": row.target, "result": found} for row, found in known]
        events = [event for event in self.site.history if event.feature == feature]
        groups: dict[tuple[str, str], list[Event]] = {}
        for event in events:
            groups.setdefault((self.images.get(event.cell, event.cell), event.target), []).append(event)
        return self.page(
            "feature.html.j2",
            f"features/{feature_file(feature)}",
            feature=feature,
            cells=cells[:_MOST_CELLS_OF_A_FEATURE],
            more=max(0, len(cells) - _MOST_CELLS_OF_A_FEATURE),
            history=events[::-1][:_MOST_HISTORY],
            spans=[_Spans(image, target, found) for (image, target), found in sorted(groups.items())],
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
            "cells": cells,
            "runs": self.site.run_results,
        }
        names = [*self.site.runs[::-1], *(page.id for page in self.site.cells)][:500]
        return self.page(
            "compare.html.j2", "compare.html", script=_text("compare.js"), suggestions=names, data=_json(data)
        )

    @staticmethod
    def _facts(page: CellPage) -> dict[str, str]:
        facts = {f"axis {axis}": value for axis, value in page.point.items()}
        if page.base:
            facts["base"] = page.base
        if page.build:
            facts["build"] = page.build.status
            if page.build.size:
                facts["size"] = _size(page.build.size)
        facts |= {f"audit of {audit.subject}": audit.verdict for audit in page.audits}
        # Only what the image is about; a lock of 200 distributions for each of 10,000 cells would be the whole page.
        wanted = ("torch", "triton", "vllm", "sglang", "sgl-kernel", "sglang-kernel", "flashinfer-python", "numpy")
        return facts | {f"version of {name}": page.packages[name] for name in wanted if name in page.packages}

    def causes(self) -> tuple[str, bytes]:
        met: dict[str, list[tuple[str, str]]] = {name: [] for name in self.site.causes}
        for page in self.site.cells:
            mine = {result.cause for result in page.results if result.cause}
            if page.build and page.build.cause:
                mine.add(page.build.cause)
            for cause in mine & met.keys():
                met[cause].append((page.id, cell_file(page.id)))
        return self.page("causes.html.j2", "causes.html", met=met)


def render(site: Site) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the site: path relative to its folder, and bytes; the matrix comes first."""
    renderer = _Renderer(site)
    yield renderer.index()
    yield renderer.compare()
    yield renderer.causes()
    for feature in site.features:
        yield renderer.feature(feature)
    for page in site.cells:
        yield renderer.cell(page)
