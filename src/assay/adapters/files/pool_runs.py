"""Runs on pools: `build_logs/<run>/pool.json`, the suite as it was sent, a sealed result for each job that is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from assay.adapters.files.locks import locked
from assay.adapters.files.records import FileRun, write_whole
from assay.adapters.files.regular import read_regular
from assay.errors import StoreError, UsageError
from assay.foundation.foreign import ForeignError, read_json
from assay.foundation.nearest import suggestion
from assay.ports.jobs import JobResult, unseal
from assay.ports.pools import PoolRun

__all__ = ["FilePoolBook", "PoolRuns"]

_PLAN: Final = "pool.json"
_MAX_PLAN: Final = 64 << 20


class FilePoolBook:
    """One run; see `assay.ports.pools.PoolBook`."""

    def __init__(self, folder: FileRun) -> None:
        self.folder = folder

    def _result(self, key: str) -> Path:
        return self.folder.path / "results" / f"{key}.json"

    def result(self, key: str) -> JobResult | None:
        """Return the result of a job that is done."""
        try:
            return unseal(read_regular(self._result(key)), JobResult, source=key)
        except (OSError, StoreError):
            return None

    def keep(self, key: str, result: bytes, log: bytes) -> None:
        """Keep the exact bytes of a result, and its log."""
        if log:
            write_whole(self.folder.path / "logs" / f"{key}.log", log)
        write_whole(self._result(key), result)

    @contextmanager
    def deciding(self, key: str) -> Iterator[bool]:
        """Hold the lock of a job."""
        with locked(self.folder.path / ".deciding" / key) as mine:
            yield mine


class PoolRuns:
    """The runs on pools of a project.

    Args:
        root: build_logs/.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Return the runs, the one that was planned last at the end."""
        plans = [(path.stat().st_mtime, path.parent.name) for path in self._root.glob(f"*/{_PLAN}")]
        return [name for _, name in sorted(plans)]

    def plan(self, run: str) -> PoolRun:
        """Return the jobs of a run.

        Raises:
            UsageError: there is no such run; the nearest names are offered.
            StoreError: its plan cannot be read.
        """
        path = self._root / run / _PLAN
        try:
            data = read_regular(path)
        except OSError as error:
            hint = "assay jobs lists the runs"
            raise UsageError(f"there is no run {run!r} on a pool{suggestion(run, self.names())}", hint=hint) from error
        try:
            read_json(data, limit=_MAX_PLAN)
            return PoolRun.model_validate_json(data)
        except (ForeignError, ValidationError) as error:
            raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error

    def start(self, plan: PoolRun, suite: Mapping[str, bytes]) -> PoolRun:
        """Write the plan of a run, or return the one that is there, if it has the same jobs.

        Raises:
            StoreError: the run exists with other jobs, or cannot be written.
        """
        folder = self._root / plan.run
        if (folder / _PLAN).is_file():
            there = self.plan(plan.run)
            if there.jobs != plan.jobs:
                raise StoreError(f"the run {plan.run} is there with other jobs", hint="choose another --run")
            return there
        for path, data in suite.items():
            write_whole(folder / "suite" / path, data)
        write_whole(folder / _PLAN, plan.model_dump_json(indent=1).encode() + b"\n")
        return plan

    def suite(self, run: str) -> Path:
        """Return the folder with the probe programs of a run."""
        return self._root / run / "suite"
