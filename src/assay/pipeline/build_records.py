"""How builds end: the record of each, whether that is as expected, and the exit code of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from assay import __version__
from assay.errors import EngineError, RegistryError
from assay.evidence.record import AnyRecord, BuildRecord, BuildStatus, LayerSize, now
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.lockfile import lock_digest
from assay.pipeline.build_jobs import BuildItem, PreparedBuild
from assay.ports.engine import ImageInfo

__all__ = ["GOOD", "as_expected", "described", "exit_code", "not_built_well", "record_of"]

GOOD: Final = frozenset({BuildStatus.BUILT, BuildStatus.CACHED})


def as_expected(cell: Cell, record: BuildRecord) -> bool:
    """Return whether a cell's build ended as expected: with an image, or for a control where and why it has to fail."""
    if cell.kind != "control":
        return record.status in GOOD
    if cell.expect is None:
        return False
    match cell.expect.stage:
        case "audit":
            return record.status is BuildStatus.REFUSED and record.cause == cell.expect.cause
        case "build":
            return record.status is BuildStatus.FAILED and record.cause == cell.expect.cause
        case "probe":
            return record.status in GOOD


def exit_code(cells: Iterable[Cell], records: Mapping[str, BuildRecord]) -> int:
    """Return 0 when every cell ended as expected, 4 when the engine failed, 5 when a registry did, else 1.

    Args:
        cells: the cells of the run.
        records: cell id -> its record.
    """
    bad = [records[cell.id] for cell in cells if not as_expected(cell, records[cell.id])]
    if any(record.status is BuildStatus.ENGINE_FAILED for record in bad):
        return EngineError.exit_code
    if any(record.status is BuildStatus.REGISTRY_FAILED for record in bad):
        return RegistryError.exit_code
    return 1 if bad else 0


def not_built_well(records: Iterable[AnyRecord]) -> frozenset[tuple[str, str]]:
    """Return (cell, content key) of every newest build that ended badly: refused by the image's audit, or cut off."""
    builds = (record for record in records if isinstance(record, BuildRecord))
    newest = {
        (record.cell, record.content_key or ""): record.status
        for record in sorted(builds, key=lambda record: record.created)
        if record.status is not BuildStatus.REFUSED
    }
    return frozenset(key for key, status in newest.items() if status not in GOOD)


def record_of(
    item: BuildItem,
    run: str,
    status: BuildStatus,
    *,
    reason: str = "",
    cause: str | None = None,
    seconds: float = 0.0,
    log: str | None = None,
) -> BuildRecord:
    """Return the record of a build that ended."""
    return BuildRecord(
        created=now(),
        run=run,
        cell=item.cell.id,
        image=item.cell.image,
        lock_digest=lock_digest(item.lock) if item.lock else None,
        content_key=item.key if isinstance(item, PreparedBuild) else None,
        assay_version=__version__,
        platform=item.cell.platform,
        status=status,
        reason=reason,
        cause=cause,
        seconds=round(seconds, 3),
        log=log,
    )


def described(
    record: BuildRecord, item: PreparedBuild, image: ImageInfo | None, *, tag: str, digest: str | None = None
) -> BuildRecord:
    """Return a record with the image's tag, digest, size and layers.

    Args:
        record: of the build.
        item: what was built.
        image: the image as who holds it describes it; None where that is recorded already.
        tag: the name it has there.
        digest: of the manifest as the builder gave it, for engines that give none.
    """
    update: dict[str, object] = {"tags": (tag,)}
    if image is not None:
        made_by = render.with_stages(item.dockerfile, [layer.made_by for layer in image.layers])
        update |= {
            "image_digest": image.digest or digest,
            "size_bytes": image.size_bytes,
            "layers": tuple(
                LayerSize(digest=layer.diff_id, bytes=layer.bytes or 0, made_by=step[:200])
                for layer, step in zip(image.layers, made_by, strict=True)
            ),
        }
    return record.model_copy(update=update)
