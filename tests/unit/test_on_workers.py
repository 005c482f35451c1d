"""Images assembled by workers that are lost in every way: the cell moves, and is assembled here at last."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from assay.pipeline.assembly.on_workers import AssembledPart, AssembleJob, LayerRules, WorkerBuilder, WorkerLimits
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.jobs import seal, unseal
from assay.ports.pools import JobState, Loss, Phase, PoolSilent

DIGEST = f"sha256:{'1' * 64}"
RUNNING = JobState(phase=Phase.RUNNING, said="running", where="n1")
LOST = JobState(phase=Phase.ENDED, loss=Loss.NODE_LOST, said="node_fail")


@dataclass
class Workers:
    """Workers in memory; each fate is that of the next one: an end, states to be seen in turn, or silence."""

    fates: list[BuildEnd | Sequence[JobState] | str]
    room: int = 4
    jobs: list[AssembleJob] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    states: dict[str, list[JobState]] = field(default_factory=dict)

    def submit(self, run: str, name: str, job: bytes) -> str:
        fate = self.fates.pop(0)
        if isinstance(fate, str) and not isinstance(fate, BuildEnd):
            return fate
        made = unseal(job, AssembleJob, source=name)
        self.jobs.append(made)
        if isinstance(fate, BuildEnd):
            digest = DIGEST if fate is BuildEnd.BUILT else None
            self.left.append(
                seal(AssembledPart(name=name, end=fate, digest=digest, reason="why", machine="n1", log="x"))
            )
            fate = [RUNNING]
        self.states[name] = list(fate)
        return ""

    def poll(self, run: str) -> Mapping[str, JobState]:
        if self.fates and self.fates[0] == "silent":
            raise PoolSilent("nobody answers")
        return {name: left.pop(0) if len(left) > 1 else left[0] for name, left in self.states.items()}

    def documents(self, run: str) -> Iterator[bytes]:
        while self.left:
            yield self.left.pop(0)

    def cancel(self, names: Collection[str], *, run: str) -> None:
        self.cancelled += names

    def sweep(self, run: str) -> None:
        self.swept.append(run)


class Here:
    """Assembles on this machine."""

    def __init__(self) -> None:
        self.built = 0

    def obstacle(self, dockerfile: str) -> str:
        return "a RUN" if "RUN" in dockerfile else ""

    def build(self, _: BuildTask) -> BuildOutcome:
        self.built += 1
        return BuildOutcome(end=BuildEnd.BUILT, builder="here")


def built(tmp_path: Path, workers: Workers, text: str = "FROM x", **more: Any) -> tuple[BuildOutcome, Here, list[Any]]:
    here, named, moments = Here(), [], iter(range(1000))
    builder = WorkerBuilder(
        pool=workers,
        here=cast("Any", here),
        name=lambda tags, digest, builder: named.append((tuple(tags), digest, builder)),
        project="/p",
        layers=LayerRules(folder="/layers"),
        limits=WorkerLimits(attempts=3, patience=10, grace=2, every=0),
        clock=lambda: float(next(moments)),
    )
    task = BuildTask(dockerfile=text, tags=("r.example/x:1", "r.example/x:key"), log=tmp_path / "build.log", **more)
    return builder.build(task), here, named


def test_the_worker_pushes_by_digest_and_this_machine_sets_the_tags(tmp_path: Path) -> None:
    workers = Workers([BuildEnd.BUILT])
    outcome, here, named = built(tmp_path, workers)

    assert (BuildEnd.BUILT, DIGEST, "n1") == (outcome.end, outcome.digest, outcome.builder)
    assert [(("r.example/x:1", "r.example/x:key"), DIGEST, "n1")] == named
    assert "r.example/x" == workers.jobs[0].repository
    assert "x" == (tmp_path / "build.log").read_text()
    assert (0, 1) == (here.built, len(workers.swept))


@pytest.mark.parametrize(
    "lost",
    [
        BuildEnd.ENGINE,
        BuildEnd.REGISTRY,
        [RUNNING, LOST],
        [RUNNING, JobState(phase=Phase.WAITING, said="pending: BeginTime")],
        [JobState(phase=Phase.WAITING, loss=Loss.HELD)],
    ],
)
def test_a_cell_moves_when_its_worker_is_lost_or_its_machine_fails(tmp_path: Path, lost: Any) -> None:
    workers = Workers([lost, BuildEnd.BUILT])
    outcome, here, _ = built(tmp_path, workers)

    assert BuildEnd.BUILT is outcome.end
    assert ["1", "2"] == [job.name.rpartition("-")[2] for job in workers.jobs]
    assert 0 == here.built


@pytest.mark.parametrize("fates", [[[LOST]] * 3, ["no such partition"] * 50, ["silent"]])
def test_this_machine_assembles_what_the_pool_cannot(tmp_path: Path, fates: list[Any]) -> None:
    outcome, here, named = built(tmp_path, Workers(fates))

    assert ("here", 1, []) == (outcome.builder, here.built, named)


def test_a_failure_of_the_cell_is_not_tried_again(tmp_path: Path) -> None:
    workers = Workers([BuildEnd.FAILED])
    outcome, here, named = built(tmp_path, workers)

    assert (BuildEnd.FAILED, "why", 1, 0, []) == (outcome.end, outcome.reason, len(workers.jobs), here.built, named)


def test_a_source_archive_that_a_worker_met_is_built_here_at_once(tmp_path: Path) -> None:
    class Meets(Workers):
        def submit(self, run: str, name: str, job: bytes) -> str:
            self.left.append(seal(AssembledPart(name=name, end=BuildEnd.ENGINE, reason="x.tar.gz", source=True)))
            return super().submit(run, name, job)

    workers = Meets([[RUNNING]])
    outcome, here, _ = built(tmp_path, workers)

    assert ("here", 1, 1) == (outcome.builder, here.built, len(workers.jobs))


def test_what_only_buildkit_builds_is_built_here(tmp_path: Path) -> None:
    workers = Workers([])

    assert "here" == built(tmp_path, workers, "FROM x\nRUN y")[0].builder


def test_a_stopped_build_ends_its_worker(tmp_path: Path) -> None:
    stop = threading.Event()
    workers = Workers([[RUNNING]])
    outcome, _, _ = built(tmp_path, workers, stop=stop, progress=lambda _: stop.set())

    assert BuildEnd.STOPPED is outcome.end
    assert 1 == len(workers.cancelled)


def test_a_second_process_continues_with_the_worker_of_the_first(tmp_path: Path) -> None:
    first = Workers([BuildEnd.BUILT])
    built(tmp_path, first)
    name = first.jobs[0].name
    part = AssembledPart(name=name, end=BuildEnd.BUILT, digest=DIGEST, machine="n2")
    second = Workers([], states={name: [RUNNING]}, left=[seal(part)[:-9], seal(part)])
    outcome, _, _ = built(tmp_path, second)

    assert ("n2", []) == (outcome.builder, second.jobs)
