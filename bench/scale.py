"""10 000 cells on 6 GPU products: probes on a simulated farm of 200 nodes, brought home by the real coordinator

    python bench/scale.py [CELLS [NODES]]

The coordinator, the documents that it reads and the records that it makes are assay's own. Simulated are the clock, the
engine, the nodes, and the folders of run and records, which are in memory; what they cost is measured apart. How long a
job takes is drawn from the runs of all probes in docs/records. Rates and speeds that nobody has measured are assumed,
and printed as such.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from _farm import Image, Node, Rates, SimulatedFarm

from assay.adapters.files.pool_runs import FilePoolBook
from assay.adapters.files.records import FileStore
from assay.adapters.pools.fake import sealed_result
from assay.cli.probe_composition import shipped_suite
from assay.evidence.record import ProbeRecord, now
from assay.evidence.suite import declarations, order
from assay.foundation.digest import sha256_of
from assay.pipeline.pooled import Coordinator
from assay.pipeline.pooled_probes import PoolRecorder, plan_run, registry_subjects
from assay.pipeline.pooled_values import PoolLimits
from assay.pipeline.probe import ProbeOptions
from assay.ports.jobs import JobResult, unseal
from assay.ports.pools import PoolRun

ROOT = Path(__file__).parents[1]
KINDS = ("h100", "h200", "b200", "gb300", "rtx-pro-6000", "rtx-5090")
GPUS = 8
"""Of a node."""
CALM = Rates(flaky=0.0)
USUAL = Rates(flaky=0.05, preempted=0.02, node_lost=0.002)
ROUGH = Rates(flaky=0.20, preempted=0.20, node_lost=0.02)
ROOM = 1.5
"""Jobs that may be submitted, for each GPU."""
SUITE, SUITE_DIGEST = shipped_suite(ROOT)
KNOWN = declarations({path: data.decode() for path, data in SUITE.items() if path.startswith("features/")})


class Memory:
    """Records and the folder of a run, in memory: `Store`, `PoolBook` and `RunFolder` as far as they are used here."""

    name = "scale"

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.records = 0
        self.partial = 0
        """Records of jobs that broke off by themselves twice."""
        self.files = 0

    @property
    def folder(self) -> Memory:
        return self

    def write(self, relative: str, data: bytes, *, executable: bool = False) -> Path:  # noqa: ARG002
        self.files += 1
        return Path(relative)

    def append(self, record: ProbeRecord) -> Path:
        self.records += 1
        self.partial += any(result.outcome != "works" for result in record.features.values())
        return Path()

    def result(self, key: str) -> JobResult | None:
        kept = self.kept.get(key)
        return None if kept is None else unseal(zlib.decompress(kept), JobResult, source=key)

    def keep(self, key: str, result: bytes, log: bytes) -> None:  # noqa: ARG002 - the port names it
        assert key not in self.kept, "a job was recorded twice"
        self.kept[key] = zlib.compress(result, 1)

    @contextmanager
    def deciding(self, key: str) -> Iterator[bool]:  # noqa: ARG002 - there is one process
        yield True


class SimulatedTime(threading.Event):
    """What ends a run, and lets the farm's time pass between two looks."""

    def __init__(self, farm: SimulatedFarm) -> None:
        super().__init__()
        self._farm = farm

    def wait(self, timeout: float | None = None) -> bool:
        self._farm.wait(timeout or 0.0)
        return False


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a farm is asked for."""

    title: str
    cells: int
    nodes: int
    rates: Rates
    room: int = 0
    """Jobs at the same time; 0: as many as `ROOM` says."""
    every: float = 10.0
    """Seconds between two looks."""
    features: int = 3
    scarce: float = 1.0
    """Nodes with the last GPU product, in parts of an even share."""

    @property
    def counts(self) -> dict[str, int]:
        """Nodes of each GPU product."""
        last = max(1, round(self.nodes / len(KINDS) * self.scarce))
        rest = [(self.nodes - last + at) // (len(KINDS) - 1) for at in range(len(KINDS) - 1)]
        return dict(zip(KINDS, [*rest, last], strict=True))


@dataclass(frozen=True, kw_only=True)
class Came:
    """What came of it."""

    scene: Scene
    plan: PoolRun
    farm: SimulatedFarm
    memory: Memory
    bound: float
    """Seconds that the GPUs of the busiest product need for the work alone."""
    work: float
    """GPU seconds of it."""
    resolved: int
    began: float
    """CPU seconds until the first look."""
    cpu: float
    """CPU seconds of all looks."""


def measured_seconds() -> list[float]:
    """Return how long the runs of all probes on an image took, by their records."""
    found = []
    for path in sorted((ROOT / "docs" / "records" / "sm_90").glob("*-probe-*.json")):
        record = json.loads(path.read_text())
        seconds = sum(one.get("seconds") or 0.0 for one in record["features"].values())
        found += [seconds] if record["image_digest"] and len(record["features"]) >= 38 else []
    return found


def image_of(number: int) -> Image:
    """Return the layers of a cell's image: of its base (10), torch (50) and engine (20), 32 in all.

    As many as assembled images have, and as many of them new with another engine as bench/assemble.py counted.
    """
    base, torch, engine = number % 10, number // 10 % 50, number // 500
    return (*(base * 2 + at for at in range(2)), *(1000 + torch * 13 + at for at in range(13)),
            *(10_000 + engine * 17 + at for at in range(17)))  # fmt: skip


def planned(cells: int, features: int = 0) -> tuple[PoolRun, int]:
    """Return the run of so many features (0: all), and how many requests resolved the tags of its images."""
    asked = 0

    def digest(reference: str) -> str:
        nonlocal asked
        asked += 1
        return sha256_of(reference.encode())

    words = [f"registry.example/team/images:cell-{number}" for number in range(cells)]
    nothing = cast("Any", None)
    subjects = registry_subjects(words, nothing, nothing, repository=str, digests=digest, warn=print)
    chosen = order(KNOWN, ())
    plan = plan_run(
        subjects,
        ProbeOptions(),
        pool="farm",
        suite=SUITE_DIGEST,
        chosen=chosen[: features or len(chosen)],
        gpus=KINDS,
        run="scale",
    )
    return plan, asked


def simulate(scene: Scene) -> Came:
    """Run one scene."""
    begun = time.process_time()
    plan, resolved = planned(scene.cells, scene.features)
    numbers = {item.job.place.digest: int(item.cell.rpartition("-")[2]) for item in plan.jobs}
    draw, choices = random.Random(scene.cells), measured_seconds()
    seconds = {item.key: draw.choice(choices) for item in plan.jobs}
    nodes = {
        kind: [Node(name=f"{kind}-{at}", free=GPUS) for at in range(count)] for kind, count in scene.counts.items()
    }
    farm = SimulatedFarm(
        nodes,
        scene.rates,
        seconds=lambda job: seconds[job.model_copy(update={"attempt": 1}).name.rpartition("-")[0]],
        layers=lambda job: image_of(numbers[job.place.digest]),
        room=scene.room or round(ROOM * GPUS * scene.nodes),
    )
    memory = Memory()
    recorder = PoolRecorder(store=cast("Any", memory), book=cast("Any", memory), known=KNOWN)
    limits = PoolLimits(every=scene.every)
    coordinator = Coordinator(
        farm, plan, cast("Any", memory), suite=b"", record=recorder, limits=limits, clock=farm.clock
    )
    began = time.process_time() - begun
    coordinator.run(SimulatedTime(farm))
    per_kind = dict.fromkeys(KINDS, 0.0)
    for item in plan.jobs:
        per_kind[item.job.devices.model] += seconds[item.key]
    return Came(
        scene=scene, plan=plan, farm=farm, memory=memory, resolved=resolved, began=began,
        bound=max(spent / (len(nodes[kind]) * GPUS) for kind, spent in per_kind.items()),
        work=sum(per_kind.values()),
        cpu=time.process_time() - begun - began - farm.cpu,
    )  # fmt: skip


def told(came: Came) -> None:
    """Print what came of a scene."""
    farm, scene, jobs = came.farm, came.scene, len(came.plan.jobs)
    lost = farm.held - farm.pulling - came.work
    pulls = sum(farm.pulls.values())
    looks = farm.calls["poll"]
    print(f"\n{scene.title}: {scene.cells} cells, {jobs} jobs, {scene.nodes} nodes of {GPUS} GPUs, "
          f"room for {farm.room}")  # fmt: skip
    print(f"  recorded            {came.memory.records} of {jobs} in {farm.names} submissions; {came.memory.partial} "
          "broke off by themselves twice")  # fmt: skip
    print(
        "  what went wrong     "
        + (", ".join(f"{count} {name}" for name, count in farm.said.most_common()) or "nothing")
    )
    print(f"  makespan            {farm.now / 3600:.2f} h; the GPUs' work alone {came.bound / 3600:.2f} h "
          f"({farm.now / came.bound - 1:+.1%})")  # fmt: skip
    print(f"  GPU minutes         {farm.held / 60:.0f} held: {came.work / 60:.0f} of work, {farm.pulling / 60:.0f} "
          f"in pulls, {lost / 60:.0f} lost ({(farm.held - came.work) / came.work:.1%} more than the work)")  # fmt: skip
    print(f"  registry requests   {came.resolved} by assay, {pulls} by nodes ({pulls / farm.starts:.1f} a start), "
          f"at most {max(farm.pulls.values())} in a minute; {34 * farm.starts} if nothing stays on nodes")  # fmt: skip
    print(f"  coordinator         {came.began:.0f} s of CPU to start, {came.cpu:.0f} s in {looks} looks "
          f"({came.cpu / looks * 1000:.1f} ms a look, {came.cpu / farm.now:.2%} of the time)")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """What one job of all features costs the coordinator, beyond the looks."""

    features: int
    files: int
    seconds: float
    """To write its files, and to read its result."""
    read: float
    """CPU seconds to read its result once."""
    memory: float
    """Bytes of its record while the coordinator lives."""


def job_cost(count: int = 300) -> JobCost:
    """Measure a few jobs with real files."""
    plan, _ = planned(count // len(KINDS))
    sealed = [sealed_result(item.job) for item in plan.jobs]
    with tempfile.TemporaryDirectory(prefix="assay-scale-") as name:
        store = FileStore(Path(name))
        with store.named_run("scale") as folder:
            book = FilePoolBook(folder)
            recorder = PoolRecorder(store=store, book=book, known=KNOWN)
            begun = time.perf_counter()
            for item, data in zip(plan.jobs, sealed, strict=True):
                with book.deciding(item.key):
                    recorder(item, unseal(data, JobResult, source=item.key), b"log\n", now())
                    book.keep(item.key, data, b"log\n")
            spent = time.perf_counter() - begun
        files = sum(path.is_file() for path in Path(name).rglob("*"))
    begun = time.process_time()
    results = [unseal(data, JobResult, source="") for data in sealed]
    read, jobs = time.process_time() - begun, len(plan.jobs)
    memory = Memory()
    recorder = PoolRecorder(store=cast("Any", memory), book=cast("Any", memory), known=KNOWN)
    tracemalloc.start()
    records = [recorder(item, result, b"", now()) for item, result in zip(plan.jobs, results, strict=True)]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return JobCost(
        features=len(plan.jobs[0].job.features),
        files=files // jobs,
        seconds=spent / jobs,
        read=read / jobs,
        memory=kept / len(records),
    )


def told_of_jobs(cost: JobCost, came: Came) -> None:
    """Print what the simulation leaves out, for the jobs of a scene."""
    jobs, time_left = len(came.plan.jobs), came.farm.now
    print(f"\nnot simulated, measured with {cost.features} features a job:")
    print(f"  files               {cost.files} a job, {cost.files * jobs} in all, written in "
          f"{cost.seconds * 1000:.0f} ms a job ({cost.seconds * jobs / time_left:.1%} of the time)")  # fmt: skip
    print(f"  results             read in {cost.read * 1000:.2f} ms; a pool with a shared folder gives one after each "
          f"feature ({cost.read * cost.features * jobs / time_left:.1%} of the time)")  # fmt: skip
    print(f"  memory              {cost.memory / 1024:.0f} KB a record, {cost.memory * jobs / 2**30:.1f} GB in all")


def main(arguments: list[str]) -> None:
    """Simulate the scenes."""
    cells = int(arguments[0]) if arguments else 10_000
    nodes = int(arguments[1]) if len(arguments) > 1 else max(12, cells // 50)
    times = sorted(measured_seconds())
    print(f"measured: {len(times)} runs of all probes, {times[0]:.0f} to {times[-1]:.0f} s of GPU, "
          f"{sum(times) / len(times):.0f} s on average; of flaky attempts {USUAL.infrastructure:.0%} are "
          "infrastructure (vllm#57372)")  # fmt: skip
    for name, rates in (("usual", USUAL), ("rough", ROUGH)):
        print(f"assumed, {name}: {rates.flaky:.0%} of attempts are flaky; a GPU is taken {rates.preempted:g} times and "
              f"a node lost {rates.node_lost:g} times an hour")  # fmt: skip
    print(f"assumed: images of 32 layers and 4.66 GB, pulled at {USUAL.pull / 1e6:.0f} MB/s and kept by nodes; "
          f"{USUAL.call:g} s for a call to the engine and for each job")  # fmt: skip
    print("looks are 10 s apart and jobs have 3 features, so that this takes minutes; assay looks every "
          f"{PoolLimits().every:g} s")  # fmt: skip
    few, small = max(10, cells * 12 // nodes), 12
    scenes = (
        Scene(title="nothing fails", cells=few, nodes=small, rates=CALM),
        Scene(title="usual", cells=few, nodes=small, rates=USUAL),
        Scene(title="rough", cells=few, nodes=small, rates=ROUGH),
        Scene(title="room for fewer jobs than GPUs", cells=few, nodes=small, rates=USUAL, room=small * GPUS // 2),
        Scene(title="one product has half the nodes", cells=few, nodes=small, rates=USUAL, scarce=0.5),
        Scene(title="all of it, usual", cells=cells, nodes=nodes, rates=USUAL),
    )
    for scene in scenes:
        came = simulate(scene)
        told(came)
        sys.stdout.flush()
    told_of_jobs(job_cost(), came)
    print(f"peak memory of this process, simulation included: "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
