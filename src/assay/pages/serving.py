"""What the pages show of servers: whether they start, how fast they are, and how one is started. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from assay.evidence.record import BenchRecord, BenchSeries, Device, ServeRecord, ServeStatus
from assay.foundation.outcome import Outcome
from assay.pages.model import SERVES, Chart, Result, Series, Source, is_environment

__all__ = ["best_speeds", "charts_of", "device_name", "run_commands", "served", "speeds"]

_SERVED: Final = {
    ServeStatus.OK: Outcome.WORKS,
    ServeStatus.FAILED: Outcome.BROKEN,
    ServeStatus.CRASHED: Outcome.BROKEN,
    ServeStatus.TIMED_OUT: Outcome.BROKEN,
    ServeStatus.INCONCLUSIVE: Outcome.INCONCLUSIVE,
}


def served(record: ServeRecord) -> Iterator[Result]:
    """Yield, for each GPU, what a start of the server measured; nothing if it was not started."""
    outcome = _SERVED.get(record.status)
    for device in record.devices if outcome is not None else ():
        assert outcome is not None
        yield Result(
            feature=SERVES,
            target=device.target,
            source=Source.MEASURED,
            outcome=outcome,
            reason=record.reason or f"{record.model} was served",
            cause=record.cause,
            when=record.created,
            run=record.run,
            seconds=record.start_seconds,
            log=record.log,
            note=device_name(device),
        )


def best_speeds(benches: Sequence[BenchRecord]) -> dict[str, str]:
    """Return the best throughput of each target."""
    best: dict[str, BenchSeries] = {}
    for record in benches:
        for target in {device.target for device in record.devices}:
            for series in record.series:
                if target not in best or series.tokens_per_second > best[target].tokens_per_second:
                    best[target] = series
    return {
        target: f"{series.tokens_per_second:,.0f} tokens/s with {series.users} user{'s' if series.users != 1 else ''}"
        for target, series in best.items()
    }


def charts_of(benches: Sequence[BenchRecord]) -> tuple[Chart, ...]:
    """Return plots for each workload: over users where it varies them, else over the length of the answers."""
    points: dict[str, list[tuple[str, BenchSeries]]] = {}
    # A Python environment may hold several engines, whose profiles have the same names.
    several = len({record.engine for record in benches}) > 1
    for record in benches:
        name = record.profile or record.run
        for series in record.series:
            points.setdefault(series.workload, []).append((f"{record.engine} {name}" if several else name, series))
    made: list[Chart] = []
    for workload, found in points.items():
        by_users = len({series.users for _, series in found}) > 1
        x = "users at once" if by_users else "tokens asked for"
        rate: dict[str, dict[float, float]] = {}
        first: dict[str, dict[float, float]] = {}
        for name, series in found:
            at = float(series.users if by_users else series.max_tokens)
            rate.setdefault(name, {})[at] = series.tokens_per_second
            if series.ttft:
                first.setdefault(name, {})[at] = series.ttft.p50
        for what, y, lines in (("throughput", "tokens/s", rate), ("time to the first token, median", "ms", first)):
            if lines:
                drawn = tuple(Series(name=name, points=tuple(sorted(line.items()))) for name, line in lines.items())
                made.append(Chart(title=f"{workload}: {what}", x=x, y=y, series=drawn))
    return tuple(made)


def run_commands(cell: str, engine: str) -> tuple[str, ...]:
    """Return the commands that serve a model with an image."""
    if engine == "none" or is_environment(cell):
        return ()
    return (f"assay up MODEL --image {cell}", f"assay launch {cell} --model MODEL --format compose --output .")


def device_name(device: Device) -> str:
    """Return a GPU as the pages name it."""
    return f"{device.name}, {device.target}, driver {device.driver or 'unknown'}"


def speeds(charts: Sequence[Chart]) -> dict[str, str]:
    """Return each point of plots as a number with its unit, so that pages can compare them."""
    return {
        f"{chart.title}, {series.name}, {x:g} {chart.x}": f"{y:.4g} {chart.y}"
        for chart in charts
        for series in chart.series
        for x, y in series.points
    }
