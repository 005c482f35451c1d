"""Audits on workers that are lost in every way: reports come home in order, whole, and of the right lock only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from assay.audit.findings import AuditReport
from assay.cli import audit_worker
from assay.errors import AssayError, StoreError, UsageError
from assay.foundation.outcome import Verdict
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.pools import load_pools
from assay.pipeline.audit_farm import AskedCell, AuditedCell, AuditFarm, AuditJob, AuditPart, FarmLimits
from assay.ports.jobs import seal, unseal
from assay.ports.pools import JobState, Loss, Phase, PoolSilent

Fate = Literal["finishes", "killed", "cut_off", "foreign", "held", "refused", "error", "vanishes"]
LIMITS = FarmLimits(attempts=3, patience=10, grace=2, every=1, share=2)


def report(name: str, *, seconds: float = 0.0) -> AuditReport:
    return AuditReport(
        name=name, subject="wheels", python="3.11", base="slim", targets=(), verdict=Verdict.OK, findings=(),
        seconds=seconds,
    )  # fmt: skip


@dataclass
class FakeWorkers:
    """Workers in memory: each is done one look after it was started, or meets its fate; see `WorkerPool`."""

    fate: Callable[[AuditJob], Fate] = lambda _: "finishes"
    room: int = 4
    silent: Collection[int] = ()
    now: int = 0
    jobs: list[AuditJob] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    at_once: int = 0
    _states: dict[str, JobState] = field(default_factory=dict)
    _left: list[bytes] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.now += int(seconds)
        for name, job in [(one.name, one) for one in self.jobs if self._states.get(one.name) == RUNNING]:
            self._end(name, job)

    def submit(self, run: str, name: str, job: bytes) -> str:
        made = unseal(job, AuditJob, source=name)
        assert made.name == name
        assert name.startswith(f"{run}-")
        if self.fate(made) == "refused":
            return "no such partition"
        self.jobs.append(made)
        self._states[name] = RUNNING
        self.at_once = max(self.at_once, sum(state == RUNNING for state in self._states.values()))
        return ""

    def _end(self, name: str, job: AuditJob) -> None:
        fate = self.fate(job)
        done = job.cells[: len(job.cells) // 2] if fate in {"killed", "vanishes", "held"} else job.cells
        if job.wheels:
            part = AuditPart(wheels=job.wheels)
        elif fate == "error":
            part = AuditPart(
                reports=tuple(AuditedCell(cell=one, error="no index answers", hint="wait") for one in done)
            )
        else:
            lock = {"lock": "sha256:another"} if fate == "foreign" else {}
            cells = [one.model_copy(update=lock) for one in done]
            part = AuditPart(reports=tuple(AuditedCell(cell=one, report=report(one.id)) for one in cells))
        self._left.append(seal(part)[: -20 if fate == "cut_off" else None])
        match fate:
            case "vanishes":
                del self._states[name]
            case "held":
                self._states[name] = JobState(phase=Phase.WAITING, loss=Loss.HELD, said="requeued held")
            case _:
                self._states[name] = JobState(phase=Phase.ENDED, said="its process is gone")

    def poll(self, run: str) -> Mapping[str, JobState]:
        if self.now in self.silent:
            raise PoolSilent("the controller does not answer")
        return dict(self._states)

    def documents(self, run: str) -> Iterator[bytes]:
        found, self._left = self._left, []
        yield from found

    def cancel(self, names: Collection[str], *, run: str) -> None:
        self.cancelled += names
        for name in names:
            self._states.pop(name, None)

    def sweep(self, run: str) -> None:
        self.swept.append(run)


RUNNING = JobState(phase=Phase.RUNNING, where="n1")


@dataclass
class FakeAuditor:
    """Knows some verdicts and wheels, and judges here what it is asked for."""

    kept: Collection[str] = ()
    unknown: Collection[str] = ()
    judged: list[str] = field(default_factory=list)

    def kept_report(self, cell: Cell, *_: object, **__: object) -> AuditReport | None:
        return report(cell.id, seconds=1.0) if cell.id in self.kept else None

    def unread(self, locks: Any) -> list[str]:
        return [one.sha256 for lock in locks for one in lock.wheels if one.sha256 in self.unknown]

    def cell(self, cell: Cell, *_: object, **__: object) -> AuditReport:
        self.judged.append(cell.id)
        return report(cell.id, seconds=2.0)


@pytest.fixture
def asked(make_cell: Callable[[int], Cell]) -> list[tuple[Cell, Lock]]:
    pairs = []
    for number in range(8):
        wheel = LockedWheel(name="thing", version=f"{number}", filename="t.whl", sha256=f"{number:064x}")
        cell = make_cell(number)
        pairs.append(
            (
                cell,
                Lock(
                    cell=cell.id,
                    python="3.11",
                    platform="x86_64-manylinux_2_36",
                    requirements=(),
                    base="b",
                    wheels=(wheel,),
                ),
            )
        )
    return pairs


@pytest.fixture
def make_cell(root: Path) -> Callable[[int], Cell]:
    from assay.cli.common import load

    first = load(root)[1].cells[0]
    return lambda number: first.model_copy(update={"id": f"cell-{number}"})


@dataclass
class Scene:
    """A farm, and what it said."""

    pool: FakeWorkers
    auditor: FakeAuditor = field(default_factory=FakeAuditor)
    said: list[str] = field(default_factory=list)
    limits: FarmLimits = LIMITS

    def audit(self, asked: list[tuple[Cell, Lock]]) -> list[tuple[str, AuditReport | AssayError]]:
        farm = AuditFarm(
            pool=self.pool, make=lambda: cast("Any", self.auditor), project="/p", limits=self.limits,
            say=self.said.append, clock=lambda: float(self.pool.now), wait=self.pool.wait,
        )  # fmt: skip
        return [(cell.id, found) for cell, found in farm(asked, cast("Any", None), None)]


def whole(asked: list[tuple[Cell, Lock]]) -> list[tuple[str, AuditReport]]:
    return [(cell.id, report(cell.id)) for cell, _ in asked]


def test_reports_come_in_the_order_of_the_cells_without_what_they_cost(asked: list[tuple[Cell, Lock]]) -> None:
    scene = Scene(FakeWorkers(), FakeAuditor(kept={"cell-2", "cell-3"}))

    assert whole(asked) == scene.audit(asked)
    assert 4 == len(scene.pool.jobs) == scene.pool.at_once
    assert [] == scene.auditor.judged
    assert 1 == len(scene.pool.swept)


@pytest.mark.parametrize("fate", ["killed", "cut_off", "foreign", "held", "vanishes"])
def test_what_a_lost_worker_did_not_write_goes_to_another_one(asked: list[tuple[Cell, Lock]], fate: Fate) -> None:
    scene = Scene(FakeWorkers(fate=lambda job: fate if job.name.endswith("-1") else "finishes"))

    assert whole(asked) == scene.audit(asked)
    assert [] == scene.auditor.judged
    assert {"1", "2"} == {job.name.rpartition("-")[2] for job in scene.pool.jobs}
    assert any("the pool lost a worker" in line for line in scene.said)


@pytest.mark.parametrize("fate", ["killed", "refused"])
def test_this_machine_audits_what_the_pool_never_brings_home(asked: list[tuple[Cell, Lock]], fate: Fate) -> None:
    scene = Scene(FakeWorkers(fate=lambda job: fate if job.cells[0].id == "cell-0" else "finishes"))

    assert whole(asked) == scene.audit(asked)
    assert set(scene.auditor.judged) < {cell.id for cell, _ in asked}
    assert any("this machine does the" in line for line in scene.said)


def test_each_unread_wheel_is_given_to_one_worker_before_any_cell_is(asked: list[tuple[Cell, Lock]]) -> None:
    unknown = [f"{number:064x}" for number in (1, 3, 4, 5, 6)]
    scene = Scene(FakeWorkers(fate=lambda job: "finishes"), FakeAuditor(unknown=unknown))
    scene.audit(asked)
    reading = [job for job in scene.pool.jobs if job.wheels]

    assert sorted(unknown) == sorted(wheel for job in reading for wheel in job.wheels)
    assert reading == scene.pool.jobs[: len(reading)]
    assert all(len(job.cells) == len(job.wheels) for job in reading)


def test_a_cell_that_cannot_be_audited_says_why_and_is_not_tried_again(asked: list[tuple[Cell, Lock]]) -> None:
    found = Scene(FakeWorkers(fate=lambda _: "error")).audit(asked)

    assert {"no index answers\n  try: wait"} == {str(error) for _, error in found}


def test_a_pool_that_is_silent_for_a_while_is_asked_again_and_for_long_ends_the_run(
    asked: list[tuple[Cell, Lock]],
) -> None:
    assert whole(asked) == Scene(FakeWorkers(silent=range(1, 6))).audit(asked)
    with pytest.raises(PoolSilent, match="does not answer"):
        Scene(FakeWorkers(fate=lambda _: "killed", silent=range(1, 60))).audit(asked)


def test_a_second_process_continues_where_the_first_was_killed(asked: list[tuple[Cell, Lock]]) -> None:
    pool = FakeWorkers()
    scene = Scene(pool)
    waits = iter(range(1, 3))

    def killed(_: float) -> None:
        if next(waits) == 2:
            raise SystemExit

    real, pool.wait = pool.wait, killed  # type: ignore[method-assign,assignment]
    with pytest.raises(SystemExit):
        scene.audit(asked)
    pool.wait = real  # type: ignore[method-assign]

    assert whole(asked) == scene.audit(asked)
    assert 4 == len(pool.jobs)


def test_ctrl_c_ends_the_workers(asked: list[tuple[Cell, Lock]]) -> None:
    pool = FakeWorkers()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    pool.wait = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        Scene(pool).audit(asked)

    assert sorted(job.name for job in pool.jobs) == sorted(pool.cancelled)


def test_small_rooms_are_not_overfilled(asked: list[tuple[Cell, Lock]]) -> None:
    scene = Scene(FakeWorkers(room=1), limits=replace(LIMITS, share=1))

    assert whole(asked) == scene.audit(asked)
    assert 1 == scene.pool.at_once


@pytest.mark.parametrize(
    "pool",
    [
        "{kind: ssh, hosts: [{context: gpu1}]}",
        "{kind: kubernetes, context: c, namespace: n}",
        '{kind: buildkit, endpoints: ["tcp://h:1"]}',
    ],
)
def test_kinds_without_a_shared_folder_are_refused_with_what_to_do_instead(pool: str, tmp_path: Path) -> None:
    from assay.adapters.pools.workers import workers_of

    entry = load_pools(f"pools: {{far: {pool}}}").pool("far")
    with pytest.raises(UsageError, match=r"share no folder with this one(?s:.*)assay facts push\|pull"):
        workers_of("far", entry, tmp_path)


def test_documents_of_workers_are_read_once_and_only_whole(tmp_path: Path) -> None:
    from assay.adapters.pools.workers import workers_of

    pool = load_pools("pools: {here: {kind: local}}").pool("here")
    workers = workers_of("here", pool, tmp_path)
    folder = tmp_path / "audit-1" / "results"
    folder.mkdir(parents=True)
    part = seal(AuditPart(reports=(AuditedCell(cell=AskedCell(id="a", lock="b"), error="x"),)))
    (folder / "audit-1-0-1-00000.json").write_bytes(part)
    (folder / ".audit-1-0-1-00001.json.tmp").write_bytes(part[:10])

    assert [part] == list(workers.documents("audit-1"))
    assert [] == list(workers.documents("audit-1"))


@pytest.mark.parametrize(
    "changes",
    [{"name": "../../x"}, {"name": "a/b"}, {"name": "x\0"}, {"project": "p"}, {"project": "/p\0"}, {"facts": "f"}],
)
def test_a_job_that_names_no_place_of_its_own_is_refused(changes: dict[str, str]) -> None:
    job = AuditJob(name="audit-1-0-1", project="/p\nq", facts="/f", cells=())
    sealed = seal(job.model_copy(update=changes))

    assert job.name == unseal(seal(job), AuditJob, source="job").name
    with pytest.raises(StoreError):
        unseal(sealed, AuditJob, source="job")


def test_a_worker_s_words_hold_no_terminal_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = AuditJob(name="a", project=f"/{'x' * 10}\x1b[2J", cells=())
    (tmp_path / "job.json").write_bytes(seal(job))

    assert 2 == audit_worker.main([str(tmp_path / "job.json"), str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().err
    (tmp_path / "\x1b[2J.json").write_bytes(b"x")
    assert 1 == audit_worker.main([str(tmp_path / "\x1b[2J.json"), str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().err
