"""The runs that the farm's tests send to pools: a quick suite of one probe, and many made-up images."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from probe_suite import write_suite

from assay.adapters.executors.probe_suite import digest_of_suite, suite_in
from assay.adapters.files.pool_runs import FilePoolBook, PoolRuns
from assay.adapters.files.records import FileStore
from assay.adapters.pools.bundle import suite_zip
from assay.evidence import suite as probes
from assay.evidence.record import ProbeRecord
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.pipeline.pooled import Coordinator
from assay.pipeline.pooled_probes import PoolRecorder, plan_run
from assay.pipeline.pooled_values import Board, PooledEnd, PoolLimits
from assay.pipeline.probe import ProbeOptions
from assay.pipeline.probe_record import ProbeSubject
from assay.ports.jobs import JobLimits, Place
from assay.ports.pools import PoolRun, ProbePool

ROOT = Path(__file__).parents[2]
PROGRAM = """
FEATURE = "sum-{number}"
REQUIRES = ()
TIMEOUT = 60
GPUS = 0
WARM = False


def run(probe):
    import time

    time.sleep({seconds})
    probe.equal("sum", 1 + 1, 2)
"""

FACTS = """
import json, sys

device = {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 150754820096, "uuid": "GPU-0"}
facts = {"devices": [device], "driver": "580.95.05", "cuda": "13.0", "no_devices": "", "packages": {}, "libc": "glibc",
         "kernel": "6"}
with open(sys.argv[1], "w") as file:
    json.dump(facts, file)
"""


@dataclass
class Farm:
    """A project's records, and runs of it on pools."""

    folder: Path
    seconds: float = 0.2
    """What each of the two probes takes."""
    limits: PoolLimits = field(default_factory=lambda: PoolLimits(every=1.0, grace=3.0, patience=240.0, attempts=8))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        suite = self.folder / "probes"
        if not suite.is_dir():
            programs = {f"sum_{number}": PROGRAM.format(number=number, seconds=self.seconds) for number in (1, 2)}
            write_suite(suite, ROOT, programs)
            # The engines' GPUs are made up, and so is what is read of them.
            (suite / "probelib" / "facts.py").write_text(FACTS)
        self.suite = suite_in(suite)
        self.store = FileStore(self.folder / "build_logs")
        self.runs = PoolRuns(self.store.root)
        texts = {path: data.decode() for path, data in self.suite.items() if path.startswith("features/")}
        self.known = probes.declarations(texts)

    def subjects(self, count: int, reference: str = "registry.example/stub/{cell}@{digest}") -> list[ProbeSubject]:
        """Return made-up images, each with a digest of its own."""
        found = []
        for number in range(count):
            cell = f"stub-{number:03d}"
            digest = sha256_of(cell.encode())
            place = Place(reference=reference.format(cell=cell, digest=digest), digest=digest)
            found.append(ProbeSubject(place=place, cell=cell, image="stub"))
        return found

    def plan(self, subjects: list[ProbeSubject], *, gpus: tuple[str, ...] = (), seconds: float = 120.0) -> PoolRun:
        """Return the run, written into its folder."""
        plan = plan_run(
            subjects,
            ProbeOptions(gpus=1 if gpus else 0, limits=JobLimits(seconds=seconds)),
            pool="farm",
            suite=digest_of_suite(self.suite),
            chosen=probes.order(self.known),
            gpus=gpus,
        )
        return self.runs.start(plan, self.suite)

    def coordinator(self, pool: ProbePool, plan: PoolRun, *, quiet: bool = False) -> Coordinator:
        """Return a coordinator of the run, as the command makes it."""
        folder = self.store.named_run(plan.run)
        book = FilePoolBook(folder.__enter__())
        began = time.monotonic()

        def say(text: str) -> None:
            if not quiet:
                print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

        def show(board: Board) -> None:
            if not quiet:
                counts = (board.done, board.lost, board.running, board.waiting, board.retried)
                (self.folder / "board.json").write_text(json.dumps(counts))

        return Coordinator(
            pool,
            plan,
            book,
            suite=suite_zip(self.suite),
            record=PoolRecorder(store=self.store, book=book, known=self.known, say=say),
            limits=self.limits,
            say=say,
            show=show,
        )

    def records(self) -> list[ProbeRecord]:
        return [item for item in self.store.records(kind="probe") if isinstance(item, ProbeRecord)]

    def check(self, plan: PoolRun, ends: list[PooledEnd]) -> None:
        """Fail unless there is one good record for each job, and none besides."""
        made = self.records()
        wanted = Counter(item.cell for item in plan.jobs)
        lost = [f"{end.planned.cell}: {end.words}" for end in ends if end.loss is not None]
        outcomes = {result.outcome for item in made for result in item.features.values()}
        digests = {item.cell: item.job.place.digest for item in plan.jobs}

        assert lost == []
        assert wanted == Counter(item.cell for item in made)
        assert {Outcome.WORKS} == outcomes
        assert all(digests[item.cell] == item.image_digest for item in made)


def main(argv: list[str]) -> int:
    """Coordinate a run until it is done; tests kill this process and start it again."""
    from assay.adapters.pools.table import probe_pool
    from assay.matrix.pools import load_pools

    folder, run = Path(argv[0]), argv[1]
    farm = Farm(folder)
    patience = float(os.environ.get("ASSAY_FARM_PATIENCE", "240"))
    unknown = float(os.environ.get("ASSAY_FARM_UNKNOWN", "60"))
    farm.limits = PoolLimits(every=1.0, grace=3.0, patience=patience, unknown=unknown, attempts=8)
    pool = probe_pool("farm", load_pools((folder / "pools.yaml").read_text()).pool("farm"), folder / "pool")
    plan = farm.runs.plan(run)
    ends = farm.coordinator(pool, plan).run()
    return int(any(end.loss is not None for end in ends) or len(ends) != len(plan.jobs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
