"""Benchmark records as CSV: the columns that the users' documents compare, and every series in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from assay.engines.table import release_in
from assay.evidence.record import BenchRecord, BenchSeries
from assay.serving.load import LENGTHS, USERS

__all__ = ["COMPARISON", "comparison_csv", "comparison_rows", "labels", "series_csv"]

_USERS: Final = {
    f"users_{users}_{name}": (users, name)
    for users in USERS
    for name in ("rps", "latency_ms", "p95_ms", "tokens_per_second")
}
COMPARISON: Final = (
    "configuration", "engine", "model", "device", "latency_ms", "tokens_per_second", "ttft_ms", "gpu_memory_gib",
    "stable", *(f"answer_{length}_ms" for length in LENGTHS), *_USERS,
    "prefix_first_ms", "prefix_rest_ms", "prefix_total_s",
)  # fmt: skip

_SERIES: Final = (
    "configuration", "engine", "version", "model", "device", "workload", "users", "max_tokens", "requests", "failed",
    "seconds", "requests_per_second", "tokens_per_second", "latency_mean_ms", "latency_p50_ms", "latency_p90_ms",
    "latency_p95_ms", "latency_p99_ms", "ttft_mean_ms", "ttft_p50_ms", "ttft_p95_ms", "per_token_mean_ms",
    "per_token_p50_ms", "first_ms", "cached_tokens", "record",
)  # fmt: skip


def labels(records: Sequence[BenchRecord]) -> list[str]:
    """Return a short name for each: its profile; with the engine, then the cell, where that is not enough."""
    names: list[str] = []
    for detail in range(4):
        names = [_name(record, detail) for record in records]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _name(record: BenchRecord, detail: int) -> str:
    more = [[], [_engine(record)], [record.cell], [record.cell, record.model]][detail]
    return ", ".join(part for part in [record.profile, *more] if part) or record.cell


def _engine(record: BenchRecord) -> str:
    return f"{record.engine} {release_in(record.packages, record.engine)}".strip()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}"


def _find(record: BenchRecord, workload: str, **wanted: int) -> BenchSeries | None:
    for one in record.series:
        if one.workload == workload and all(getattr(one, name) == value for name, value in wanted.items()):
            return one
    return None


def comparison_rows(records: Sequence[BenchRecord]) -> list[dict[str, str]]:
    """Return a row per record in the columns of COMPARISON.

    Latency, tokens per second and time to the first token are those of one user and the shortest answer measured, as
    the users' documents give them; means.
    """
    rows: list[dict[str, str]] = []
    for name, record in zip(labels(records), records, strict=True):
        single = min(
            (one for one in record.series if one.workload == "length"), key=lambda one: one.max_tokens, default=None
        )
        row = {
            "configuration": name,
            "engine": _engine(record),
            "model": record.model,
            "device": record.devices[0].name if record.devices else "",
            "latency_ms": _text(single.latency.mean if single and single.latency else None),
            "tokens_per_second": _text(single.tokens_per_second if single else None),
            "ttft_ms": _text(single.ttft.mean if single and single.ttft else None),
            "gpu_memory_gib": _text(record.gpu_memory_gib),
            "stable": _text(record.stable),
        }
        for length in LENGTHS:
            answer = _find(record, "length", max_tokens=length)
            row[f"answer_{length}_ms"] = _text(answer.latency.mean if answer and answer.latency else None)
        for column, (users, figure) in _USERS.items():
            many = _find(record, "users", users=users)
            row[column] = _text(_figure(many, figure) if many else None)
        prefix = _find(record, "prefix")
        row["prefix_first_ms"] = _text(prefix.first_ms if prefix else None)
        row["prefix_rest_ms"] = _text(prefix.latency.mean if prefix and prefix.latency else None)
        row["prefix_total_s"] = _text(prefix.seconds if prefix else None)
        rows.append(row)
    return rows


def _figure(series: BenchSeries, figure: str) -> float | None:
    match figure:
        case "rps":
            return series.requests_per_second
        case "tokens_per_second":
            return series.tokens_per_second
        case "p95_ms":
            return series.latency.p95 if series.latency else None
        case _:
            return series.latency.mean if series.latency else None


def comparison_csv(records: Sequence[BenchRecord]) -> str:
    """Return the comparison: one row per server."""
    return _csv(COMPARISON, comparison_rows(records))


def series_csv(records: Sequence[BenchRecord]) -> str:
    """Return every series: one row per server and load."""
    rows: list[dict[str, str]] = []
    for name, record in zip(labels(records), records, strict=True):
        for one in record.series:
            rows.append(
                {
                    "configuration": name,
                    "engine": record.engine,
                    "version": release_in(record.packages, record.engine),
                    "model": record.model,
                    "device": record.devices[0].name if record.devices else "",
                    "workload": one.workload,
                    "users": str(one.users),
                    "max_tokens": str(one.max_tokens),
                    "requests": str(one.requests),
                    "failed": str(one.failed),
                    "seconds": _text(one.seconds),
                    "requests_per_second": _text(one.requests_per_second),
                    "tokens_per_second": _text(one.tokens_per_second),
                    "latency_mean_ms": _text(one.latency.mean if one.latency else None),
                    "latency_p50_ms": _text(one.latency.p50 if one.latency else None),
                    "latency_p90_ms": _text(one.latency.p90 if one.latency else None),
                    "latency_p95_ms": _text(one.latency.p95 if one.latency else None),
                    "latency_p99_ms": _text(one.latency.p99 if one.latency else None),
                    "ttft_mean_ms": _text(one.ttft.mean if one.ttft else None),
                    "ttft_p50_ms": _text(one.ttft.p50 if one.ttft else None),
                    "ttft_p95_ms": _text(one.ttft.p95 if one.ttft else None),
                    "per_token_mean_ms": _text(one.per_token.mean if one.per_token else None),
                    "per_token_p50_ms": _text(one.per_token.p50 if one.per_token else None),
                    "first_ms": _text(one.first_ms),
                    "cached_tokens": _text(one.cached_tokens),
                    "record": record.run,
                }
            )
    return _csv(_SERIES, rows)


def _csv(columns: Sequence[str], rows: Iterable[dict[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
