"""The composition root of pools: which adapter serves which pool of pools.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay.adapters.files.project import ProjectFiles
from assay.evidence.reference import Repository
from assay.matrix.model import Matrix

if TYPE_CHECKING:
    from assay.evidence.suite import Declaration
    from assay.ports.pools import PoolItem, ProbePool

__all__ = ["pool_inventories", "pool_suite", "probe_pool", "shipped_suite"]


def probe_pool(files: ProjectFiles, name: str, *, interpreter: str | None = None) -> ProbePool:
    """Return what runs probes on a pool of pools.yaml.

    Raises:
        UsageError: there is no such pool, or it runs nothing.
    """
    from assay.adapters.pools import table

    return table.probe_pool(name, files.pools().pool(name), files.root / "build_logs" / ".pool", python=interpreter)


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
