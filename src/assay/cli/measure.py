"""Audits and probes one image on this machine, for commands that need its records."""

from __future__ import annotations

from collections.abc import Callable

from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.cli import console
from assay.cli.composition import engine
from assay.cli.probe_composition import probe_flow
from assay.foundation.outcome import Outcome
from assay.matrix.plan import Plan
from assay.matrix.policy import Basis, Level
from assay.pipeline.probe import ProbeOptions
from assay.pipeline.probe_subjects import subjects_of

__all__ = ["measurer"]


def measurer(files: ProjectFiles, plan: Plan) -> Callable[[str, Level], None]:
    """Return what pulls an image, audits and probes it as a level asks for, and keeps the records."""

    def measure(reference: str, level: Level) -> None:
        console.say(f"pulling {reference}")
        engine().pull(reference)
        if level.audit is not None:
            _audit(reference, files, plan)
        if level.basis is Basis.PROBE:
            _probe(reference, files, plan)

    return measure


def _audit(reference: str, files: ProjectFiles, plan: Plan) -> None:
    # The auditor's libraries are loaded where it is used only.
    from assay.cli.audit_composition import make_auditor, progress
    from assay.cli.audit_image import audit_images
    from assay.pipeline.bases import gpu_targets

    matrix = plan.project.matrix
    auditor = make_auditor(matrix.indexes, root=files.root, tell=progress())
    targets = gpu_targets(matrix, matrix.targets)
    for report in audit_images(auditor, [reference], targets, files, plan, record=True):
        console.say(f"audit of {reference}: {report.verdict}")
        for line in report.summary:
            console.say(f"  {line}")


def _probe(reference: str, files: ProjectFiles, plan: Plan) -> None:
    flow, executor = probe_flow(files.root, say=console.say)
    store = FileStore(files.root / "build_logs")
    subjects = subjects_of((reference,), plan, store, executor, warn=console.warn)
    for record in flow.run(subjects, ProbeOptions()):
        where = ", ".join(device.name for device in record.devices) or "no GPU"
        works = sum(result.outcome is Outcome.WORKS for result in record.features.values())
        console.say(f"probed on {where}: {works} of {len(record.features)} features work")
