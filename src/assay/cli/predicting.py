"""What launch, up and recommend rest on: the records of a project, and the audit's predictions where none is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay import resources
from assay.cli import console
from assay.errors import AssayError, ConfigError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.claims import Claim
    from assay.evidence.record import AnyRecord, AuditRecord
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan

__all__ = ["all_claims", "predictions"]


def predictions(
    files: ProjectFiles,
    plan: Plan,
    cells: Iterable[Cell],
    target: str,
    records: Sequence[AnyRecord],
    *,
    offline: bool = False,
) -> list[AuditRecord]:
    """Return what the audit predicts of cells on a target, for those that no record predicts it of.

    Each takes seconds where its wheels are known, and a minute where they are not.

    Args:
        offline: read nothing from an index; cells whose wheels are not known get no prediction.
    """
    from assay.evidence.ranking import FRESH
    from assay.evidence.record import AuditRecord
    from assay.pipeline.audit import record_of
    from assay.pipeline.bases import gpu_targets

    matrix = plan.project.matrix
    known = {one.cell for one in records if isinstance(one, AuditRecord) and target in one.predictions}
    wanted = [(cell, lock) for cell in cells if cell.id not in known and (lock := files.lock(cell)) is not None]
    if not wanted or target not in matrix.targets:
        return []
    from assay.cli.auditing import make_auditor, progress

    auditor = make_auditor(matrix.indexes, root=files.root, tell=progress())
    gpus = gpu_targets(matrix, [target])
    found: list[AuditRecord] = []
    for cell, lock in wanted:
        try:
            report = auditor.kept_report(cell, lock, matrix, targets=gpus)
            if report is None and not offline:
                report = auditor.cell(cell, lock, matrix, targets=gpus)
        except AssayError as error:
            console.warn(f"nothing is predicted of {cell.id}: {error.message}")
            continue
        if report is not None:
            found.append(record_of(report, run=FRESH, cell=cell, image_digest=None))
    return found


def all_claims(root: Path) -> list[Claim]:
    """Read what documents say: the ledgers of the images, and the serving claims that no ledger has."""
    from assay.adapters.files.serving import load_claims
    from assay.evidence import claims as ledger

    made: list[Claim] = []
    for path in sorted((root / "images").glob("*/claims.yaml")):
        try:
            made += ledger.read(path.read_text("utf-8"), file=str(path.relative_to(root)), image=path.parent.name)
        except ConfigError as error:
            console.warn(f"claims are left out: {error.message}")
    told = {(claim.feature, claim.target, claim.engine, claim.date) for claim in made}
    try:
        serving = load_claims(resources.find("knowledge", "serving_claims.yaml", root))
    except ConfigError as error:
        console.warn(f"claims are left out: {error.message}")
        serving = ()
    return [*made, *(one for one in serving if (one.feature, one.target, one.engine, one.date) not in told)]
