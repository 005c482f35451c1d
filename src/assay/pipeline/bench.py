"""bench: put the load of the users' documents on servers, one after the other, and keep what they did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from assay import __version__
from assay.engines.knowledge import ServerFlags
from assay.engines.table import engine_named
from assay.evidence.record import BenchRecord, BenchSeries, ServeStatus, now
from assay.pipeline.serve import Later, Started, chosen_by, diagnosed, others_on_gpu, started
from assay.pipeline.serve_check import PreparedServer, ServeRequest, prepared
from assay.ports.api import ApiClient
from assay.ports.store import RunFolder, Store
from assay.ports.task import TaskHost
from assay.serving.csvtext import comparison_csv, series_csv
from assay.serving.load import LENGTHS, QUESTIONS, USERS, standard_load, summarise
from assay.serving.plots import plots

__all__ = ["Contestant", "LoadShape", "bench", "bench_running"]


@dataclass(frozen=True, kw_only=True)
class LoadShape:
    """How much load; the defaults are those of the users' documents."""

    lengths: Sequence[int] = LENGTHS
    users: Sequence[int] = USERS
    repeats: int = 3
    questions: int = QUESTIONS
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One server of a comparison: where it runs, and how it is started."""

    host: TaskHost
    request: ServeRequest


@dataclass(kw_only=True)
class _Peak:
    bytes: int | None = None
    done: threading.Event = field(default_factory=threading.Event)


def bench(
    contestants: Sequence[Contestant],
    client: ApiClient,
    knowledge: ServerFlags,
    store: Store,
    shape: LoadShape,
    *,
    say: Callable[[str], None],
) -> tuple[BenchRecord, ...]:
    """Benchmark each contestant, one at a time; write a record each, and the comparison as CSV and plots.

    Problems of a command line, an image or a model are reported before anything is measured. A contestant that does
    not start is a record that is not stable; the others still run. Ctrl-C keeps what was measured so far.

    Raises:
        UsageError: an engine is not there, no model is named, or a model does not fit.
        EngineError: a place cannot be used.
    """
    records: list[BenchRecord] = []
    ready = [prepared(one.host, knowledge, one.request, say) for one in contestants]
    with store.new_run() as run:
        try:
            for contestant, what in zip(contestants, ready, strict=True):
                say(f"== {_label(contestant)}")
                record = _one(contestant, what, client, run, shape, say=say)
                store.append(record)
                records.append(record)
        finally:
            if records:
                _write(run, records)
                say(f"results: {run.path}")
    return tuple(records)


def _label(contestant: Contestant) -> str:
    request = contestant.request
    return f"{request.cell} {request.profile_name}".strip()


def _write(run: RunFolder, records: Sequence[BenchRecord]) -> None:
    run.write("comparison.csv", comparison_csv(records).encode())
    run.write("series.csv", series_csv(records).encode())
    for name, svg in plots(records).items():
        run.write(name, svg.encode())


def _one(
    contestant: Contestant,
    ready: PreparedServer,
    client: ApiClient,
    run: RunFolder,
    shape: LoadShape,
    *,
    say: Callable[[str], None],
) -> BenchRecord:
    host, request = contestant.host, contestant.request
    record = _base(host, request, ready, run)
    wrong = [finding.message for finding in ready.command.findings if finding.fatal]
    if wrong:
        return record.model_copy(update={"notes": (*record.notes, "not started: " + "; ".join(wrong))})
    log, log_name = Later(), f"{request.profile_name or 'server'}-{len(list(run.path.iterdir()))}.log"
    record = record.model_copy(update={"log": f"{run.name}/{log_name}"})
    try:
        job = request.job_for(ready.command, ready.facts)
        with started(host, client, job, ready.command, say=say, keep=log.keep) as start:
            return _measured(contestant, client, ready, record, start, shape=shape, say=say)
    finally:
        run.write(log_name, log.text.encode())


def _base(host: TaskHost, request: ServeRequest, ready: PreparedServer, run: RunFolder) -> BenchRecord:
    beside = others_on_gpu(host, ready.facts)
    return BenchRecord(
        created=now(),
        run=run.name,
        cell=request.cell,
        image=request.image,
        image_digest=ready.facts.image_digest,
        platform=ready.facts.platform,
        assay_version=__version__,
        engine=request.engine,
        executor=host.name,
        profile=request.profile_name,
        model=ready.command.model,
        argv=tuple(ready.command.told.argv()),
        stable=False,
        devices=ready.facts.devices,
        packages=dict(ready.facts.packages),
        notes=(*ready.command.notes, *([beside] if beside else [])),
    )


def _measured(
    contestant: Contestant,
    client: ApiClient,
    ready: PreparedServer,
    record: BenchRecord,
    start: Started,
    *,
    shape: LoadShape,
    say: Callable[[str], None],
) -> BenchRecord:
    server, request = start.server, contestant.request
    record = record.model_copy(update={"start_seconds": round(start.seconds, 3)})
    if start.status is not ServeStatus.OK:
        server.stop(grace=request.stop_grace)
        note = start.reason + diagnosed(server.log(), start.status).words
        say(note)
        return record.model_copy(update={"notes": (*record.notes, note)})
    say(f"healthy after {start.seconds:.1f} s")
    with _watching(contestant.host, [device.uuid for device in ready.facts.devices]) as peak:
        series = bench_running(
            client, server.base, ready.command.served_name, shape, timeout=request.request_timeout, say=say
        )
    chosen = chosen_by(engine_named(request.engine), client, server.base, server.log())
    healthy = client.call("GET", server.base + ready.command.engine.health, timeout=30).status == 200
    ended = server.stop(grace=request.stop_grace)
    notes = list(record.notes)
    if not healthy:
        words = diagnosed(server.log(), ServeStatus.FAILED).words
        notes.append(f"the server was not healthy at the end ({ended}){words}")
    return record.model_copy(
        update={
            "stable": healthy and not any(one.failed for one in series),
            "chosen": chosen,
            "gpu_memory_gib": None if peak.bytes is None else round(peak.bytes / 2**30, 3),
            "series": series,
            "notes": tuple(notes),
        }
    )


def bench_running(
    client: ApiClient, base: str, model: str, shape: LoadShape, *, timeout: float, say: Callable[[str], None]
) -> tuple[BenchSeries, ...]:
    """Put the load on a server that runs; stops after a load of which nothing succeeded."""
    results: list[BenchSeries] = []
    loads = standard_load(
        model,
        lengths=shape.lengths,
        users=shape.users,
        repeats=shape.repeats,
        questions=shape.questions,
        seed=shape.seed,
    )
    for load in loads:
        one = summarise(load, client.load(base, load, timeout=timeout))
        results.append(one)
        latency = "-" if one.latency is None else f"{one.latency.p50:.0f} ms"
        ttft = "-" if one.ttft is None else f"{one.ttft.p50:.0f} ms"
        say(
            f"{one.workload}: {one.users} users, {one.max_tokens} tokens: latency {latency}, first token {ttft}, "
            f"{one.tokens_per_second:.1f} tok/s" + (f", {one.failed} of {one.requests} FAILED" if one.failed else "")
        )
        if one.failed == one.requests:
            break
    return tuple(results)


@contextmanager
def _watching(host: TaskHost, uuids: Sequence[str]) -> Iterator[_Peak]:
    """Read the memory in use on GPUs every second while the load runs."""
    peak = _Peak()

    def watch() -> None:
        while True:
            used = host.gpu_memory_bytes(uuids)
            if used is None:
                return
            peak.bytes = max(peak.bytes or 0, used)
            if peak.done.wait(1.0):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.done.set()
        thread.join(30)
