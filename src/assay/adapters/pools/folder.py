"""The folder that jobs and their results pass through, where a pool shares a file system with this machine."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.adapters.pools.bundle import RUNNER, runner, suite_name
from assay.errors import StoreError
from assay.foundation.printable import printable
from assay.ports.jobs import MAX_BYTES, seal
from assay.ports.pools import JobOutput, Submission

__all__ = ["JobFolder"]

_LOG_BYTES: Final = 1 << 20


class JobFolder:
    """Jobs, results and logs of all runs of a pool: `<root>/<run>/{jobs,results,logs}/<name>`.

    Args:
        root: made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen: dict[Path, tuple[int, int]] = {}

    def job(self, run: str, name: str) -> Path:
        """Return the path of a job's document."""
        return self.root / run / "jobs" / f"{name}.json"

    def result(self, run: str, name: str) -> Path:
        """Return the path of a job's result."""
        return self.root / run / "results" / f"{name}.json"

    def log(self, run: str, name: str) -> Path:
        """Return the path of what a job writes."""
        return self.root / run / "logs" / f"{name}.log"

    def suite(self, data: bytes) -> Path:
        """Return the path of a zip of probe programs."""
        return self.root / suite_name(data)

    @property
    def runner(self) -> Path:
        """The program that runs a job."""
        return self.root / RUNNER

    def files(self, jobs: Sequence[Submission]) -> Mapping[Path, bytes]:
        """Return what jobs need, by path."""
        found = {self.suite(item.suite): item.suite for item in jobs} | {self.runner: runner()}
        return found | {self.job(item.job.run, item.job.name): seal(item.job) for item in jobs}

    def write(self, jobs: Sequence[Submission]) -> None:
        """Write what jobs need; files that are there with the same content stay.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        for path, data in self.files(jobs).items():
            with suppress(OSError, StoreError):
                if read_regular(path) == data:
                    continue
            write_whole(path, data)
        for item in jobs:
            for path in (self.result(item.job.run, item.job.name), self.log(item.job.run, item.job.name)):
                path.parent.mkdir(parents=True, exist_ok=True)

    def collect(self, names: Collection[str], *, run: str) -> list[JobOutput]:
        """Return what jobs have left since the last call."""
        found: list[JobOutput] = []
        for name in names:
            path = self.result(run, name)
            try:
                state = path.stat()
                mark = (state.st_mtime_ns, state.st_size)
                if self._seen.get(path) == mark or state.st_size > MAX_BYTES:
                    continue
                data = read_regular(path)
            except (OSError, StoreError):
                continue
            self._seen[path] = mark
            found.append(JobOutput(name=name, result=data, log=self._end_of_log(run, name)))
        return found

    def _end_of_log(self, run: str, name: str) -> bytes:
        try:
            path = self.log(run, name)
            if not path.is_file():
                return b""
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
                return file.read()
        except OSError:
            return b""

    def last_line(self, run: str, name: str) -> str:
        """Return the last line that a job wrote, up to 400 characters; nothing if it wrote none."""
        lines = printable(self._end_of_log(run, name)[-4096:].decode("utf-8", "replace")).split("\n")
        return next((" ".join(line.split())[-400:] for line in reversed(lines) if line.strip()), "")

    def sweep(self, run: str) -> None:
        """Remove what a run left."""
        shutil.rmtree(self.root / run, ignore_errors=True)
