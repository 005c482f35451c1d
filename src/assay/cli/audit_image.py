"""The part of `assay audit` that needs a container engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assay.cli import console
from assay.cli.targets import fitting_gpus, platforms_of_target, platforms_told
from assay.errors import UsageError
from assay.foundation.platforms import Platform

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.audit.context import TargetGpu
    from assay.audit.findings import AuditReport
    from assay.matrix.cell import Cell
    from assay.matrix.lock import Lock
    from assay.matrix.plan import Plan
    from assay.pipeline.audit import Auditor
    from assay.ports.engine import ImageInfo

__all__ = ["audit_images"]


def audit_images(
    auditor: Auditor,
    references: Sequence[str],
    targets: Sequence[TargetGpu],
    files: ProjectFiles | None,
    plan: Plan | None,
    *,
    record: bool,
) -> list[AuditReport]:
    """Audit images the engine holds; inside a project each leaves a record, and its own images meet their locks."""
    from assay.adapters.files.records import FileStore
    from assay.cli.composition import engine, layer_store
    from assay.pipeline.audit import keep_record
    from assay.pipeline.audit_image import audit_image
    from assay.pipeline.probe_subjects import cell_of

    images, layers = engine(), layer_store()
    reports: list[AuditReport] = []
    for reference in references:
        info = images.image(reference)
        cell = cell_of(info.labels, plan) if info is not None and plan is not None else None
        lock = _lock(info, files, cell)
        fitting = _fitting(reference, info, targets)
        report = audit_image(images, reference, auditor, targets=fitting, lock=lock, tell=console.say, layers=layers)
        if record and files is not None:
            store = FileStore(files.root / "build_logs")
            keep_record(store, report, run="audit", cell=cell, image_digest=info.digest if info else None)
        reports.append(report)
    return reports


def _fitting(reference: str, image: ImageInfo | None, targets: Sequence[TargetGpu]) -> Sequence[TargetGpu]:
    """Return the GPUs that come with an image's platform.

    Raises:
        UsageError: none of them does.
    """
    platform = Platform.known(image.architecture) if image is not None else None
    if platform is None:
        return targets
    fitting = fitting_gpus(targets, platform)
    if targets and not fitting:
        raise UsageError(
            f"{reference} is an image for {platform}, and {platforms_told(targets)}",
            hint=f"docker pull --platform {platforms_of_target(targets[0].name)[0]} {reference}, if there is one",
        )
    return fitting


def _lock(image: ImageInfo | None, files: ProjectFiles | None, cell: Cell | None) -> Lock | None:
    """Return the lock an image says it was built from, if that still is the lock of its cell."""
    from assay.matrix.lockfile import lock_digest
    from assay.matrix.render import LABEL_PREFIX

    if image is None or files is None or cell is None:
        return None
    lock = files.lock(cell)
    return lock if lock is not None and lock_digest(lock) == image.labels.get(f"{LABEL_PREFIX}lock") else None
