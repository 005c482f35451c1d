"""Workers that have assay and share a folder with this machine: jobs and what comes of them are files there."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
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


class FolderWorkers:
    """See `assay.ports.pools.WorkerPool`.

    Args:
        engine: starts processes.
        root: the folder.
        argv: starts a worker where they run; the job's document and the folder of results follow.
    """

    def __init__(self, engine: LocalProbePool | SlurmProbePool, root: Path, argv: Sequence[str]) -> None:
        self.room = engine.room
        self._engine, self._folder, self._argv = engine, JobFolder(root), argv
        self._seen: set[Path] = set()

    def submit(self, run: str, name: str, job: bytes) -> str:
        """Start a worker; see the port."""
        document, results = self._folder.job(run, name), self._folder.result(run, name).parent
        write_whole(document, job)
        for folder in (results, self._folder.log(run, name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        return self._engine.start(run, name, [*self._argv, str(document), str(results)])

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every worker of a run."""
        return self._engine.poll(run)

    def documents(self, run: str) -> Iterator[bytes]:
        """Yield what workers have written since the last call, one at a time; each file is written whole, once."""
        for path in sorted(self._folder.result(run, "x").parent.glob("*.json")):
            if path in self._seen:
                continue
            self._seen.add(path)
            try:
                data = read_regular(path, limit=MAX_BYTES)
            except (OSError, StoreError):
                continue
            yield data

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """End workers."""
        self._engine.cancel(names, run=run)

    def sweep(self, run: str) -> None:
        """Remove the files of a run."""
        self._engine.sweep(run)


def workers_of(name: str, pool: Pool, root: Path, module: str = "assay.cli.audit_worker") -> FolderWorkers:
    """Return the workers of a pool.

    Args:
        name: its name, for messages.
        pool: its entry in pools.yaml.
        root: a folder of this machine for the jobs of local pools.
        module: the program of the workers.

    Raises:
        UsageError: its machines share no folder with this one.
    """
    match pool:
        case LocalPool():
            return FolderWorkers(LocalProbePool(pool, root, on_gpus=False), root, [sys.executable, "-m", module])
        case SlurmPool():
            return FolderWorkers(SlurmProbePool(pool), Path(pool.folder), [pool.assay, "-m", module])
        case _:
            raise UsageError(
                f"the pool {name} is of kind {pool.kind}: its machines share no folder with this one, so they have "
                "neither the project nor a place for reports",
                hint="audit on a pool of kind slurm or local; or run `assay audit` there, on a part of the cells, and "
                "share what was read: assay facts push|pull",
            )
