"""Benchmark plots as SVG, without a plotting library: latency and throughput over users."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from assay.evidence.record import BenchRecord, BenchSeries
from assay.foundation.printable import one_line
from assay.serving.csvtext import labels

__all__ = ["PlotLine", "line_plot", "plots"]

_WIDE: Final = 460
"""Of the area within the axes."""
_HEIGHT: Final = 400
_LEFT: Final = 70
_LEGEND: Final = 190
"""At least; names can be long."""
_TOP: Final = 40
_BOTTOM: Final = 50
# Okabe and Ito's colours, which people with colour blindness can tell apart; dashes tell them apart in print.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: Final = ("", "6 3", "2 2", "8 3 2 3")


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    """One line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]


def plots(records: Sequence[BenchRecord]) -> dict[str, str]:
    """Return file name -> SVG; only plots for which something was measured."""
    wanted: dict[str, tuple[str, str, Callable[[BenchSeries], float | None]]] = {
        "latency-over-users.svg": (
            "Latency over users, median of 100 tokens",
            "ms",
            lambda one: one.latency.p50 if one.latency else None,
        ),
        "first-token-over-users.svg": (
            "Time to the first token over users, median",
            "ms",
            lambda one: one.ttft.p50 if one.ttft else None,
        ),
        "throughput-over-users.svg": (
            "Throughput over users",
            "tokens per second",
            lambda one: one.tokens_per_second or None,
        ),
    }
    result: dict[str, str] = {}
    for name, (title, unit, value) in wanted.items():
        lines = [
            line
            for label, record in zip(labels(records), records, strict=True)
            if (line := _line(label, record, value)) is not None
        ]
        if lines:
            result[name] = line_plot(title, "users at once", unit, lines)
    return result


def _line(label: str, record: BenchRecord, value: Callable[[BenchSeries], float | None]) -> PlotLine | None:
    points = [
        (float(one.users), found)
        for one in record.series
        if one.workload == "users" and (found := value(one)) is not None
    ]
    return PlotLine(name=label, points=tuple(points)) if points else None


def _step(most: float) -> float:
    raw = most / 5
    power = math.pow(10, math.floor(math.log10(raw)))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw)


def line_plot(title: str, across: str, up: str, lines: Sequence[PlotLine]) -> str:
    """Return a line plot as SVG; both axes begin at 0.

    Raises:
        ValueError: there are no points.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("nothing to plot")
    most_x = max(x for x, _ in points) or 1.0
    step = _step(max(y for _, y in points) or 1.0)
    most_y = step * math.ceil((max(y for _, y in points) or 1.0) / step)
    wide, high = _WIDE, _HEIGHT - _TOP - _BOTTOM
    side = _LEFT + wide
    width = side + max(_LEGEND, 60 + 7 * max(len(line.name) for line in lines))

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + x / most_x * wide, 1), round(_TOP + high - y / most_y * high, 1)

    name = escape(one_line(up))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" role="img">',
        f"<title>{escape(one_line(title))}</title>",
        "<style>text {font: 12px sans-serif}</style>",
        f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(one_line(title))}</text>',
        f'<text x="{_LEFT + wide / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(one_line(across))}</text>',
        f'<text transform="translate(16 {_TOP + high / 2}) rotate(-90)" text-anchor="middle">{name}</text>',
    ]
    for number in range(round(most_y / step) + 1):
        _, y = place(0, number * step)
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + wide}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{number * step:g}</text>')
    for x_value in sorted({x for x, _ in points}):
        x, _ = place(x_value, 0)
        parts.append(f'<text x="{x}" y="{_TOP + high + 18}" text-anchor="middle">{x_value:g}</text>')
    for number, line in enumerate(lines):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        placed = [place(x, y) for x, y in sorted(line.points)]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in placed]
        y = _TOP + 8 + 20 * number
        parts.append(
            f'<line x1="{side + 15}" y1="{y}" x2="{side + 40}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{side + 46}" y="{y + 4}">{escape(one_line(line.name))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
