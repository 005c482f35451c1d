"""Results of jobs that people submitted themselves: sealed documents and logs with frames, anywhere below a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from assay.adapters.pools.frames import results_in, without_frames
from assay.errors import StoreError, UsageError
from assay.ports.jobs import MAX_BYTES, JobResult, unseal
from assay.ports.pools import JobOutput, JobState, PoolItem, Submission

__all__ = ["FoundResults"]


class FoundResults:
    """A pool that was: its results lie in a folder, by whatever name; see `assay.ports.pools.ProbePool`."""

    kind = "folder"
    room = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _results(self) -> list[JobOutput]:
        found: list[JobOutput] = []
        for path in sorted(self._folder.rglob("*")):
            if not path.is_file() or path.stat().st_size > 4 * MAX_BYTES:
                continue
            data = path.read_bytes()
            try:
                unseal(data, JobResult, source=path.name)
                found.append(JobOutput(result=data))
            except StoreError:
                if inside := results_in(data):
                    # Once: a log of many results would else be kept as often.
                    log = without_frames(data)
                    found += [JobOutput(result=sealed, log=log) for sealed, _ in inside]
        return found

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:  # noqa: ARG002 - by content
        """Return every intact result in the folder; the names of these files are not assay's."""
        return self._results()

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:  # noqa: ARG002 - the port names it
        """Submit nothing."""
        raise UsageError("a folder of results runs no jobs")

    def poll(self, run: str) -> Mapping[str, JobState]:  # noqa: ARG002 - the port names it
        """Return nothing: nobody is asked."""
        return {}

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """Do nothing."""

    def sweep(self, run: str) -> None:
        """Do nothing."""

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:  # noqa: ARG002 - the port names it
        """Return nothing."""
        return {}

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:  # noqa: ARG002 - the port names it
        """Return nothing."""
        return []
