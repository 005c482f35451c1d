"""The part of `assay audit` that needs a container engine."""

from __future__ import annotations

from collections.abc import Sequence

from assay import console
from assay.adapters.docker_engine import DockerEngine
from assay.adapters.project_files import ProjectFiles
from assay.adapters.store import FileStore
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.flows.audit import Auditor, keep_record
from assay.flows.audit_image import audit_image

__all__ = ["audit_images"]


def audit_images(
    auditor: Auditor,
    references: Sequence[str],
    targets: Sequence[TargetGpu],
    files: ProjectFiles | None,
    *,
    record: bool,
) -> list[AuditReport]:
    """Audit images the engine holds; inside a project each leaves a record."""
    engine = DockerEngine()
    reports: list[AuditReport] = []
    for reference in references:
        report = audit_image(engine, reference, auditor, targets=targets, tell=console.say)
        if record and files is not None:
            info = engine.image(reference)
            store = FileStore(files.root / "build_logs")
            keep_record(store, report, run="audit", cell=None, image_digest=info.digest if info else None)
        reports.append(report)
    return reports
