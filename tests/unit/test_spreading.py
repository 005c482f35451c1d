"""Cells are spread over builders, move when one dies, and are never blamed for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_tools import put_image

from assay.adapters.docker.fake_builder import FakeBuilder
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import EngineMissing, RegistryError
from assay.evidence.reference import Repository
from assay.pipeline.spreading import SpreadBuilder, SpreadLimits, name_pushed
from assay.ports.builder import BuildEnd, BuildFault, BuildOutcome, BuildTask, FaultKind

QUICK = SpreadLimits(each=2, patience=0.5, attempts=3, again=0.05, misses=2, rest=0.02)
BUILT = BuildOutcome(end=BuildEnd.BUILT, digest="sha256:" + "a" * 64)
FAILED = BuildOutcome(end=BuildEnd.FAILED, reason="exit code: 1")


def fault(kind: FaultKind) -> BuildOutcome:
    end = BuildEnd.REGISTRY if kind.of_registry else BuildEnd.ENGINE
    return BuildOutcome(end=end, reason=kind.value, fault=BuildFault(kind=kind, said=kind.value, tries=1))


class Host:
    """A builder that takes some time, dies when it is told to, and counts what it does."""

    def __init__(self, name: str, *, takes: float = 0.02, outcome: BuildOutcome = BUILT) -> None:
        self.name = name
        self.takes = takes
        self.outcome = outcome
        self.dead = threading.Event()
        self.hangs = False
        self.began: list[BuildTask] = []
        self.at_once = 0
        self.most = 0
        self._guard = threading.Lock()

    @property
    def builder(self) -> Host:
        return self

    def ask(self) -> str:
        return "no connection" if self.dead.is_set() or self.hangs else ""

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        raise AssertionError("repeated by hand elsewhere")

    def build(self, task: BuildTask) -> BuildOutcome:
        with self._guard:
            self.began.append(task)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        task.log.write_text(self.name)
        try:
            assert task.stop is not None
            if self.hangs and task.stop.wait(10):
                return BuildOutcome(end=BuildEnd.STOPPED)
            if self.dead.wait(self.takes):
                # The words of a builder that dies are not always understood.
                return BuildOutcome(end=BuildEnd.FAILED, reason="rpc error")
            return BuildOutcome(end=BuildEnd.STOPPED) if task.stop.is_set() else self.outcome
        finally:
            with self._guard:
                self.at_once -= 1


class Farm:
    """A builder of several hosts, and cells that are built on it as the job pool does it."""

    def __init__(self, folder: Path, *hosts: Host, limits: SpreadLimits = QUICK) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.named: list[str] = []
        self.spread = SpreadBuilder(
            hosts, name=self._name, by_hand=FakeBuilder(), what="farm", limits=limits, say=self.said.append
        )

    def _name(self, references: Sequence[str], digest: str, builder: str) -> None:
        self.named += references

    def task(self, cell: str, *, dockerfile: str = "FROM scratch\n", stop: threading.Event | None = None) -> BuildTask:
        folder = self.folder / cell
        folder.mkdir(exist_ok=True)
        tag = f"registry.example/team/x:{cell}"
        return BuildTask(dockerfile=dockerfile, tags=(tag,), log=folder / "build.log", stop=stop)

    def run(self, count: int, *, at_once: int = 6, meanwhile: Callable[[], None] = lambda: None) -> list[BuildOutcome]:
        self.spread.open([])
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(self.spread.build, self.task(f"c{number:02d}")) for number in range(count)]
            meanwhile()
            return [future.result(20) for future in futures]


def ends(outcomes: Sequence[BuildOutcome]) -> Counter[BuildEnd]:
    return Counter(outcome.end for outcome in outcomes)


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_every_builder_takes_a_few_cells_at_a_time(tmp_path: Path) -> None:
    hosts = [Host("a"), Host("b"), Host("c", takes=0.2)]
    farm = Farm(tmp_path, *hosts)
    outcomes = farm.run(24)

    assert {BuildEnd.BUILT: 24} == ends(outcomes)
    assert 24 == sum(len(host.began) for host in hosts)
    assert 24 == len(set(farm.named))
    assert all(host.most <= 2 for host in hosts)
    assert Counter(outcome.builder for outcome in outcomes) == {host.name: len(host.began) for host in hosts}
    # A slow builder takes fewer, and nobody waits for it.
    assert len(hosts[2].began) < len(hosts[0].began)


def test_a_builder_that_is_dead_from_the_start_gets_nothing_and_one_that_dies_loses_nothing(tmp_path: Path) -> None:
    dead, dies, lives = Host("dead"), Host("dies", takes=0.05), Host("lives", takes=0.05)
    dead.dead.set()
    farm = Farm(tmp_path, dead, dies, lives)

    def kill() -> None:
        wait_for(lambda: len(dies.began) >= 3 and dies.at_once > 0)
        dies.dead.set()

    outcomes = farm.run(24, meanwhile=kill)

    assert {BuildEnd.BUILT: 24} == ends(outcomes)
    assert (0, 24) == (len(dead.began), len(set(farm.named)))
    assert 24 == len(farm.named), "a cell was built twice"
    assert {"dies", "lives"} == {outcome.builder for outcome in outcomes}
    assert list(tmp_path.glob("*/build-1.log")), "the log of the lost try is kept"
    assert [
        "dead of farm does not answer (no connection): it gets no cells; asked again every 0 s",
        "dies of farm does not answer (no connection): it gets no cells; asked again every 0 s",
    ] == farm.said


def test_a_builder_that_comes_back_gets_cells_again(tmp_path: Path) -> None:
    away, here = Host("away"), Host("here", takes=0.1)
    away.dead.set()
    farm = Farm(tmp_path, away, here)
    outcomes = farm.run(12, meanwhile=away.dead.clear)

    assert {BuildEnd.BUILT: 12} == ends(outcomes)
    assert away.began
    assert "away of farm answers again" == farm.said[-1]


def test_a_builder_that_hangs_is_left_and_its_cells_move(tmp_path: Path) -> None:
    hangs, lives = Host("hangs", takes=0.5), Host("lives")
    farm = Farm(tmp_path, hangs, lives)

    def hang() -> None:
        hangs.hangs = True

    farm.spread.open([])
    hang()
    outcomes = farm.spread.build(farm.task("one"))

    assert (BuildEnd.BUILT, "lives") == (outcomes.end, outcomes.builder)
    assert 1 == len(hangs.began)


def test_no_living_builder_is_an_error_before_anything_is_built(tmp_path: Path) -> None:
    host = Host("a")
    host.dead.set()

    with pytest.raises(EngineMissing, match="no builder of farm answers: a: no connection") as caught:
        Farm(tmp_path, host).spread.open([])
    assert (4, []) == (caught.value.exit_code, host.began)


def test_when_all_die_those_that_wait_end_after_the_patience_of_the_pool(tmp_path: Path) -> None:
    host = Host("a", takes=5)
    farm = Farm(tmp_path, host)
    farm.spread.open([])
    killer = threading.Timer(0.05, host.dead.set)
    killer.start()
    begun = time.monotonic()

    with pytest.raises(EngineMissing, match="no builder of farm answers"):
        farm.spread.build(farm.task("one"))
    assert QUICK.patience <= time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", [FaultKind.DISK_FULL, FaultKind.LOST, FaultKind.CLIENT])
def test_a_fault_of_a_builder_that_answers_moves_the_cell(tmp_path: Path, kind: FaultKind) -> None:
    broken, good = Host("broken", outcome=fault(kind)), Host("good")
    farm = Farm(tmp_path, broken, good)
    outcomes = farm.run(6, at_once=1)

    assert {BuildEnd.BUILT: 6} == ends(outcomes)
    assert {"good"} == {outcome.builder for outcome in outcomes}


def test_a_cell_that_no_builder_survives_is_given_up_without_blame(tmp_path: Path) -> None:
    hosts = [Host("a", outcome=fault(FaultKind.LOST)), Host("b", outcome=fault(FaultKind.LOST))]
    outcome = Farm(tmp_path, *hosts).spread.build(Farm(tmp_path, *hosts).task("one"))

    assert (BuildEnd.ENGINE, None) == (outcome.end, outcome.fault)
    assert outcome.reason.startswith("farm lost 3 builders under this cell")
    assert 3 == sum(len(host.began) for host in hosts)


def test_a_registry_that_one_builder_cannot_reach_is_tried_from_another(tmp_path: Path) -> None:
    cut_off, good = Host("cut off", outcome=fault(FaultKind.REGISTRY_DNS)), Host("good")
    farm = Farm(tmp_path, cut_off, good)

    assert {BuildEnd.BUILT: 8} == ends(farm.run(8))


def test_a_registry_that_no_builder_reaches_is_left_to_the_retries(tmp_path: Path) -> None:
    hosts = [Host(name, outcome=fault(FaultKind.REGISTRY_UNREACHABLE)) for name in "ab"]
    farm = Farm(tmp_path, *hosts)
    outcome = farm.spread.build(farm.task("one"))

    assert outcome.fault is not None
    assert (BuildEnd.REGISTRY, 1) == (outcome.end, outcome.fault.tries)
    assert [1, 1] == [len(host.began) for host in hosts]


def test_a_failure_of_the_cell_is_its_own_and_is_not_moved(tmp_path: Path) -> None:
    hosts = [Host(name, outcome=FAILED) for name in "ab"]
    farm = Farm(tmp_path, *hosts)
    outcome = farm.spread.build(farm.task("one"))

    assert (BuildEnd.FAILED, 1) == (outcome.end, sum(len(host.began) for host in hosts))
    assert [] == farm.named


def test_stopping_ends_builds_and_those_that_wait(tmp_path: Path) -> None:
    host = Host("a", takes=10)
    farm = Farm(tmp_path, host)
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(farm.spread.build, farm.task(f"c{number}", stop=stop)) for number in range(4)]
        wait_for(lambda: host.at_once == 2)
        stop.set()
        host.takes = 0
        host.dead.set()
        outcomes = [future.result(10) for future in futures]

    assert BuildEnd.BUILT not in ends(outcomes)
    assert 2 == len(host.began)
    assert [] == farm.said, "a builder that is stopped is not asked"


def test_tags_are_set_here_and_only_for_what_the_registry_has() -> None:
    registry, repository = FakeRegistry(), Repository.parse("registry.example/team/x")
    manifest = put_image(registry, repository, None)
    name_pushed(registry, [repository.tagged("one")], manifest.digest, "tcp://b1")
    found = registry.resolve(repository, "one")

    assert found is not None
    assert manifest.digest == found.digest
    with pytest.raises(RegistryError, match=r"tcp://b1 pushed sha256:b+, and registry\.example/team/x does"):
        name_pushed(registry, [repository.tagged("two")], "sha256:" + "b" * 64, "tcp://b1")


WHEEL = "FROM scratch AS wheel\nCOPY x /out\nFROM scratch AS image\nCOPY --link --from=wheel /out/ /\nLABEL cell={}\n"


def shared_run(farm: Farm, count: int = 6) -> list[BuildOutcome]:
    texts = [WHEEL.format(number) for number in range(count)]
    farm.spread.open(texts)
    tasks = [farm.task(f"c{number}", dockerfile=text) for number, text in enumerate(texts)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(farm.spread.build, tasks))


def test_a_shared_layer_is_built_first_alone_and_once_and_all_take_it_from_the_registry(tmp_path: Path) -> None:
    hosts = [Host("a"), Host("b")]
    farm = Farm(tmp_path, *hosts)
    outcomes = shared_run(farm)
    began = [task for host in hosts for task in host.began]
    (alone,) = [task for task in began if not task.tags]
    caches = {task.cache_from for task in began if task.tags}

    assert {BuildEnd.BUILT: 6} == ends(outcomes)
    assert 7 == len(began)
    assert alone.dockerfile.endswith("FROM scratch AS image\nCOPY --link --from=wheel /out/ /\n")
    assert alone.cache_to.startswith("registry.example/team/x:cache-")
    assert {(alone.cache_to,)} == caches
    assert 6 == len(farm.named)
    assert 1 == len(list(tmp_path.glob("*/layers.log")))


def test_a_shared_layer_whose_builder_dies_is_made_by_another(tmp_path: Path) -> None:
    dies, lives = Host("dies", takes=5), Host("lives")
    farm = Farm(tmp_path, dies, lives)
    killer = threading.Timer(0.1, dies.dead.set)
    killer.start()
    outcomes = shared_run(farm)

    assert {BuildEnd.BUILT: 6} == ends(outcomes)
    assert {"lives"} == {outcome.builder for outcome in outcomes}
    assert [()] == [task.tags for task in lives.began][:1]


def test_a_shared_layer_that_cannot_be_built_fails_each_cell_by_its_own_build(tmp_path: Path) -> None:
    host = Host("a", outcome=FAILED)
    outcomes = shared_run(Farm(tmp_path, host), 2)

    assert {BuildEnd.FAILED: 2} == ends(outcomes)
    assert 2 == len([task for task in host.began if task.tags])
    assert (tmp_path / "c0" / "build.log").is_file()
