"""Builds the auditor that `assay audit`, `assay build` and `assay facts` share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from assay.adapters.files.cache import cache_folder
from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.verdicts import VerdictFiles
from assay.adapters.host.demangle import demangle
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.index.uv import UvResolver
from assay.audit.judgement import AuditJudgement
from assay.cli import console
from assay.cli.assembly_composition import SharedWheels
from assay.foundation.outcome import Severity, Verdict
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.model import Index, Matrix
from assay.matrix.plan import Plan
from assay.pipeline.audit import Auditor, judgement, keep_record
from assay.pipeline.audit_image import AuditedImages, audit_image
from assay.pipeline.bases import gpu_targets
from assay.pipeline.build_jobs import ImageJudge, Judge
from assay.pipeline.find import FindPorts
from assay.pipeline.propose import ProposalPorts
from assay.pipeline.read_wheel import Progress
from assay.ports.index import PackageIndex
from assay.ports.layers import LayerStore
from assay.ports.store import Store
from assay.ports.wheel_source import WheelSource

__all__ = ["find_ports", "judges", "make_auditor", "progress", "proposal_ports"]

EVERY_SECONDS = 2.0
WORTH_TELLING = 30 << 20


def make_auditor(
    indexes: Mapping[str, Index],
    *,
    root: Path | None = None,
    facts: Path | None = None,
    quick: bool = False,
    tell: Progress | None = None,
    index: PackageIndex | None = None,
    wheels: WheelSource | None = None,
) -> Auditor:
    """Return an auditor over the package indexes of a matrix and the facts kept on this machine.

    Args:
        indexes: those of matrix.yaml; none: the client's default alone.
        root: the project, whose knowledge/ comes before the one assay ships.
        facts: folder of known facts.
        quick: see `Auditor`.
        tell: progress of long reads.
        index: asked in place of these indexes.
        wheels: opens wheels in place of the web.
    """
    return Auditor(
        index=SimpleIndex(indexes) if index is None else index,
        wheels=WebWheels() if wheels is None else wheels,
        facts=FactsCache(facts),
        verdicts=VerdictFiles(facts / ".verdicts" if facts else cache_folder() / "verdicts"),
        knowledge=load_knowledge(root),
        quick=quick,
        demangle=demangle,
        progress=tell,
    )


def find_ports(index: PackageIndex, auditor: Auditor) -> FindPorts:
    """Return the ports of a search for what fits: uv resolves, and the auditor reads and judges.

    Args:
        index: where releases are looked up.
        auditor: over the same index.
    """
    ended = threading.Event()
    return FindPorts(index=index, resolver=UvResolver(stop=ended), auditor=auditor, say=console.say, stop=ended)


def proposal_ports(files: ProjectFiles, plan: Plan, facts: Path | None) -> ProposalPorts:
    """Return the ports of proposals: new locks are audited with all that is known of their wheels."""
    from assay.cli.composition import lock_ports

    matrix = plan.project.matrix
    index = SimpleIndex(matrix.indexes)
    auditor = make_auditor(matrix.indexes, root=files.root, facts=facts, tell=progress(), index=index)
    locking = replace(
        lock_ports(files, plan, audit=False),
        judge=lambda cell, lock: auditor.cell(cell, lock, matrix).of(Severity.ERROR),
    )
    return ProposalPorts(find=find_ports(index, auditor), lock=locking)


def judges(
    root: Path, matrix: Matrix, store: Store, engine: AuditedImages, *, layers: LayerStore, wheels: SharedWheels
) -> tuple[Judge, ImageJudge]:
    """Return what `assay build` asks before it builds a cell, and of what it built.

    Args:
        root: the project.
        matrix: its matrix.
        store: keeps the records.
        engine: holds the images.
        layers: tells what is in an image of known layers, which is not read then.
        wheels: are kept, where they are read whole, until the image is made or the cell is refused.
    """
    kept = wheels.kept
    auditor = make_auditor(matrix.indexes, root=root, index=wheels.index, wheels=kept)

    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement | None:
        found = auditor.judge(cell, lock, matrix, store=store, run=run)
        if found is not None and found.verdict is Verdict.FAIL:
            kept.drop(wheel.sha256 for wheel in lock.wheels)
        return found

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement | None:
        kept.drop(wheel.sha256 for wheel in lock.wheels)
        gpus = gpu_targets(matrix, cell.targets)
        report = audit_image(engine, reference, auditor, targets=gpus, name=cell.id, lock=lock, layers=layers)
        info = engine.image(reference)
        keep_record(store, report, run=run, cell=cell, image_digest=info.digest if info else None)
        return judgement(report)

    return judge, judge_image


def progress(say: Callable[[str], None] = console.say) -> Progress:
    """Return a listener that tells of long reads, a line every few seconds for each wheel."""
    told: dict[str, float] = {}

    def tell(name: str, done: int, total: int) -> None:
        if not console.shows_progress():
            return
        now = time.monotonic()
        if total < WORTH_TELLING or now - told.setdefault(name, now) < EVERY_SECONDS:
            return
        told[name] = now
        say(f"  reading {name}: {done >> 20} of {total >> 20} MiB")

    return tell
