"""Collect the content of the pages from records, cells, claims and locks. Pure: the caller reads the files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from assay.engines.table import release_in
from assay.evidence.claims import Claim, applies
from assay.evidence.ranking import OPEN, contradict
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BenchRecord,
    BuildRecord,
    ProbeRecord,
    ServeRecord,
)
from assay.foundation.outcome import Outcome
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.pages.model import (
    About,
    Audit,
    Build,
    Cause,
    CellPage,
    Event,
    LockPage,
    LogExcerpt,
    Result,
    ShownLayer,
    Site,
    Source,
    Wheel,
    is_environment,
)
from assay.pages.serving import best_speeds, charts_of, device_name, run_commands, served, speeds

__all__ = ["gather", "megabytes"]

ReadDocument = Callable[[str], bytes | None]
"""Returns a document of the store by digest, or None."""
ReadLog = Callable[[str], LogExcerpt | None]
"""Returns the end of a log by its path relative to build_logs/, or None where it is gone."""
_MOST_RUNS: Final = 200


class _Gathered:
    """What is collected of one cell while records go by, oldest first."""

    def __init__(self, own: tuple[str, ...] = ()) -> None:
        self.own = own
        """GPUs that the cell is for; none: it is not in the matrix."""
        self.build: Build | None = None
        self.audits: dict[str, Audit] = {}
        self.measured: dict[tuple[str, str], Result] = {}
        self.predicted: dict[tuple[str, str], Result] = {}
        self.servers: list[str] = []
        self.benches: list[BenchRecord] = []
        self.packages: dict[str, str] = {}
        self.devices: dict[str, None] = {}
        self.targets: dict[str, None] = {}
        self.logs: dict[str, None] = {}
        self.image = ""
        self.engine = "none"
        self.reference = False


def _take_probe(mine: _Gathered, record: ProbeRecord, events: list[Event]) -> None:
    for device in record.devices:
        mine.devices[device_name(device)] = None
        mine.targets[device.target] = None
    mine.packages = record.packages or mine.packages
    for target in dict.fromkeys(device.target for device in record.devices):
        for feature, result in record.features.items():
            if result.outcome is Outcome.NOT_RUN and (feature, target) in mine.measured:
                # A later run that left it out takes nothing back.
                continue
            mine.measured[feature, target] = Result(
                feature=feature,
                target=target,
                source=Source.MEASURED,
                outcome=result.outcome,
                reason=result.reason,
                cause=result.cause,
                when=record.created,
                run=record.run,
                seconds=result.seconds,
                metrics=result.metrics,
                log=result.log,
                note=device_name(record.devices[0]),
            )
            if result.log:
                mine.logs[result.log] = None
            events.append(
                Event(
                    when=record.created,
                    feature=feature,
                    cell=record.cell,
                    target=target,
                    run=record.run,
                    outcome=result.outcome,
                    digest=record.image_digest or "",
                )
            )


def _finding(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict):
        return {"message": str(raw)}
    return {str(key): _words(value) for key, value in raw.items() if value}


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, dict):
        return " ".join(_words(part) for part in value.values() if part)
    return str(value)


def _reasons(document: Any) -> dict[tuple[str, str], tuple[str, str | None]]:
    """Return (feature, target) -> (reason, cause) of an audit's document, as far as it has them."""
    found: dict[tuple[str, str], tuple[str, str | None]] = {}
    for item in document.get("predictions") or []:
        cause = item.get("cause")
        reason = str(item.get("reason") or "")
        found[str(item.get("feature")), str(item.get("target"))] = (reason, str(cause) if cause else None)
    return found


def _take_audit(mine: _Gathered, record: AuditRecord, document: bytes | None) -> None:
    findings: tuple[dict[str, str], ...] = ()
    reasons: dict[tuple[str, str], tuple[str, str | None]] = {}
    if document is not None:
        try:
            read = json.loads(document)
            findings = tuple(_finding(item) for item in (read.get("findings") or []))[:300]
            reasons = _reasons(read)
        except (ValueError, AttributeError, TypeError):
            findings = ({"message": "the audit's document cannot be read"},)
    mine.audits[record.subject] = Audit(
        subject=record.subject,
        verdict=str(record.over(mine.own)),
        verdicts={target: str(verdict) for target, verdict in record.verdicts.items()},
        when=record.created,
        run=record.run,
        summary=record.summary,
        findings=findings,
    )
    for target, features in record.predictions.items():
        mine.targets[target] = None
        for feature, outcome in features.items():
            reason, cause = reasons.get((feature, target), ("", None))
            mine.predicted[feature, target] = Result(
                feature=feature,
                target=target,
                source=Source.PREDICTED,
                outcome=outcome,
                reason=reason,
                cause=cause,
                when=record.created,
                run=record.run,
                note=f"audit of the {record.subject}",
            )


def _take(mine: _Gathered, record: AnyRecord, read: ReadDocument, events: list[Event]) -> None:
    mine.image = record.image or mine.image
    match record:
        case BuildRecord():
            mine.build = Build(
                status=str(record.status),
                reason=record.reason,
                cause=record.cause,
                when=record.created,
                run=record.run,
                seconds=record.seconds,
                size=record.size_bytes,
                digest=record.image_digest,
                layers=tuple(ShownLayer(bytes=layer.bytes, made_by=layer.made_by) for layer in record.layers),
                log=record.log,
            )
            if record.log:
                mine.logs[record.log] = None
        case AuditRecord():
            _take_audit(mine, record, read(record.report) if record.report else None)
        case ProbeRecord():
            _take_probe(mine, record, events)
        case ServeRecord():
            for result in served(record):
                mine.targets[result.target] = None
                mine.measured[result.feature, result.target] = result
            bad = [f"{check.name}: {check.detail}" for check in record.checks if not check.passed]
            words = [
                f"{record.created:%Y-%m-%d %H:%M}",
                record.profile or "no profile",
                str(record.status),
                record.reason,
            ]
            words += [f"{record.start_seconds:.0f} s to start", *bad, *(f"{k} {v}" for k, v in record.chosen.items())]
            mine.servers.append(" · ".join(word for word in words if word))
            mine.engine = record.engine
            mine.packages = record.packages or mine.packages
            if record.log:
                mine.logs[record.log] = None
        case BenchRecord():
            mine.engine = record.engine
            mine.benches.append(record)


def _lock_page(lock: Lock) -> LockPage:
    return LockPage(
        digest=lock_digest(lock),
        python=lock.python,
        base_digest=lock.base_digest or "",
        as_of=lock.as_of or "",
        nightlies=lock.nightlies,
        wheels=tuple(
            Wheel(name=wheel.name, version=wheel.version, index=wheel.index, sha256=wheel.sha256, size=wheel.size)
            for wheel in lock.wheels
        ),
    )


def _versions(lock: Lock | None) -> dict[str, str]:
    return {wheel.name: wheel.version for wheel in lock.wheels} if lock else {}


def _page(
    cell_id: str,
    cell: Cell | None,
    mine: _Gathered,
    *,
    packages: Mapping[str, str],
    lock: Lock | None,
    read_log: ReadLog,
) -> CellPage:
    engine = cell.engine if cell else mine.engine
    if cell is not None:
        verbs = ("audit", "probe") if cell.kind == "external" else ("audit", "build", "probe")
        repeat = [f"assay {verb} {cell_id}" for verb in verbs]
    elif is_environment(cell_id):
        # An environment of one machine: `assay probe` calls it so when it is given no image.
        repeat = ["assay probe --executor local --python PATH-OF-A-PYTHON-WITH-THESE-PACKAGES"]
    else:
        repeat = [f"assay audit --image {cell_id}", f"assay probe {cell_id}"]
    targets = tuple(dict.fromkeys([*(cell.targets if cell else ()), *mine.targets]))
    return CellPage(
        id=cell_id,
        image=cell.image if cell else mine.image,
        engine=engine,
        kind=cell.kind if cell else "not in the matrix",
        targets=targets,
        own=mine.own,
        point={axis: str(value) for axis, value in cell.point.items()} if cell else {},
        base=cell.base if cell else "",
        reason=cell.reason if cell else "",
        packages=dict(mine.packages or packages or _versions(lock)),
        installed=bool(mine.packages),
        lock=_lock_page(lock) if lock else None,
        build=mine.build,
        audits=tuple(mine.audits.values()),
        results=(*mine.measured.values(), *mine.predicted.values()),
        servers=tuple(mine.servers),
        charts=charts_of(mine.benches),
        logs=tuple(excerpt for path in list(mine.logs)[-8:] if (excerpt := read_log(path)) is not None),
        devices=tuple(mine.devices),
        commands=tuple(repeat),
        run=run_commands(cell_id, engine),
        speeds=best_speeds(mine.benches),
    )


def _is_about(claim: Claim, page: CellPage) -> bool:
    if claim.cell not in ("", page.id) or claim.image not in ("", page.image):
        return False
    # Nobody knows which version an external image has before it was probed: the claim is not shown for it.
    version = (page.point.get(page.engine) or release_in(page.packages, page.engine)).removeprefix("src.")
    targets = page.targets or ("",)
    return any(applies(claim, target=target, engine=page.engine, version=version) for target in targets)


def _with_claims(page: CellPage, claims: Sequence[Claim]) -> CellPage:
    # The newest first: where claims contradict each other, that one is shown in the matrix, and all on the page.
    mine = sorted((claim for claim in claims if _is_about(claim, page)), key=lambda claim: claim.date, reverse=True)
    results = tuple(
        Result(
            feature=claim.feature,
            target=claim.target,
            source=Source.CLAIMED,
            outcome=claim.outcome,
            reason=claim.says,
            note=f"{claim.source}, {claim.date}",
            link=claim.source if claim.source.startswith("https://") else "",
        )
        for claim in mine
    )
    together = (*page.results, *results)
    return page.model_copy(update={"results": tuple(_contradicted(result, together) for result in together)})


def _contradicted(result: Result, others: Sequence[Result]) -> Result:
    """Note on a measurement what said the opposite: the audit's prediction, and the newest claim."""
    if result.source is not Source.MEASURED:
        return result
    against: dict[Source, bool] = {}
    for other in others:
        same = other.feature == result.feature and other.target in {result.target, ""}
        if same and other.source is not Source.MEASURED and other.outcome not in OPEN:
            # Claims come newest first; only that one counts.
            against.setdefault(other.source, contradict(result.outcome, other.outcome))
    words = {Source.PREDICTED: "the prediction", Source.CLAIMED: "the claim"}
    found = tuple(words[source] for source, differs in against.items() if differs)
    return result.model_copy(update={"against": found}) if found else result


def _is_of_its_platform(record: AnyRecord, cells: Mapping[str, Cell]) -> bool:
    """What a platform showed says nothing about another, also where both have one name: images of others."""
    return record.cell not in cells or record.runs_on is cells[record.cell].platform


def gather(
    records: Iterable[AnyRecord],
    cells: Sequence[Cell] = (),
    *,
    made: datetime,
    claims: Sequence[Claim] = (),
    packages: Mapping[str, Mapping[str, str]] | None = None,
    locks: Mapping[str, Lock] | None = None,
    causes: Mapping[str, Cause] | None = None,
    cards: Mapping[str, str] | None = None,
    about: Mapping[str, About] | None = None,
    read_document: ReadDocument = lambda _: None,
    read_log: ReadLog = lambda _: None,
    title: str = "What works where",
) -> Site:
    """Collect what the pages show.

    Args:
        records: everything that was measured, oldest first.
        cells: the cells of the matrix; cells that only records know (external references) come after them.
        made: when the pages are made, UTC.
        claims: what others say; shown as such, never beside a measurement as its equal.
        packages: distributions of cells, by name; packages read inside an image win over them.
        locks: the locks of cells; they say the packages where nothing else does.
        causes: known failures by id.
        cards: the names of each target's cards, in the order in which people are offered them.
        about: what features are.
        read_document: gives an audit's document by digest.
        read_log: gives the end of a log.
        title: the title of all pages.
    """
    gathered: dict[str, _Gathered] = {cell.id: _Gathered(cell.targets) for cell in cells}
    events: list[Event] = []
    run_results: dict[str, dict[str, dict[str, str]]] = {}
    known = {cell.id: cell for cell in cells}
    for record in (one for one in records if _is_of_its_platform(one, known)):
        mine = gathered.setdefault(record.cell, _Gathered())
        _take(mine, record, read_document, events)
        _take_run(run_results, record, mine.own)
    pages: list[CellPage] = []
    for cell_id, mine in gathered.items():
        read, lock = (packages or {}).get(cell_id, {}), (locks or {}).get(cell_id)
        page = _page(cell_id, known.get(cell_id), mine, packages=read, lock=lock, read_log=read_log)
        pages.append(_with_claims(page, claims))
    runs = list(run_results)[-_MOST_RUNS:]
    return Site(
        title=title,
        made=made,
        cells=tuple(pages),
        features=tuple(sorted({result.feature for page in pages for result in page.results})),
        targets=tuple(sorted({target for page in pages for target in page.targets})),
        cards=dict(cards or {}),
        about=dict(about or {}),
        history=tuple(events),
        claims=tuple(claims),
        causes=dict(causes or {}),
        runs=tuple(runs),
        run_results={run: run_results[run] for run in runs},
    )


def _take_run(runs: dict[str, dict[str, dict[str, str]]], record: AnyRecord, own: Collection[str]) -> None:
    def where(name: str) -> dict[str, str]:
        return runs.setdefault(record.run, {}).setdefault(name, {})

    match record:
        case BuildRecord():
            mine = where(record.cell)
            mine["build"] = str(record.status)
            if record.size_bytes:
                mine["size"] = megabytes(record.size_bytes)
        case AuditRecord():
            where(record.cell)[f"audit of {record.subject}"] = str(record.over(own))
        case ProbeRecord() if record.devices:
            found = {feature: str(result.outcome) for feature, result in record.features.items()}
            where(f"{record.cell} on {record.devices[0].target}").update(found)
        case ServeRecord():
            where(record.cell)[f"server {record.profile}".strip()] = str(record.status)
        case BenchRecord():
            where(record.cell).update(speeds(charts_of([record])))
        case _:
            pass


def megabytes(count: int) -> str:
    """Return a size that pages can compare."""
    return f"{count / 1e6:.1f} MB"
