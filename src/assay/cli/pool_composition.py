"""The composition root of pools: which adapter serves which pool of pools.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay.adapters.files.project import ProjectFiles
from assay.cli import console
from assay.errors import RegistryError, UsageError
from assay.evidence.reference import Repository
from assay.foundation.platforms import Platform
from assay.matrix.model import Base, BootstrapBase, Matrix

if TYPE_CHECKING:
    from assay.cli.build_route import BuildRoute
    from assay.evidence.suite import Declaration
    from assay.matrix.pools import BuildkitPool
    from assay.pipeline.assembly.assemble import Assembler
    from assay.pipeline.assembly.builder import AssemblingBuilder
    from assay.pipeline.assembly.on_workers import AssembleJob, WorkerBuilder
    from assay.pipeline.audit import Auditor
    from assay.pipeline.audit_farm import AuditFarm
    from assay.ports.builder import Builder
    from assay.ports.pools import PoolItem, ProbePool

__all__ = [
    "assembles",
    "audit_farm",
    "build_registry",
    "gpus_of",
    "pool_bases",
    "pool_builder",
    "pool_inventories",
    "pool_room",
    "pool_suite",
    "probe_pool",
    "pushing_builder",
    "shared_layers",
    "worker_builder",
]

_WORKERS: Final = 16
"""Images that are assembled at the same time, where pools.yaml has no `at_once`."""


def _buildkit_pool(files: ProjectFiles, name: str) -> BuildkitPool:
    """Return a pool that builds.

    Raises:
        UsageError: there is no such pool, or it does not build.
    """
    from assay.matrix.pools import FILE, BuildkitPool

    given = files.pools()
    found = given.pool(name)
    if not isinstance(found, BuildkitPool):
        able = [other for other, pool in given.pools.items() if pool.kind in {"buildkit", "slurm"}]
        hint = (
            f"name one that does: {', '.join(able)}"
            if able
            else f"add a pool with `kind: buildkit` or `slurm` to {FILE}"
        )
        raise UsageError(f"the pool {name} is of kind {found.kind}, which does not build images", hint=hint)
    return found


def gpus_of(files: ProjectFiles, name: str) -> tuple[str, ...]:
    """Return the GPU products of a pool; of this machine without any in pools.yaml, one for what its driver shows."""
    from assay.adapters.executors import this_machine
    from assay.matrix.pools import LocalPool

    pool = files.pools().pool(name)
    if pool.gpus or not isinstance(pool, LocalPool):
        return pool.gpus
    return ("gpu",) if this_machine.cuda_devices_in_child()[0] else ()


def assembles(files: ProjectFiles, name: str) -> bool:
    """Return whether a pool has workers, which assemble images, and no builders."""
    return files.pools().pool(name).kind == "slurm"


def shared_layers(files: ProjectFiles, name: str) -> Path | None:
    """Return the folder of layers that this machine and the workers of a pool share; None for the usual one."""
    from assay.matrix.pools import SlurmPool

    pool = files.pools().pool(name)
    return Path(pool.folder) / "layers" if isinstance(pool, SlurmPool) else None


def worker_builder(files: ProjectFiles, route: BuildRoute, here: AssemblingBuilder, layers: Path) -> WorkerBuilder:
    """Return what has images assembled by the workers of a pool.

    Args:
        files: the project.
        route: names the pool.
        here: builds on this machine.
        layers: the folder of layers.
    """
    from assay.adapters.pools.workers import workers_of
    from assay.adapters.registry.client import connect
    from assay.pipeline.assembly.on_workers import LayerRules, WorkerBuilder, WorkerLimits
    from assay.pipeline.spreading import name_pushed

    name = route.on or ""
    pool, root = files.pools().pool(name), files.root.absolute()
    return WorkerBuilder(
        pool=workers_of(name, pool, root / "build_logs" / ".pool", "assay.cli.assemble_worker"),
        here=here,
        name=partial(name_pushed, connect()),
        project=str(root),
        layers=LayerRules(folder=str(layers.absolute()), packing=route.packing, largest=route.largest),
        limits=WorkerLimits(attempts=pool.attempts, patience=pool.patience),
        say=console.warn,
    )


def pushing_builder(files: ProjectFiles, matrix: Matrix, job: AssembleJob) -> AssemblingBuilder:
    """Return what assembles the image of a job on this machine, without an engine, and pushes it by digest."""
    from assay.adapters.registry.client import connect
    from assay.cli.composition import assembler_of, engine, layer_store
    from assay.pipeline.assembly.builder import AssemblingBuilder
    from assay.pipeline.assembly.destinations import ByDigest

    store = layer_store(Path(job.layers.folder))
    made = assembler_of(matrix, store, engine(), files.root)
    assembler = replace(made, packing=job.layers.packing, largest=job.layers.largest, sources=None)
    destination = ByDigest(connect(), Repository.parse(job.repository), store, job.layers.packing)
    return AssemblingBuilder(assembler, destination, None)


def build_registry(files: ProjectFiles, name: str) -> str:
    """Return where the builders of a pool push, `{image}` in it; the registry has answered.

    Raises:
        UsageError: there is no such pool, it does not build, or pools.yaml names no registry.
        RegistryError: the registry does not answer, or refuses.
    """
    from assay.adapters.registry.client import connect
    from assay.matrix.pools import FILE

    if not assembles(files, name):
        _buildkit_pool(files, name)
    registry = files.pools().registry
    if registry is None:
        raise UsageError(
            f"{FILE} names no registry, so the machines of {name} cannot push images",
            hint=f"add `registry: HOST/PATH/{{image}}` to {FILE}, with a host that this machine and they reach",
        )
    try:
        connect().resolve(Repository.parse(registry.replace("{image}", "image")), "latest")
    except RegistryError as error:
        raise RegistryError(
            f"`registry: {registry}` of {FILE} cannot be used: {error.message}",
            hint=f"correct it in {FILE}, start that registry, or `docker login` to it",
        ) from error
    return registry


def pool_room(files: ProjectFiles, name: str) -> int:
    """Return how many cells a pool builds at the same time."""
    pool = files.pools().pool(name)
    return min(pool.at_once or _WORKERS, 64) if assembles(files, name) else _buildkit_pool(files, name).room


def pool_builder(
    files: ProjectFiles, name: str, patience: float | None
) -> tuple[Callable[[Sequence[str]], None], Builder]:
    """Return what asks the builders of a pool and raises EngineMissing if none answers, and what builds on them."""
    from assay.adapters.docker.buildx import Buildx
    from assay.adapters.docker.retried import RetriedBuilder
    from assay.adapters.pools.buildkit import build_hosts
    from assay.adapters.registry.client import connect
    from assay.pipeline.spreading import SpreadBuilder, SpreadLimits, name_pushed
    from assay.ports.builder import PATIENCE

    pool = _buildkit_pool(files, name)
    spread = SpreadBuilder(
        build_hosts(pool),
        name=partial(name_pushed, connect()),
        by_hand=Buildx(),
        what=name,
        limits=SpreadLimits(each=pool.per_endpoint, patience=pool.patience, attempts=pool.attempts),
        say=console.warn,
    )
    return spread.open, RetriedBuilder(spread, patience=PATIENCE if patience is None else patience)


def pool_bases(
    route: BuildRoute, assembler: Assembler
) -> Callable[[str, Base, Platform, Callable[[str], None]], str | None]:
    """Return what pushes bases that no registry has to where the builders of a pool see them."""

    def ensure(name: str, base: Base, platform: Platform, say: Callable[[str], None]) -> str | None:
        from assay.adapters.registry.client import connect
        from assay.matrix.render import base_reference
        from assay.pipeline.assembly.push_base import push_base

        if not isinstance(base, BootstrapBase):
            return None
        repository = Repository.parse((route.push or "").replace("{image}", f"base-{name}"))
        reference = base_reference(name, base, None, platform)
        return push_base(reference, assembler.bases, assembler.store, connect(), repository, say=say)

    return ensure


def probe_pool(files: ProjectFiles, name: str, *, interpreter: str | None = None) -> ProbePool:
    """Return what runs probes on a pool of pools.yaml.

    Raises:
        UsageError: there is no such pool, or it runs nothing.
    """
    from assay.adapters.pools import table

    return table.probe_pool(name, files.pools().pool(name), files.root / "build_logs" / ".pool", python=interpreter)


def audit_farm(
    files: ProjectFiles, name: str, *, facts: Path | None, quick: bool, make: Callable[..., Auditor]
) -> AuditFarm:
    """Return what audits cells on a pool of pools.yaml.

    Args:
        files: the project.
        name: the pool's.
        facts: folder of cached wheel facts; none: the shared folder's, or on this machine the usual one.
        quick: see `Auditor`.
        make: makes an auditor over a folder of facts (`facts=`).

    Raises:
        UsageError: there is no such pool, or its machines share no folder with this one.
    """
    from assay.adapters.pools.workers import workers_of
    from assay.matrix.pools import SlurmPool
    from assay.pipeline.audit_farm import AuditFarm, FarmLimits

    pool = files.pools().pool(name)
    workers = workers_of(name, pool, files.root.absolute() / "build_logs" / ".pool")
    shared = facts or (Path(pool.folder) / "facts" if isinstance(pool, SlurmPool) else None)
    return AuditFarm(
        pool=workers,
        make=partial(make, facts=shared),
        project=str(files.root.absolute()),
        facts=str(shared.absolute()) if shared else None,
        quick=quick,
        limits=FarmLimits(attempts=pool.attempts, patience=pool.patience),
        say=console.say,
    )


def pool_inventories(files: ProjectFiles, matrix: Matrix) -> Iterator[tuple[str, Sequence[PoolItem]]]:
    """Yield each pool of pools.yaml with what it has and what is missing."""
    from assay.adapters.pools import buildkit, table
    from assay.matrix.pools import BuildkitPool

    given = files.pools()
    template = given.registry or matrix.policy.repositories.staging
    registry = Repository.parse(template.replace("{image}", "image")).host
    for name, pool in given.pools.items():
        if isinstance(pool, BuildkitPool):
            yield name, buildkit.inventory(pool)
        else:
            yield name, table.probe_pool(name, pool, files.root / "build_logs" / ".pool").inventory(registry)


def pool_suite(folder: Path) -> tuple[bytes, dict[str, Declaration]]:
    """Return the probe programs of a folder as they are sent to pools, and what they declare, by feature."""
    from assay.adapters.executors.probe_suite import suite_in
    from assay.adapters.pools.bundle import suite_zip
    from assay.evidence.suite import declarations

    suite = suite_in(folder)
    texts = {path: data.decode() for path, data in suite.items() if path.startswith("features/")}
    return suite_zip(suite), declarations(texts)
