"""Workers that have assay and share a folder with this machine: jobs and what comes of them are files there."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.adapters.pools.folder import JobFolder
from assay.adapters.pools.local import LocalProbePool
from assay.adapters.pools.slurm import SlurmProbePool
from assay.errors import StoreError, UsageError
from assay.matrix.pools import LocalPool, Pool, SlurmPool
from assay.ports.jobs import MAX_BYTES
from assay.ports.pools import JobState

__all__ = ["FolderWorkers", "workers_of"]

_MODULE = "assay.cli.audit_worker"


class FolderWorkers:
    """See `assay.ports.pools.WorkerPool`.

    Args:
        engine: starts processes.
        root: the folder.
        python: the interpreter that has assay, where the workers run.
    """

    def __init__(self, engine: LocalProbePool | SlurmProbePool, root: Path, python: str) -> None:
        self.room = engine.room
        self._engine, self._folder, self._python = engine, JobFolder(root), python
        self._seen: set[Path] = set()

    def submit(self, run: str, name: str, job: bytes) -> str:
        """Start a worker; see the port."""
        document, results = self._folder.job(run, name), self._folder.result(run, name).parent
        write_whole(document, job)
        for folder in (results, self._folder.log(run, name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        return self._engine.start(run, name, [self._python, "-m", _MODULE, str(document), str(results)])

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every worker of a run."""
        return self._engine.poll(run)

    def documents(self, run: str) -> Sequence[bytes]:
        """Return what workers have written since the last call; each file is written whole, once."""
        found: list[bytes] = []
        for path in sorted(self._folder.result(run, "x").parent.glob("*.json")):
            if path in self._seen:
                continue
            self._seen.add(path)
            try:
                found += [read_regular(path)] if path.stat().st_size <= MAX_BYTES else []
            except (OSError, StoreError):
                continue
        return found

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """End workers."""
        self._engine.cancel(names, run=run)

    def sweep(self, run: str) -> None:
        """Remove the files of a run."""
        self._engine.sweep(run)


def workers_of(name: str, pool: Pool, root: Path) -> FolderWorkers:
    """Return the workers of a pool.

    Args:
        name: its name, for messages.
        pool: its entry in pools.yaml.
        root: a folder of this machine for the jobs of local pools.

    Raises:
        UsageError: its machines share no folder with this one.
    """
    match pool:
        case LocalPool():
            return FolderWorkers(LocalProbePool(pool, root), root, sys.executable)
        case SlurmPool():
            return FolderWorkers(SlurmProbePool(pool), Path(pool.folder), pool.assay)
        case _:
            raise UsageError(
                f"the pool {name} is of kind {pool.kind}: its machines share no folder with this one, so they have "
                "neither the project nor a place for reports",
                hint="audit on a pool of kind slurm or local; or run `assay audit` there, on a part of the cells, and "
                "share what was read: assay facts push|pull",
            )
