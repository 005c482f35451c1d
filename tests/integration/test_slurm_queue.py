"""How often Slurm is asked: programs in place of its own count their calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from assay.adapters.pools.slurm import SlurmProbePool
from assay.adapters.pools.workers import workers_of
from assay.matrix.pools import load_pools
from assay.pipeline.assembly.on_workers import LayerRules, WorkerBuilder, WorkerLimits
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.pools import PoolSilent

CELLS = 12
SQUEUE = """#!/bin/sh
echo squeue >> {calls}
{first}
while read -r name; do echo "$name|7|RUNNING|None|n1"; done < {jobs}
"""
SBATCH = """#!/bin/sh
echo sbatch >> {calls}
sed -n 's/^#SBATCH --job-name=//p' >> {jobs}
"""


class FakeSlurm:
    """sbatch keeps the names of jobs, squeue says that all of them run."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.jobs = root, root / "calls", root / "jobs"
        self.calls.touch()
        self.jobs.touch()
        self.program("sbatch", SBATCH)
        self.program("squeue", SQUEUE, first="")
        self.program("scancel", "#!/bin/sh\necho scancel $# >> {calls}\n")
        self.program("scontrol", "#!/bin/sh\n")

    def program(self, name: str, text: str, **words: str) -> None:
        path = self.root / name
        path.write_text(text.format(calls=self.calls, jobs=self.jobs, **words))
        path.chmod(0o755)

    def called(self, name: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.split()[0] == name]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    root = tmp_path / "bin"
    root.mkdir()
    monkeypatch.setenv("PATH", str(root), prepend=":")
    return FakeSlurm(root)


def at_once(do: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(CELLS) as threads:
        return list(threads.map(do, range(CELLS)))


class Here:
    """Nothing keeps an image from being assembled."""

    def obstacle(self, _: str) -> str:
        return ""


def test_squeue_is_asked_once_a_second_for_all_cells_of_a_build(slurm: FakeSlurm, tmp_path: Path) -> None:
    pool = load_pools(f"pools: {{hpc: {{kind: slurm, partition: low, folder: {tmp_path}/shared}}}}\n").pool("hpc")
    builder = WorkerBuilder(
        pool=workers_of("hpc", pool, tmp_path / "here"),
        here=cast("Any", Here()),
        name=lambda *_: None,
        project="/project",
        layers=LayerRules(folder="/layers"),
        limits=WorkerLimits(every=0.05),
    )
    stop = threading.Event()

    def build(number: int) -> BuildOutcome:
        task = BuildTask(dockerfile=f"FROM x{number}", tags=("r.example/x:1",), log=tmp_path / str(number), stop=stop)
        return builder.build(task)

    timer = threading.Timer(4, stop.set)
    timer.start()
    began = time.monotonic()
    outcomes = at_once(build)
    seconds = time.monotonic() - began

    assert {BuildEnd.STOPPED} == {outcome.end for outcome in outcomes}
    assert CELLS == len(slurm.called("sbatch"))
    # Each cell cancels its own job at the end; threads that do so at the same time share an answer as well.
    assert len(slurm.called("squeue")) <= seconds + 1 + CELLS
    assert CELLS == len(slurm.called("scancel"))


def test_threads_that_wait_for_the_same_answer_share_it_also_when_there_is_none(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    slurm.program("squeue", SQUEUE, first="sleep 1; exit 1")
    given = load_pools(f"pools: {{hpc: {{kind: slurm, partition: low, folder: {tmp_path}}}}}\n").pool("hpc")
    pool = SlurmProbePool(cast("Any", given))

    def silent(_: int) -> float:
        began = time.monotonic()
        with pytest.raises(PoolSilent, match="does not answer squeue"):
            pool.poll("build-1")
        return time.monotonic() - began

    assert max(at_once(silent)) < 2.5
    assert len(slurm.called("squeue")) <= 2


def test_a_job_that_was_submitted_a_moment_ago_is_cancelled(slurm: FakeSlurm, tmp_path: Path) -> None:
    given = load_pools(f"pools: {{hpc: {{kind: slurm, partition: low, folder: {tmp_path}}}}}\n").pool("hpc")
    pool = SlurmProbePool(cast("Any", given))
    pool.poll("build-1")
    pool.start("build-1", "build-1-1", ["true"])
    pool.cancel(["build-1-1"], run="build-1")

    assert ["scancel 1"] == slurm.called("scancel")
