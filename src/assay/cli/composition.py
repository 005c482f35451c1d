"""The composition root: which adapter serves which port of the pipeline's steps.

Adapters that only some runs need are imported where they are made, so that a command loads no more than it uses.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.adapters.host import settings
from assay.audit.judgement import AuditJudgement
from assay.cli import console
from assay.evidence.reference import Reference, Repository
from assay.foundation.outcome import Severity, Verdict
from assay.matrix import plan as planning
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.loading import Project
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.model import Base, BootstrapBase, Index, Matrix
from assay.matrix.plan import Plan

if TYPE_CHECKING:
    from assay.adapters.docker.engine import DockerEngine
    from assay.adapters.layers.store import FolderStore
    from assay.audit.findings import Finding
    from assay.evidence.record import BuildRecord, ProbeRecord
    from assay.pipeline.assembly.assemble import Assembled, Assembler
    from assay.pipeline.bisect import BisectPorts
    from assay.pipeline.build_jobs import BuildOptions, BuildPorts, DiskSpace, ImageJudge, Judge
    from assay.pipeline.doctor import DoctorFlow
    from assay.pipeline.lock import LockPorts, LockResult
    from assay.pipeline.pool import PoolListener
    from assay.pipeline.probe import ProbeFlow
    from assay.ports.executor import Executor

__all__ = [
    "AssemblyTools",
    "assembly_tools",
    "bisect_ports",
    "build_options",
    "build_ports",
    "doctor",
    "engine",
    "index_versions",
    "keep_lock",
    "lock_ports",
    "probe_flow",
    "probe_programs",
    "store_of",
]


def store_of(files: ProjectFiles) -> FileStore:
    """Return the store of a project's records: build_logs/."""
    return FileStore(files.root / "build_logs")


def engine() -> DockerEngine:
    """Return the container engine of this machine."""
    from assay.adapters.docker.engine import DockerEngine

    return DockerEngine()


def doctor(matrix: Matrix | None) -> DoctorFlow:
    """Return what checks this machine, and the indexes of a matrix, if there is one."""
    from assay.adapters.host.info import LocalHost
    from assay.adapters.index.simple import SimpleIndex
    from assay.pipeline.doctor import DoctorFlow

    index = SimpleIndex(matrix.indexes) if matrix is not None else SimpleIndex()
    return DoctorFlow(engine(), LocalHost(), index, partial(digest_of_image, patient=False))


def probe_programs(files: ProjectFiles) -> dict[str, str]:
    """Return the texts of the probe programs, by path."""
    from assay.adapters.executors.probe_suite import load_suite

    suite = load_suite(files.root)
    return {path: data.decode() for path, data in suite.items() if path.startswith("features/")}


def index_versions(distribution: str, index: Index) -> Sequence[str]:
    """Return the versions that an index has of a distribution.

    Raises:
        PackageIndexError: the index could not be asked.
    """
    from assay.adapters.index.simple import versions

    return versions(distribution, index)


def digest_of_image(reference: str, *, patient: bool = True) -> str:
    """Return the digest that a registry, or a mirror that the host settings name, gives for a reference.

    Args:
        reference: an image.
        patient: ask again, for half a minute, a registry that does not answer.

    Raises:
        RegistryError: the registry could not be asked or does not have it.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.registry.client import resolve_digest

    return resolve_digest(str(Reference.parse(reference).mirrored(settings.mirrors())), patient=patient)


def lock_ports(files: ProjectFiles, plan: Plan, *, audit: bool) -> LockPorts:
    """Return the ports of the lock step: uv resolves, and new locks are audited by metadata and symbols."""
    from assay.adapters.index.uv import UvResolver
    from assay.pipeline.lock import LockPorts

    def auditor() -> Callable[[Cell, Lock], Sequence[Finding]]:
        from assay.cli.auditing import make_auditor, progress

        matrix = plan.project.matrix
        # Quick: locking must not fetch gigabytes of GPU code.
        made = make_auditor(matrix.indexes, root=files.root, quick=True, tell=progress())
        return lambda cell, lock: made.cell(cell, lock, matrix).of(Severity.ERROR)

    return LockPorts(
        resolver=UvResolver(),
        versions=index_versions,
        digests=digest_of_image,
        judge=auditor() if audit else None,
    )


def keep_lock(files: ProjectFiles, result: LockResult) -> None:
    """Write what a result of the lock step changes in the project: lock, reason, added constraints."""
    from assay.pipeline.cell_files import cell_files

    if result.repairs:
        files.add_constraints(result.cell, result.repairs)
    for path, text in cell_files(files, result).items():
        files.write(path, text)


def build_ports(
    files: ProjectFiles,
    plan: Plan,
    images: DockerEngine,
    listener: PoolListener[BuildRecord],
    *,
    builder: str | None = None,
    patience: float | None = None,
    audit: bool = True,
) -> BuildPorts:
    """Return the ports of the build step: BuildKit builds, and wheels and images are audited.

    Args:
        files: the project.
        plan: its plan.
        images: the engine that holds the images.
        listener: shows progress.
        builder: a buildx builder; None for the selected one.
        patience: seconds to retry when the builder or a registry fails; None for the default.
        audit: audit wheels and images.
    """
    from assay.adapters.docker.buildx import Buildx
    from assay.adapters.docker.retried import RetriedBuilder
    from assay.pipeline.build_jobs import BuildPorts
    from assay.ports.builder import PATIENCE

    matrix = plan.project.matrix
    templates = files.templates()

    def render_cell(cell: Cell, lock: Lock) -> str:
        return render.dockerfile(cell, lock, matrix.bases[cell.base], indexes=matrix.indexes, templates=templates)

    def ensure_base(name: str, base: Base, say: Callable[[str], None]) -> None:
        from assay.adapters.docker.bootstrap import DebootstrapBases

        # A registry's base is pulled by BuildKit itself, by the digest in the lock.
        if isinstance(base, BootstrapBase):
            DebootstrapBases(images).ensure(base, render.base_reference(name, base, None), progress=say)

    judge, judge_image = _judges(files, plan, images)
    buildx = Buildx(builder=builder, zstd=lambda: images.info().image_store == "containerd")
    return BuildPorts(
        bases=matrix.bases,
        ensure_base=ensure_base,
        render_cell=render_cell,
        builder=RetriedBuilder(buildx, patience=PATIENCE if patience is None else patience),
        images=images,
        store=store_of(files),
        judge=judge if audit else None,
        judge_image=judge_image if audit else None,
        diagnose=lambda log: _cause_of_build(log, files.root),
        space=_disk_space(images),
        listener=listener,
    )


def _judges(files: ProjectFiles, plan: Plan, images: DockerEngine) -> tuple[Judge, ImageJudge]:
    """Return the audits before and after a build; what they need is loaded when something is built."""

    @cache
    def made() -> tuple[Judge, ImageJudge]:
        from assay.cli.auditing import judges

        return judges(files.root, plan.project.matrix, store_of(files), images)

    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement | None:
        return made()[0](cell, lock, run)

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement | None:
        return made()[1](cell, lock, reference, run)

    return judge, judge_image


def build_options(files: ProjectFiles) -> BuildOptions:
    """Return how this machine builds: its secrets, proxies and mirrors, and the revision of the recipes."""
    from assay.adapters.host import git
    from assay.pipeline.build_jobs import BuildOptions

    return BuildOptions(
        secrets=settings.secrets(),
        build_args=settings.build_args(),
        mirrors=settings.mirrors(),
        revision=git.revision(files.root),
    )


def _cause_of_build(log: Path, project: Path) -> str | None:
    """Return the most likely cause of a failed build, an entry of knowledge/failures/."""
    from assay.diagnose import Stage, default_library, diagnose

    with log.open("rb") as stream:
        found = diagnose(stream, library=default_library(project), stage=Stage.BUILD)
    return found[0].cause if found else None


def _disk_space(images: DockerEngine) -> Callable[[], DiskSpace | None]:
    """Return what looks at the free space of the engine; it returns None if that cannot be seen from here."""
    from assay.adapters.host.info import LocalHost
    from assay.pipeline.disk import engine_space

    info = cache(images.info)

    def space() -> DiskSpace | None:
        # The folder of an engine in a virtual machine is on no file system of this one.
        return engine_space(info(), LocalHost()) if Path(info().root_dir).exists() else None

    return space


@dataclass(frozen=True, kw_only=True)
class AssemblyTools:
    """Makes images of wheels, and sends them where they go."""

    assembler: Assembler
    store: FolderStore
    engine: DockerEngine

    def write(self, image: Assembled, folder: Path, name: str) -> None:
        """Add an image to an OCI layout."""
        from assay.adapters.layers.layout import write_layout

        blobs = [layer.stored.layer.digest for layer in image.layers]
        write_layout(folder, name, image.manifest, image.config, blobs=blobs, blob=self.store.blob)

    def push(self, image: Assembled, repository: Repository, tag: str) -> None:
        """Upload what a registry lacks."""
        from assay.adapters.registry.client import connect
        from assay.pipeline.assembly.deliver import push

        def opened(digest: str) -> BinaryIO:
            return self.store.blob(digest).open("rb")

        push(image, connect(), repository, tag, opened=opened, say=console.say)

    def load(self, image: Assembled, reference: str) -> None:
        """Load an image into the engine."""
        from assay.adapters.docker.oci_archive import full_name

        with tempfile.TemporaryDirectory(dir=self.store.folder, prefix="load-") as scratch:
            folder = Path(scratch) / "layout"
            self.write(image, folder, full_name(reference))
            archive = shutil.make_archive(str(Path(scratch) / "image"), "tar", folder)
            self.engine.load(Path(archive))


def assembly_tools(plan: Plan, layers: Path | None) -> AssemblyTools:
    """Return what assembles images and sends them where they go.

    Args:
        plan: its matrix names indexes and bases.
        layers: where layers are kept; the user's cache folder without it.
    """
    from assay.adapters.docker.bootstrap import DebootstrapBases
    from assay.adapters.docker.engine import DockerEngine
    from assay.adapters.index.simple import SimpleIndex, WebWheels
    from assay.adapters.layers.bases import BootstrappedBases
    from assay.adapters.layers.store import FolderStore, default_folder
    from assay.adapters.layers.wheels import IndexWheels
    from assay.pipeline.assembly.assemble import Assembler

    matrix, engine, store = plan.project.matrix, DockerEngine(), FolderStore(layers or default_folder())
    names = {index.url: name for name, index in matrix.indexes.items() if index.url is not None}
    assembler = Assembler(
        wheels=IndexWheels(SimpleIndex(matrix.indexes), WebWheels(), names, store.folder),
        bases=BootstrappedBases(matrix.bases, store, DebootstrapBases(engine)),
        store=store,
        say=console.say,
    )
    return AssemblyTools(assembler=assembler, store=store, engine=engine)


def bisect_ports(
    files: ProjectFiles, project: Project, *, tell: Callable[[LockResult], None], say: Callable[[str], None]
) -> BisectPorts:
    """Return the steps that test the cells of a project, one at a time.

    Args:
        files: where the locks of these cells are kept.
        project: the cells.
        tell: shows how locking a cell ended.
        say: shows what the other steps do.
    """
    from assay.cli.progress import BuildProgress
    from assay.pipeline.bisect import BisectPorts
    from assay.pipeline.build import build
    from assay.pipeline.build_jobs import prepare
    from assay.pipeline.cell_files import locked_cells
    from assay.pipeline.lock import lock

    plan = planning.make(project)
    images, store = engine(), store_of(files)
    locking = lock_ports(files, plan, audit=True)

    def lock_one(cell: Cell) -> LockResult:
        (result,) = lock(locked_cells(files, [cell]), plan.project.matrix, locking)
        keep_lock(files, result)
        tell(result)
        return result

    def audit_one(item: LockedCell) -> Verdict:
        from assay.cli.auditing import make_auditor, progress
        from assay.pipeline.audit_cells import AuditPorts, audit

        auditor = make_auditor(plan.project.matrix.indexes, root=files.root, tell=progress())
        (report,) = audit([item], plan.project.matrix, AuditPorts(auditor=auditor, store=store))
        return report.verdict

    def build_one(item: LockedCell) -> BuildRecord:
        with BuildProgress(1) as progress:
            ports = build_ports(files, plan, images, progress)
            (record,) = build(prepare([item], ports), ports, build_options(files))
        return record

    def probe_one(cell: Cell, feature: str) -> Sequence[ProbeRecord]:
        from assay.pipeline.probe import ProbeOptions
        from assay.pipeline.probe_subjects import subjects_of

        flow, executor = probe_flow(files.root, say=say)
        subjects = subjects_of((cell.id,), plan, store, executor, warn=say)
        return flow.run(subjects, ProbeOptions(features=(feature,)))

    return BisectPorts(
        lock=lock_one,
        audit=audit_one,
        build=build_one,
        probe=probe_one,
        records=store.records,
        say=say,
    )


def probe_flow(
    root: Path, *, say: Callable[[str], None], where: str = "docker", interpreter: str | None = None
) -> tuple[ProbeFlow, Executor]:
    """Return what probes images for a project, and the executor that it probes with."""
    from assay.adapters.executors.gpu_leases import FileLeases
    from assay.adapters.executors.probe_executor import ExecutorSettings
    from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite, load_suite
    from assay.adapters.executors.table import EXECUTORS
    from assay.pipeline.probe import ProbeFlow

    suite, store = load_suite(root), FileStore(root / "build_logs")
    settings = ExecutorSettings(suites=ProbeSuites(suite), cache=store.root / ".jit", python=interpreter)
    executor = EXECUTORS[where](settings)
    flow = ProbeFlow(
        executor=executor,
        leases=FileLeases(),
        store=store,
        suite=suite,
        suite_digest=digest_of_suite(suite),
        diagnose=lambda text: _cause_of_probe(text, root),
        say=say,
    )
    return flow, executor


def _cause_of_probe(text: str, project: Path) -> str | None:
    """Return the most likely cause of a failed probe, an entry of knowledge/failures/."""
    from assay.diagnose import Stage, default_library, diagnose

    found = diagnose(text.encode(), library=default_library(project), stage=Stage.PROBE)
    return found[0].cause if found else None
