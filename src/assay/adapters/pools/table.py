"""The kinds of pools. To add one: a module, its entry in `assay.matrix.pools`, and one line here."""

from __future__ import annotations

from pathlib import Path

from assay.adapters.pools.contexts import ContextsProbePool
from assay.adapters.pools.kubernetes import KubernetesProbePool
from assay.adapters.pools.local import LocalProbePool
from assay.adapters.pools.slurm import SlurmProbePool
from assay.errors import UsageError
from assay.matrix.pools import BuildkitPool, KubernetesPool, LocalPool, Pool, SlurmPool, SshPool
from assay.ports.pools import ProbePool

__all__ = ["probe_pool"]


def probe_pool(name: str, pool: Pool, root: Path, *, python: str | None = None) -> ProbePool:
    """Return what runs probes on a pool.

    Args:
        name: its name, for messages.
        pool: its entry in pools.yaml.
        root: a folder of this machine for the jobs of local pools.
        python: the interpreter that is probed where there is no image.

    Raises:
        UsageError: it builds, and runs nothing.
    """
    match pool:
        case LocalPool():
            return LocalProbePool(pool, root, python=python)
        case SshPool():
            return ContextsProbePool(pool)
        case SlurmPool():
            return SlurmProbePool(pool)
        case KubernetesPool():
            return KubernetesProbePool(pool)
        case BuildkitPool():
            raise UsageError(f"the pool {name} builds images; probes need one with GPUs")
