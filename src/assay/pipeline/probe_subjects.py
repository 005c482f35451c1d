"""What is to be probed: cells whose image is here, image references, or this machine's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from assay.errors import NothingSelected, UsageError
from assay.evidence.record import BuildRecord, BuildStatus
from assay.matrix.cell import Cell
from assay.matrix.plan import Plan
from assay.matrix.render import LABEL_PREFIX
from assay.pipeline.probe import ProbeSubject
from assay.ports.executor import Executor
from assay.ports.store import Store
from assay.ports.task import LOCAL

__all__ = ["built", "cell_of", "environment", "sabotages", "subjects_of"]


def environment(select: Sequence[str], executor: Executor) -> list[ProbeSubject]:
    """Return the environment of this machine.

    Raises:
        UsageError: an image is named.
    """
    place = executor.place(select[0] if select else LOCAL)
    return [ProbeSubject(place=place, cell=f"local-{(place.digest or '')[7:19]}")]


def subjects_of(
    select: Sequence[str],
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    warn: Callable[[str], None],
) -> list[ProbeSubject]:
    """Return the selected cells whose image is in the engine, and the images named by reference.

    Raises:
        NothingSelected: the image of none of them is here.
        UsageError: there is no such image.
    """
    references = [word for word in select if "/" in word or ":" in word or word.startswith("sha256")]
    words = tuple(word for word in select if word not in references)
    found: list[ProbeSubject] = []
    if words or not references:
        made = built(store)
        for cell in plan.select(words, default=True):
            if cell.kind != "control":
                found += _of_cell(cell, made.get(cell.id), executor, warn)
    by_reference = {cell.local_reference: cell for cell in plan.cells}
    for reference in references:
        # What was built here is known by its name; what another machine built, by what it says of itself.
        labels = executor.labels(reference)
        known = by_reference.get(reference) or cell_of(labels, plan)
        found.append(
            ProbeSubject(
                place=executor.place(reference),
                cell=known.id if known else reference,
                image=known.image if known else "",
                lock_digest=_label(labels, "lock") if known else None,
                content_key=_label(labels, "content-key") if known else None,
            )
        )
    if not found:
        raise NothingSelected("none of the selected cells is built", hint="`assay build SELECT` first")
    return found


def _of_cell(
    cell: Cell, record: BuildRecord | None, executor: Executor, warn: Callable[[str], None]
) -> list[ProbeSubject]:
    """Return the subject of a cell; none if its image is not here."""
    # What another machine built and somebody loaded or pulled here has no record, but says what it is.
    labels = {} if record or cell.kind == "external" else executor.labels(cell.local_reference)
    if record is None and cell.kind != "external" and _label(labels, "cell") != cell.id:
        warn(f"{cell.id}: not built, so not probed (`assay build {cell.id}`)")
        return []
    reference = (record.image_digest if record else None) or cell.local_reference
    try:
        found = executor.place(cell.local_reference)
    except UsageError as error:
        warn(f"{cell.id}: {error.message} ({reference})")
        return []
    return [
        ProbeSubject(
            place=found,
            cell=cell.id,
            image=cell.image,
            lock_digest=record.lock_digest if record else _label(labels, "lock"),
            content_key=record.content_key if record else _label(labels, "content-key"),
        )
    ]


def cell_of(labels: Mapping[str, str], plan: Plan) -> Cell | None:
    """Return the cell that the labels of an image name, whatever the image is called where it is now."""
    named = _label(labels, "cell")
    return next((cell for cell in plan.cells if cell.id == named), None)


def _label(labels: Mapping[str, str], name: str) -> str | None:
    return labels.get(f"{LABEL_PREFIX}{name}")


def built(store: Store) -> dict[str, BuildRecord]:
    """Return the newest good build of each cell."""
    good = (BuildStatus.BUILT, BuildStatus.CACHED)
    found: dict[str, BuildRecord] = {}
    for record in sorted(store.records(kind="build"), key=lambda item: item.created):
        if isinstance(record, BuildRecord) and record.status in good:
            found[record.cell] = record
    return found


def sabotages(given: Sequence[str], known: Mapping[str, object]) -> dict[str, str]:
    """Read `FEATURE=KIND`, each of a feature that is known.

    Raises:
        UsageError: one is no such pair.
    """
    pairs: dict[str, str] = {}
    for item in given:
        feature, mark, kind = item.partition("=")
        if not mark or feature not in known:
            raise UsageError(f"--sabotage requires FEATURE=KIND with a feature that has a probe, not {item!r}")
        pairs[feature] = kind
    return pairs
