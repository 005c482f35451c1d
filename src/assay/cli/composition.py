"""The composition root: which adapter serves which port of the pipeline's steps.

Adapters that only some runs need are imported where they are made, so that a command loads no more than it uses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.adapters.host import settings
from assay.audit.judgement import AuditJudgement
from assay.cli.assembly_composition import assembler_of, wheels_of
from assay.cli.build_route import BuildRoute
from assay.cli.registry_composition import digest_for_platform, digest_of_image
from assay.evidence.oci import Descriptor, Manifest
from assay.foundation.outcome import Severity, Verdict
from assay.foundation.platforms import Platform
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
    from assay.cli.assembly_composition import SharedWheels
    from assay.evidence.record import BuildRecord, ProbeRecord
    from assay.pipeline.assembly.builder import AssemblingBuilder
    from assay.pipeline.assembly.destinations import Destination
    from assay.pipeline.assembly.on_workers import WorkerBuilder
    from assay.pipeline.audit_image import AuditedImages
    from assay.pipeline.bisect import BisectPorts
    from assay.pipeline.build_jobs import BuildOptions, BuildPorts, DiskSpace, ImageJudge, Judge
    from assay.pipeline.doctor import DoctorFlow
    from assay.pipeline.lock import LockPorts, LockResult
    from assay.pipeline.pool import PoolListener
    from assay.ports.builder import Builder

__all__ = [
    "assembler_of",
    "bisect_ports",
    "build_options",
    "build_ports",
    "destination_of",
    "digests_of",
    "doctor",
    "engine",
    "index_versions",
    "keep_lock",
    "layer_store",
    "lock_ports",
    "renderer",
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


def index_versions(distribution: str, index: Index) -> Sequence[str]:
    """Return the versions that an index has of a distribution.

    Raises:
        PackageIndexError: the index could not be asked.
    """
    from assay.adapters.index.simple import versions

    return versions(distribution, index)


def lock_ports(files: ProjectFiles, plan: Plan, *, audit: bool) -> LockPorts:
    """Return the ports of the lock step: uv resolves, and new locks are audited by metadata and symbols."""
    from assay.adapters.host.git import commit_of_tag
    from assay.adapters.index.uv import UvResolver
    from assay.pipeline.lock import LockPorts

    def auditor() -> Callable[[Cell, Lock], Sequence[Finding]]:
        from assay.cli.audit_composition import make_auditor, progress

        matrix = plan.project.matrix
        # Quick: locking must not fetch gigabytes of GPU code.
        made = make_auditor(matrix.indexes, root=files.root, quick=True, tell=progress())
        return lambda cell, lock: made.cell(cell, lock, matrix).of(Severity.ERROR)

    return LockPorts(
        resolver=UvResolver(),
        versions=index_versions,
        digests=digest_for_platform,
        commits=commit_of_tag,
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
    route: BuildRoute | None = None,
    patience: float | None = None,
    audit: bool = True,
) -> BuildPorts:
    """Return the ports of the build step: images are assembled or built, and wheels and images are audited.

    Args:
        files: the project.
        plan: its plan.
        images: the engine that holds the images.
        listener: shows progress.
        route: how images are made and where they go; by default what can be assembled is, into the engine.
        patience: seconds to retry when the builder or a registry fails; None for the default.
        audit: audit wheels and images.
    """
    from assay.cli import pool_composition as pools
    from assay.pipeline.assembly.builder import AssemblingBuilder
    from assay.pipeline.assembly.destinations import WithoutFiles
    from assay.pipeline.build_jobs import BuildPorts, is_assembled_anew

    matrix, route = plan.project.matrix, route or BuildRoute()
    workers = route.on is not None and pools.assembles(files, route.on)
    store = layer_store(route.layers or (pools.shared_layers(files, route.on) if route.on else None))
    destination = destination_of(route, store, images)
    wheels = wheels_of(matrix, store.folder if route.assembles else None)
    judge, judge_image = _judges(files, plan, images if route.into_engine else WithoutFiles(destination), store, wheels)
    made = assembler_of(matrix, store, images, files.root, wheels)
    sources = None if route.on else made.sources  # on a pool its builders compile, or BuildKit here
    assembler = replace(made, packing=route.packing, largest=route.largest, sources=sources)
    if route.on is None or workers:
        ready, builder, bases = None, _buildx(route, images, patience), None
    else:
        (ready, builder), bases = pools.pool_builder(files, route.on, patience), pools.pool_bases(route, assembler)
    assembling: AssemblingBuilder | WorkerBuilder | None = None
    if route.assembles:
        here = AssemblingBuilder(assembler, destination, builder if route.builds else None)
        builder = assembling = pools.worker_builder(files, route, here, store.folder) if workers else here
    return BuildPorts(
        bases=matrix.bases,
        ensure_base=bases or partial(_ensure_base, images),
        ready=ready,
        spreads=is_assembled_anew if workers else None,
        render_cell=renderer(files, matrix),
        builder=builder,
        images=destination,
        name_of=destination.name,
        assembly=assembling,
        store=store_of(files),
        judge=judge if audit else None,
        judge_image=judge_image if audit else None,
        diagnose=lambda log: _cause_of_build(log, files.root),
        space=_disk_space(images) if route.into_engine else lambda: None,
        listener=listener,
    )


def renderer(files: ProjectFiles, matrix: Matrix) -> Callable[[Cell, Lock], str]:
    """Return what renders Dockerfiles with the templates of a project."""
    templates = files.templates()

    def render_cell(cell: Cell, lock: Lock) -> str:
        return render.dockerfile(cell, lock, matrix.bases[cell.base], indexes=matrix.indexes, templates=templates)

    return render_cell


def _ensure_base(images: DockerEngine, name: str, base: Base, platform: Platform, say: Callable[[str], None]) -> None:
    """Make a base that BuildKit cannot pull; it pulls that of a registry itself, by the digest in the lock."""
    from assay.adapters.docker.bootstrap import DebootstrapBases

    if isinstance(base, BootstrapBase):
        reference = render.base_reference(name, base, None, platform)
        DebootstrapBases(images).ensure(base, reference, progress=say, platform=platform)


def _buildx(route: BuildRoute, images: DockerEngine, patience: float | None) -> Builder:
    from assay.adapters.docker.buildx import Buildx
    from assay.adapters.docker.retried import RetriedBuilder
    from assay.ports.builder import PATIENCE

    buildx = Buildx(
        builder=route.buildx, zstd=lambda: images.info().image_store == "containerd", push=route.push is not None
    )
    return RetriedBuilder(buildx, patience=PATIENCE if patience is None else patience)


def _judges(
    files: ProjectFiles, plan: Plan, images: AuditedImages, store: FolderStore, wheels: SharedWheels
) -> tuple[Judge, ImageJudge]:
    """Return the audits before and after a build; what they need is loaded when something is built."""

    @cache
    def made() -> tuple[Judge, ImageJudge]:
        from assay.cli.audit_composition import judges

        return judges(files.root, plan.project.matrix, store_of(files), images, layers=store, wheels=wheels)

    once = threading.Lock()

    def shared() -> tuple[Judge, ImageJudge]:
        # `cache` calls twice for two cells that begin at once, and two auditors would read every wheel twice.
        with once:
            return made()

    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement | None:
        return shared()[0](cell, lock, run)

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement | None:
        return shared()[1](cell, lock, reference, run)

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
        return next((one.cause for one in diagnose(stream, library=default_library(project), stage=Stage.BUILD)), None)


def _disk_space(images: DockerEngine) -> Callable[[], DiskSpace | None]:
    """Return what looks at the free space of the engine; it returns None if that cannot be seen from here."""
    from assay.adapters.host.info import LocalHost
    from assay.pipeline.disk import engine_space

    info = cache(images.info)

    def space() -> DiskSpace | None:
        # The folder of an engine in a virtual machine is on no file system of this one.
        return engine_space(info(), LocalHost()) if Path(info().root_dir).exists() else None

    return space


def layer_store(folder: Path | None = None) -> FolderStore:
    """Return the folder of layers: a given one, ASSAY_LAYERS, or that in the cache folder."""
    from assay.adapters.layers.store import FolderStore, default_folder

    return FolderStore(folder or default_folder())


def destination_of(route: BuildRoute, store: FolderStore, engine: DockerEngine) -> Destination:
    """Return where images go.

    Raises:
        UsageError: `push` names no repository.
    """
    from assay.adapters.docker.oci_archive import full_name
    from assay.adapters.layers.layout import read_layout, stream_archive, write_archive_file, write_layout
    from assay.pipeline.assembly.destinations import InEngine, InFolder, InRegistry

    if route.push is not None:
        from assay.adapters.registry.client import connect

        return InRegistry(connect(), route.push, store, route.packing)
    if route.output is not None:
        kind, _, place = route.output.partition(":")
        path = Path(place)
        if kind == "oci":
            return InFolder(partial(read_layout, path), partial(write_layout, path, blob=store.blob), route.packing)
        return InFolder(lambda _: None, partial(write_archive_file, path, opened=store.opened))

    def archive(reference: str, manifest: Manifest, config: bytes, layers: Sequence[Descriptor]) -> Iterator[bytes]:
        names = {
            "io.containerd.image.name": full_name(reference),
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        return stream_archive(names, manifest, config, layers, store.opened)

    return InEngine(engine, store, archive)


def digests_of(files: ProjectFiles, plan: Plan, select: Sequence[str]) -> dict[str, str]:
    """Return the digests that the locks of cells give, where the catalogue of layers has all of an image."""
    from assay.adapters.layers.store import default_folder
    from assay.pipeline.build_jobs import forecast
    from assay.pipeline.cell_files import locked_cells

    if not default_folder().is_dir():
        return {}
    assembler = assembler_of(plan.project.matrix, layer_store(), engine(), files.root)
    cells = [cell for cell in plan.select(select) if cell.kind == "build"]
    return forecast(locked_cells(files, cells), renderer(files, plan.project.matrix), assembler)


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
    from assay.cli.probe_composition import probe_flow
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
        from assay.cli.audit_composition import make_auditor, progress
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
