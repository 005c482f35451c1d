"""The composition root of pools: which adapter serves which pool of pools.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
    from assay.pipeline.audit import Auditor
    from assay.pipeline.audit_farm import AuditFarm
    from assay.ports.builder import Builder
    from assay.ports.pools import PoolItem, ProbePool

__all__ = [
    "audit_farm",
    "build_registry",
    "pool_bases",
    "pool_builder",
    "pool_inventories",
    "pool_room",
    "pool_suite",
    "probe_pool",
    "shipped_suite",
]


def _buildkit_pool(files: ProjectFiles, name: str) -> BuildkitPool:
    """Return a pool that builds.

    Raises:
        UsageError: there is no such pool, or it does not build.
    """
    from assay.matrix.pools import FILE, BuildkitPool

    given = files.pools()
    found = given.pool(name)
    if not isinstance(found, BuildkitPool):
        able = [other for other, pool in given.pools.items() if isinstance(pool, BuildkitPool)]
        hint = f"name one that does: {', '.join(able)}" if able else f"add a pool with `kind: buildkit` to {FILE}"
        raise UsageError(f"the pool {name} is of kind {found.kind}, which does not build images", hint=hint)
    return found


def build_registry(files: ProjectFiles, name: str) -> str:
    """Return where the builders of a pool push, `{image}` in it; the registry has answered.

    Raises:
        UsageError: there is no such pool, it does not build, or pools.yaml names no registry.
        RegistryError: the registry does not answer, or refuses.
    """
    from assay.adapters.registry.client import connect
    from assay.matrix.pools import FILE

    _buildkit_pool(files, name)
    registry = files.pools().registry
    if registry is None:
        raise UsageError(
            f"{FILE} names no registry, and the builders of {name} have nowhere to push images",
            hint=f"add `registry: HOST/PATH/{{image}}` to {FILE}, with a host that this machine and the builders reach",
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
    """Return how many cells the builders of a pool build at the same time."""
    return _buildkit_pool(files, name).room


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


def shipped_suite(root: Path) -> tuple[dict[str, bytes], str]:
    """Return the probe programs of a project, and their digest."""
    from assay.adapters.executors.probe_suite import digest_of_suite, load_suite

    suite = load_suite(root)
    return suite, digest_of_suite(suite)
