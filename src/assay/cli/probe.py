"""`assay probe`: what really works in an image on this machine's GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.docker import DockerExecutor
from assay.adapters.executors.gpu_leases import FileLeases
from assay.adapters.executors.local import LocalExecutor
from assay.adapters.executors.probe_suite import find_suite, load_suite, suite_digest
from assay.adapters.files.records import FileStore
from assay.cli import console
from assay.cli.common import cell_of, format_option, load, project_option, select_argument
from assay.diagnose import Stage, diagnose
from assay.errors import GpuMissing, NothingSelected, UsageError
from assay.evidence import claims
from assay.evidence.record import AuditRecord, BuildRecord, BuildStatus, ProbeRecord
from assay.foundation.outcome import Outcome
from assay.matrix.plan import Plan
from assay.matrix.render import LABEL_PREFIX
from assay.pipeline.probe import ProbeFlow, ProbeOptions, ProbeSubject, exit_code
from assay.ports.engine import Engine, ImageInfo
from assay.ports.executor import Executor, JobLimits

__all__ = ["command"]

_GIB = 1 << 30


@click.command("probe")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--feature", "features", multiple=True, metavar="NAME", help="Test only this feature (repeatable).")
@click.option("--list", "listing", is_flag=True, help="List the probes and their requirements; run nothing.")
@click.option(
    "--executor",
    "where",
    type=click.Choice(["docker", "local"]),
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
) -> int:
    """Test each feature of an image on a GPU.

    SELECT is an image reference or selects cells as in `assay plan`. Each probe runs in its own process inside the
    image and compares the result with an independent reference. Features with a record for the same image, suite, GPU
    and driver are not run again.
    """
    files, plan = load(project)
    suite_folder = find_suite(files.root)
    store = FileStore(files.root / "build_logs")
    caches = files.root / "build_logs" / ".jit"
    engine = DockerEngine()
    executor: Executor = (
        LocalExecutor(python=interpreter, cache=caches / "local")
        if where == "local"
        else DockerExecutor(engine, cache=caches)
    )
    flow = ProbeFlow(
        executor=executor,
        leases=FileLeases(),
        store=store,
        suite=load_suite(suite_folder),
        suite_digest=suite_digest(suite_folder) or "",
        diagnose=_cause,
        say=console.say,
    )
    if listing:
        return _list(flow, form)
    options = ProbeOptions(
        features=features,
        force=force,
        gpus=gpus,
        wait_seconds=wait,
        limits=JobLimits(memory_bytes=None if memory is None else int(memory * _GIB), seconds=timeout),
        warm=not cold,
        keep_cache=not cold,
        sabotage=_sabotage(sabotage, flow),
        seed=seed,
    )
    subjects: list[ProbeSubject] = []
    try:
        subjects = _here(select, executor) if where == "local" else subjects_of(select, plan, store, engine)
        records = flow.run(subjects, options)
    except GpuMissing:
        _show_unmeasured(subjects, plan, files.root, store)
        raise
    if form == "json":
        console.json_data([json.loads(record.model_dump_json()) for record in records])
    else:
        for record in records:
            _show(record, plan, files.root, store)
    return exit_code(records)


def _cause(text: str) -> str | None:
    found = diagnose(text.encode(), stage=Stage.PROBE)
    return found[0].cause if found else None


def _sabotage(given: Sequence[str], flow: ProbeFlow) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in given:
        feature, mark, kind = item.partition("=")
        if not mark or feature not in flow.declarations:
            raise UsageError(f"--sabotage wants FEATURE=KIND with a feature that has a probe, not {item!r}")
        pairs[feature] = kind
    return pairs


def _here(select: tuple[str, ...], executor: Executor) -> list[ProbeSubject]:
    place = executor.place(select[0] if select else "local")
    return [ProbeSubject(place=place, cell=f"local-{(place.digest or '')[7:19]}")]


def subjects_of(select: tuple[str, ...], plan: Plan, store: FileStore, engine: Engine) -> list[ProbeSubject]:
    """Return the selected cells whose image is in the engine, or the image references.

    Raises:
        NothingSelected: the image of none of them is here.
        UsageError: there is no such image.
    """
    executor = DockerExecutor(engine)
    references = [word for word in select if "/" in word or ":" in word or word.startswith("sha256")]
    words = tuple(word for word in select if word not in references)
    found: list[ProbeSubject] = []
    if words or not references:
        built = _built(store)
        for cell in plan.select(words, default=True):
            if cell.kind == "control":
                continue
            record = built.get(cell.id)
            # What another machine built and somebody loaded or pulled here has no record, but says what it is.
            image = None if record or cell.kind == "external" else engine.image(cell.local_reference)
            if record is None and cell.kind != "external" and cell_of(image, plan) != cell:
                console.warn(f"{cell.id}: not built, so not probed (`assay build {cell.id}`)")
                continue
            reference = (record.image_digest if record else None) or cell.local_reference
            try:
                place = executor.place(cell.local_reference)
            except UsageError as error:
                console.warn(f"{cell.id}: {error.message} ({reference})")
                continue
            found.append(
                ProbeSubject(
                    place=place,
                    cell=cell.id,
                    image=cell.image,
                    lock_digest=record.lock_digest if record else _label(image, "lock"),
                    content_key=record.content_key if record else _label(image, "content-key"),
                )
            )
    by_reference = {cell.local_reference: cell for cell in plan.cells}
    for reference in references:
        # What was built here is known by its name; what another machine built, by what it says of itself.
        image = engine.image(reference)
        known = by_reference.get(reference) or cell_of(image, plan)
        found.append(
            ProbeSubject(
                place=executor.place(reference),
                cell=known.id if known else reference,
                image=known.image if known else "",
                lock_digest=_label(image, "lock") if known else None,
                content_key=_label(image, "content-key") if known else None,
            )
        )
    if not found:
        raise NothingSelected("none of the selected cells is built", hint="`assay build SELECT` first")
    return found


def _label(image: ImageInfo | None, name: str) -> str | None:
    return image.labels.get(f"{LABEL_PREFIX}{name}") if image is not None else None


def _built(store: FileStore) -> dict[str, BuildRecord]:
    """Return the newest good build of each cell."""
    good = (BuildStatus.BUILT, BuildStatus.CACHED)
    found: dict[str, BuildRecord] = {}
    for record in sorted(store.records(kind="build"), key=lambda item: item.created):
        if isinstance(record, BuildRecord) and record.status in good:
            found[record.cell] = record
    return found


def _list(flow: ProbeFlow, form: str) -> int:
    items = sorted(flow.declarations.values(), key=lambda item: item.feature)
    if form == "json":
        console.json_data([item.model_dump(mode="json") for item in items])
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
    cell_id: str, target: str, plan: Plan, root: Path, store: FileStore, *, record: ProbeRecord | None = None
) -> list[claims.ClaimLine]:
    """Put claims, prediction and measurement of a cell side by side."""
    cell = next((item for item in plan.cells if item.id == cell_id), None)
    ledger = root / "images" / (cell.image if cell else "") / "claims.yaml"
    stated = claims.read(ledger.read_text(encoding="utf-8"), file=str(ledger)) if cell and ledger.is_file() else ()
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


def _show_unmeasured(subjects: Sequence[ProbeSubject], plan: Plan, root: Path, store: FileStore) -> None:
    """Without a GPU nothing can be measured; what is claimed and predicted is shown as what it is."""
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


def _show(record: ProbeRecord, plan: Plan, root: Path, store: FileStore) -> None:
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
