"""Plots as inline SVG: lines over users, each with all its values in a table below."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Final

from markupsafe import Markup, escape

from assay.pages.model import Chart

__all__ = ["svg", "ticks"]

_WIDTH: Final = 640
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 44
_COLOURS: Final = 6


def ticks(most: float, *, about: int = 5) -> list[float]:
    """Return round numbers from 0 up to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / about
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [step * i for i in range(ceil(most / step - 1e-9) + 1)]


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _key(index: int) -> str:
    """Return the piece of line that stands for a series: colour and dashes, so that neither is needed alone."""
    line = f'<line class="line c{index % _COLOURS}" x1="0" y1="6" x2="34" y2="6"/>'
    return f'<svg class="chart" width="34" height="12" aria-hidden="true">{line}</svg>'


def svg(chart: Chart) -> Markup:
    """Return a figure with the plot, its legend and its values."""
    xs = sorted({x for series in chart.series for x, _ in series.points})
    top = ticks(max((y for series in chart.series for _, y in series.points), default=1.0))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def px(x: float) -> float:
        # Loads double from step to step, so their order is shown and not their distance.
        return _LEFT + (wide / 2 if len(xs) == 1 else wide * xs.index(x) / (len(xs) - 1))

    def py(y: float) -> float:
        return _TOP + high * (1 - y / top[-1])

    parts: list[str] = []
    for value in top:
        y = py(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += [f'<text x="{px(x):.1f}" y="{_HEIGHT - 26}" text-anchor="middle">{x:g}</text>' for x in xs]
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(chart.x)}</text>')
    for index, series in enumerate(chart.series):
        colour = f"c{index % _COLOURS}"
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in series.points)
        parts.append(f'<polyline class="line {colour}" points="{points}"/>')
        for x, y in series.points:
            parts.append(f'<circle class="{colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5"/>')
    rows = "".join(
        f'<tr><th scope="row">{_key(number - 1)} {escape(series.name)}</th>'
        + "".join(f'<td class="num">{_value(dict(series.points).get(x))}</td>' for x in xs)
        + "</tr>"
        for number, series in enumerate(chart.series, 1)
    )
    heads = "".join(f'<th scope="col" class="num">{x:g}</th>' for x in xs)
    what = f"{escape(chart.y)} by {escape(chart.x)}"
    title = escape(chart.title)
    # One place on the axis makes no line: the values alone say as much.
    plot = (
        ""
        if len(xs) < 2
        else (
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
            f'aria-label="{title}: {what}">{"".join(parts)}</svg>'
        )
    )
    values = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Values of {title}"><table><thead><tr>'
        f'<th scope="col">{escape(chart.y)}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
    head = f'<figcaption><h3>{title}</h3><p class="soft">{what}</p></figcaption>'
    return Markup(f"<figure>{head}{plot}{values}</figure>")  # noqa: S704 - every text in it is escaped above
