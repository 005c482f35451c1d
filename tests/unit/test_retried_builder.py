"""Builds are tried again after a fault of the builder or a registry, and never after a failure of the cell."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from assay.adapters.docker.retried import RetriedBuilder
from assay.ports.builder import BuildEnd, BuildFault, BuildOutcome, BuildTask, FaultKind

BUILT = BuildOutcome(end=BuildEnd.BUILT)
FAILED = BuildOutcome(end=BuildEnd.FAILED, reason="exit code: 1")


def faulty(kind: FaultKind = FaultKind.LOST, *, tries: int = 20) -> BuildOutcome:
    end = BuildEnd.REGISTRY if kind.of_registry else BuildEnd.ENGINE
    return BuildOutcome(end=end, fault=BuildFault(kind=kind, said="gone", tries=tries))


class Script:
    """Ends builds as it was told, and takes the time that it was told."""

    def __init__(self, *outcomes: BuildOutcome, takes: float = 1.0) -> None:
        self.outcomes = list(outcomes)
        self.takes = takes
        self.now = 0.0
        self.builds = 0
        self.said: list[str] = []

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        return ["build", dockerfile]

    def build(self, task: BuildTask) -> BuildOutcome:
        self.builds += 1
        self.now += self.takes
        task.log.write_text(f"try {self.builds}")
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.now += seconds
        return stop.is_set()

    def run(self, folder: Path, *, patience: float = 60.0, stop: threading.Event | None = None) -> BuildOutcome:
        task = BuildTask(dockerfile="", tags=(), log=folder / "build.log", stop=stop, progress=self.said.append)
        return RetriedBuilder(self, patience=patience, clock=lambda: self.now, wait=self.wait).build(task)


def test_a_builder_that_comes_back_builds(tmp_path: Path) -> None:
    script = Script(faulty(), faulty(FaultKind.UNREACHABLE), BUILT)

    assert script.run(tmp_path) is BUILT
    assert ["lost: try 2 in 2 s", "unreachable: try 3 in 4 s"] == script.said
    assert ["try 1", "try 2", "try 3"] == [
        (tmp_path / name).read_text() for name in ("build-1.log", "build-2.log", "build.log")
    ]


def test_a_failure_of_the_cell_is_never_tried_again(tmp_path: Path) -> None:
    script = Script(faulty(), FAILED, BUILT)

    assert script.run(tmp_path) is FAILED
    assert script.builds == 2


@pytest.mark.parametrize("patience", [0.0, 10.0, 60.0, 600.0])
def test_no_try_begins_after_the_deadline(tmp_path: Path, patience: float) -> None:
    script = Script(faulty(tries=1000))

    assert script.run(tmp_path, patience=patience).fault is not None
    assert script.now <= 1.0 + patience + script.takes


def test_a_fault_that_only_a_person_can_fix_is_not_tried_again(tmp_path: Path) -> None:
    script = Script(faulty(FaultKind.NO_BUILDER, tries=0))

    assert script.run(tmp_path).end is BuildEnd.ENGINE
    assert script.builds == 1


def test_a_step_that_was_killed_gets_one_more_try(tmp_path: Path) -> None:
    script = Script(faulty(FaultKind.KILLED, tries=1))
    script.run(tmp_path)

    assert script.builds == 2


def test_a_stop_ends_the_pause(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    script = Script(faulty())

    assert script.run(tmp_path, stop=stop).end is BuildEnd.STOPPED
    assert script.builds == 1
