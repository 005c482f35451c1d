"""What launch, up and recommend rest on: the records of a project, and the audit's predictions where none is kept."""

from __future__ import annotations

import platform
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay import resources
from assay.cli import console
from assay.errors import AssayError, ConfigError
from assay.foundation.platforms import Platform

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.claims import Claim
    from assay.evidence.record import AnyRecord, AuditRecord
    from assay.matrix.cell import Cell
    from assay.matrix.model import Matrix
    from assay.matrix.plan import Plan
    from assay.ports.engine import Engine
    from assay.serving.choice import Option

__all__ = ["all_claims", "known_records", "options_of", "platforms_for", "predictions"]


def known_records(files: ProjectFiles, plan: Plan) -> list[AnyRecord]:
    """Return what is recorded of a project's cells: its own records, and those that ship with assay.

    A shipped record counts for a cell whose lock is the one that was measured or audited. Audits of a lock that has
    changed since are left out.
    """
    from functools import cache

    from assay.adapters.files.kept_records import intact_records
    from assay.evidence.record import AuditRecord
    from assay.matrix.lockfile import lock_digest

    cells = {cell.id: cell for cell in plan.cells}

    @cache
    def current(cell_id: str) -> str | None:
        """Return the digest of a cell's lock; only those that a record names are read."""
        lock = files.lock(cells[cell_id]) if cell_id in cells else None
        return None if lock is None else lock_digest(lock)

    def unchanged(one: AnyRecord) -> bool:
        if not isinstance(one, AuditRecord) or one.lock_digest is None:
            return True
        return current(one.cell) in (None, one.lock_digest)

    shipped = intact_records(resources.example()) if files.root != resources.example() else []
    return [
        *(one for one in shipped if one.lock_digest is not None and one.lock_digest == current(one.cell)),
        *(one for one in intact_records(files.root) if unchanged(one)),
    ]


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
    from assay.cli.audit_composition import make_auditor, progress

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


def platforms_for(matrix: Matrix, target: str, *, here: bool = False) -> frozenset[Platform]:
    """Return the platforms of images for a GPU: this machine's if such a GPU is or could be in it, else the GPU's."""
    from assay.cli.targets import platforms_of

    mine = Platform.of(platform.machine())
    found = matrix.targets.get(target)
    known = frozenset((found and (found.platforms or platforms_of(found.compute_capability))) or (mine,))
    return frozenset({mine}) if here or mine in known else known


def options_of(
    cells: Iterable[Cell],
    records: Sequence[AnyRecord],
    root: Path,
    *,
    here: Container[str] = (),
    engine: Engine | None = None,
) -> list[Option]:
    """Return cells that have a server as images to choose from.

    Args:
        here: references that the engine holds.
        engine: tells the digests of those; without it the newest recorded digest counts.
    """
    from assay.adapters.files.serving import load_server_flags
    from assay.serving.choice import Option

    engines = load_server_flags(resources.find("knowledge", "server_flags.yaml", root)).engines
    found: list[Option] = []
    for cell in cells:
        if cell.engine not in engines:
            continue
        version = cell.point.get(cell.engine)
        mine = cell.local_reference in here
        image = engine.image(cell.local_reference) if mine and engine is not None else None
        measured = [one for one in records if one.cell == cell.id and one.image_digest is not None]
        newest = max(measured, key=lambda one: one.created).image_digest if measured else None
        found.append(
            Option(
                cell=cell.id,
                image=cell.image,
                reference=cell.local_reference,
                engine=engines[cell.engine],
                version=(version.version if version else None) or "",
                digest=image.digest if image is not None else newest,
                platform=cell.platform,
                cuda=cell.value("cuda") or "",
                where="here" if mine else "to be built",
            )
        )
    return found


def all_claims(root: Path) -> list[Claim]:
    """Read what documents say: the ledgers of the images, and the serving claims that no ledger has."""
    from assay.adapters.files.regular import read_config
    from assay.adapters.files.serving import load_claims
    from assay.evidence import claims as ledger

    made: list[Claim] = []
    for path in sorted((root / "images").glob("*/claims.yaml")):
        try:
            made += ledger.read(read_config(path), file=str(path.relative_to(root)), image=path.parent.name)
        except ConfigError as error:
            console.warn(f"claims are left out: {error.message}")
    told = {(claim.feature, claim.target, claim.engine, claim.date) for claim in made}
    try:
        serving = load_claims(resources.find("knowledge", "serving_claims.yaml", root))
    except ConfigError as error:
        console.warn(f"claims are left out: {error.message}")
        serving = ()
    return [*made, *(one for one in serving if (one.feature, one.target, one.engine, one.date) not in told)]
