"""`assay probe`: what really works in an image on this machine's GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load_or_example, project_option, select_argument
from assay.cli.host_composition import executor_names
from assay.cli.pooled import PoolRequest, pool_options, probe_on
from assay.errors import GpuMissing
from assay.foundation.outcome import Outcome

if TYPE_CHECKING:
    from assay.evidence import claims
    from assay.evidence.record import ProbeRecord
    from assay.matrix.plan import Plan
    from assay.pipeline.probe import ProbeFlow, ProbeSubject
    from assay.ports.executor import Executor
    from assay.ports.store import Store

__all__ = ["command"]

_GIB = 1 << 30
_LONGEST_SECONDS = 30 * 86_400.0
"""No run is longer; `inf` and `nan` are numbers for the command line."""


@click.command("probe")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--feature", "features", multiple=True, metavar="NAME", help="Test only this feature (repeatable).")
@click.option("--list", "listing", is_flag=True, help="List the probes and their requirements; run nothing.")
@click.option(
    "--executor",
    "where",
    type=click.Choice(executor_names()),
    default="docker",
    show_default=True,
    help="Where probes run: in a container or on this machine.",
)
@click.option("--python", "interpreter", metavar="PATH", help="Python to probe (--executor local).")
@click.option("--gpus", type=click.IntRange(0), default=1, show_default=True, help="GPUs per run; 0 for none.")
@click.option("--force", is_flag=True, help="Run again, even if a record exists for this image, suite, GPU and driver.")
@click.option(
    "--memory", type=click.FloatRange(1), metavar="GIB", help="Memory limit of a container.  [default: no limit]"
)
@click.option(
    "--timeout", type=click.FloatRange(1), default=3600, show_default=True, help="Time limit of a run, in seconds."
)
@click.option(
    "--wait", type=click.FloatRange(0), default=600, show_default=True, help="Time to wait for a free GPU, in seconds."
)
@click.option("--cold", is_flag=True, help="Use new processes and empty compilation caches.")
@click.option("--sabotage", multiple=True, metavar="FEATURE=KIND", help="Break a probe on purpose; record nothing.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, help="Seed of the random inputs; repeat a run with its metric `seed`."
)
@pool_options
def command(
    select: tuple[str, ...],
    project: Path | None,
    form: str,
    *,
    features: tuple[str, ...],
    listing: bool,
    where: str,
    interpreter: str | None,
    gpus: int,
    force: bool,
    memory: float | None,
    timeout: float,
    wait: float,
    cold: bool,
    sabotage: tuple[str, ...],
    seed: int,
    request: PoolRequest | None,
) -> int:
    """Test each feature of an image on a GPU.

    SELECT is an image reference or selects cells as in `assay plan`. Each probe runs in its own process inside the
    image and compares the result with an independent reference. Features with a record for the same image, suite, GPU
    and driver are not run again.
    """
    from assay.cli.probe_composition import probe_flow
    from assay.pipeline.probe import ProbeOptions, exit_code
    from assay.pipeline.probe_subjects import sabotages
    from assay.ports.jobs import JobLimits

    files, plan = load_or_example(project)
    flow, executor = probe_flow(files.root, say=console.say, where=where, interpreter=interpreter)
    store = flow.store
    if listing:
        return _list(flow, form)
    memory_bytes = None if memory is None else int(memory * _GIB)
    options = ProbeOptions(
        features=features,
        force=force,
        gpus=gpus,
        wait_seconds=wait,
        limits=JobLimits(memory_bytes=memory_bytes, seconds=min(_LONGEST_SECONDS, timeout)),
        warm=not cold,
        keep_cache=not cold,
        sabotage=sabotages(sabotage, flow.declarations),
        seed=seed,
    )
    if request is not None:
        records, code = probe_on((files, plan), select, options, request)
        _show_all(records, form, plan, files.root, store)
        return code
    subjects: list[ProbeSubject] = []
    try:
        subjects = _subjects(select, plan, store, executor)
        records = flow.run(subjects, options)
    except GpuMissing:
        _show_unmeasured(subjects, plan, files.root, store)
        raise
    _show_all(records, form, plan, files.root, store)
    return exit_code(records)


def _subjects(select: tuple[str, ...], plan: Plan, store: Store, executor: Executor) -> list[ProbeSubject]:
    from assay.pipeline.probe_subjects import environment, subjects_of
    from assay.ports.task import LOCAL

    if executor.name == LOCAL:
        return environment(select, executor)
    return subjects_of(select, plan, store, executor, warn=console.warn)


def _list(flow: ProbeFlow, form: str) -> int:
    items = sorted(flow.declarations.values(), key=lambda item: item.feature)
    if form == "json":
        from assay.pipeline.documents import ProbeListDocument

        console.document(ProbeListDocument(probes=tuple(items)))
    else:
        console.data_table(
            ("feature", "needs", "GPUs", "limit", "what it shows"),
            [
                (item.feature, ", ".join(item.requires) or "-", str(item.gpus), f"{item.timeout:g} s", item.about)
                for item in items
            ],
        )
    return 0


def _lines(
    cell_id: str, target: str, plan: Plan, root: Path, store: Store, *, record: ProbeRecord | None = None
) -> list[claims.ClaimLine]:
    """Put claims, prediction and measurement of a cell side by side."""
    from assay.adapters.files.regular import read_config
    from assay.evidence import claims
    from assay.evidence.record import AuditRecord

    cell = next((item for item in plan.cells if item.id == cell_id), None)
    ledger = root / "images" / (cell.image if cell else "") / "claims.yaml"
    stated = claims.read(read_config(ledger), file=str(ledger)) if cell and ledger.is_file() else ()
    audits = [item for item in store.records(kind="audit") if isinstance(item, AuditRecord) and item.cell == cell_id]
    version = str(cell.point.get(cell.engine, "")) if cell else ""
    return claims.compare(
        target=target,
        engine=cell.engine if cell else "none",
        version=version,
        claims=stated,
        audit=max(audits, key=lambda item: item.created, default=None),
        probe=record,
    )


def _show_unmeasured(subjects: Sequence[ProbeSubject], plan: Plan, root: Path, store: Store) -> None:
    """Without a GPU nothing can be measured; what is claimed and predicted is shown as what it is."""
    from assay.evidence import claims

    for subject in subjects:
        cell = next((item for item in plan.cells if item.id == subject.cell), None)
        shown = False
        for target in cell.targets if cell else ():
            lines = _lines(subject.cell, target, plan, root, store)
            if lines:
                console.data_table(
                    claims.COLUMNS, claims.rows(lines), title=f"{subject.cell} on {target}: not measured"
                )
                shown = True
        if not shown:
            console.say(f"{subject.cell}: no audit is recorded either (`assay audit {subject.cell}`)")


def _show_all(records: Sequence[ProbeRecord], form: str, plan: Plan, root: Path, store: Store) -> None:
    if form == "json":
        from assay.pipeline.documents import ProbeRunDocument

        console.document(ProbeRunDocument(records=tuple(records)))
        return
    for record in records:
        _show(record, plan, root, store)


def _show(record: ProbeRecord, plan: Plan, root: Path, store: Store) -> None:
    from assay.evidence import claims

    where = ", ".join(f"{item.name} ({item.target}, driver {item.driver})" for item in record.devices) or "no GPU"
    target = record.devices[0].target if record.devices else ""
    beside = {line.feature: line for line in _lines(record.cell, target, plan, root, store, record=record)}
    table = []
    for name, result in sorted(record.features.items()):
        line = beside.get(name, claims.ClaimLine(feature=name))
        claimed, predicted = claims.rows([line])[0][1:3]
        seconds = "" if result.outcome is Outcome.NOT_RUN else f"{result.seconds:.1f}"
        measured = f"{result.outcome.symbol} {result.outcome}"
        table.append(
            (name, claimed, predicted, measured, seconds, result.cause or "", _short(result.reason), line.flag)
        )
    columns = ("feature", "claimed", "predicted (audit)", "measured", "s", "cause", "reason", "")
    console.data_table(columns, table, title=f"{record.cell} on {where}")
    for note in record.notes:
        console.say(f"{record.cell}: {note}")
    logs = next((result.log for result in record.features.values() if result.log), None)
    if logs:
        console.say(f"{record.cell}: logs in build_logs/{Path(logs).parent}/")


def _short(text: str) -> str:
    line = text.strip().split("\n")[0]
    return line if len(line) <= 160 or os.environ.get("ASSAY_WIDE") else line[:157] + "..."
