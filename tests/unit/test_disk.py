"""Disk space for builds: warnings, refusals, and builds that wait for room."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from assay.adapters.docker.fake_engine import FakeEngine
from assay.adapters.host.info import LocalHost
from assay.errors import EngineError
from assay.matrix import loading, plan
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.pipeline.build_jobs import DiskSpace, PreparedBuild
from assay.pipeline.disk import DiskRoom, build_bytes, check_disk, engine_space, wheel_bytes
from assay.pipeline.pool import JobControl, JobPool

GB = 10**9
PATIENCE = 20.0


@pytest.fixture
def cells(matrix_text: str, image_text: str) -> Sequence[Cell]:
    return plan.make(loading.load(matrix_text, {"serving": image_text})).cells


def item(cell: Cell, *sizes: int, stale: str | None = "the lock changed", obstacle: str | None = None) -> PreparedBuild:
    """Return a build with wheels of these sizes; equal sizes are one wheel."""
    wheels = tuple(
        LockedWheel(
            name=f"w{size}", version="1", filename=f"w{size}-1-py3-none-any.whl", sha256=f"{size:064x}", size=size
        )
        for size in sizes
    )
    lock = Lock(
        cell=cell.id, python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="slim", wheels=wheels
    )
    return PreparedBuild(cell=cell, lock=lock, dockerfile="FROM slim\n", key="k", stale=stale, obstacle=obstacle)


def space(free: int) -> DiskSpace:
    return DiskSpace(folder="/var/lib/docker", free=free)


def test_a_wheel_of_two_cells_counts_once(cells: Sequence[Cell]) -> None:
    locks = [item(cells[0], 2 * GB, GB).lock, item(cells[1], 2 * GB).lock]

    assert wheel_bytes(locks) == 3 * GB
    assert build_bytes(locks, assembled=lambda _: False) == 33 * GB
    assert build_bytes(locks, assembled=lambda _: True) == 21 * GB
    assert build_bytes(locks, assembled=lambda lock: lock is locks[1]) == (3 * 11 + 2 * 7) * GB


def test_too_little_space_warns_or_refuses(cells: Sequence[Cell]) -> None:
    items = [item(cells[0], 2 * GB)]

    assert check_disk(items, space(22 * GB)) == ""
    assert "about 22 GB" in check_disk(items, space(10 * GB))
    with pytest.raises(EngineError, match=r"only 1\.0 GB free in /var/lib/docker, and the wheels alone need 2\.0 GB"):
        check_disk(items, space(GB))


def test_an_assembled_image_takes_less_than_a_built_one(cells: Sequence[Cell]) -> None:
    items = [item(cells[0], 2 * GB, obstacle=""), item(cells[1], GB, obstacle="line 3: RUN")]

    assert check_disk(items, space(25 * GB)) == ""
    assert "about 25 GB" in check_disk(items, space(24 * GB))


def test_space_that_cannot_be_seen_and_builds_that_are_cached_refuse_nothing(cells: Sequence[Cell]) -> None:
    assert check_disk([item(cells[0], 2 * GB)], None) == ""
    assert check_disk([item(cells[0], 2 * GB, stale=None)], space(0)) == ""


def test_a_build_without_room_for_its_wheels_is_refused_and_says_what_to_free(cells: Sequence[Cell]) -> None:
    room = DiskRoom(lambda: space(GB))
    room.check(item(cells[0], GB))
    with pytest.raises(EngineError, match=f"the wheels of {cells[0].id} alone need 2.0 GB") as refused:
        room.check(item(cells[0], 2 * GB))

    assert "docker buildx prune" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("free", "other", "most"),
    [(100 * GB, 2 * GB + 1, 2), (30 * GB, 2 * GB + 1, 1), (0, 2 * GB + 1, 1), (30 * GB, 2 * GB, 2)],
    ids=["room for both", "room for one", "no room", "room for both, which share their wheel"],
)
def test_builds_run_at_once_where_there_is_room_and_one_by_one_elsewhere(
    cells: Sequence[Cell], free: int, other: int, most: int
) -> None:
    room = DiskRoom(lambda: space(free))
    lock = threading.Lock()
    running: list[int] = []
    seen: list[int] = []
    both = threading.Event()

    def work(build: PreparedBuild, control: JobControl) -> None:
        with lock:
            running.append(1)
            seen.append(len(running))
            if len(running) == 2:
                both.set()
        both.wait(PATIENCE if most == 2 else 0.05)
        with lock:
            running.pop()

    builds = [item(cells[0], 2 * GB), item(cells[1], other)]
    list(JobPool(work, at_once=2, admit=room.reserved, name=lambda build: build.cell.id).run(builds))

    assert max(seen) == most
    assert len(seen) == 2


def test_waiting_for_room_is_no_part_of_the_time_out(cells: Sequence[Cell]) -> None:
    room = DiskRoom(lambda: space(0))
    first_runs = threading.Event()

    def work(build: PreparedBuild, control: JobControl) -> bool:
        if not first_runs.is_set():
            first_runs.set()
            control.stop.wait(PATIENCE)
            return control.timed_out
        return control.timed_out

    builds = [item(cells[0], GB), item(cells[1], GB)]
    pool = JobPool(work, at_once=2, timeout=0.2, admit=room.reserved, name=lambda build: build.cell.id)

    assert sorted(pool.run(builds)) == [False, True]


def test_a_build_that_has_to_end_waits_no_longer(cells: Sequence[Cell]) -> None:
    room = DiskRoom(lambda: space(0))
    said: list[str] = []
    control = JobControl(step=said.append)
    with room.reserved(item(cells[0], GB), JobControl(step=said.append)):
        threading.Timer(0.05, control.stop.set).start()
        with room.reserved(item(cells[1], GB), control):
            pass

    assert said[0] == "waiting for disk space: 0 GB free in /var/lib/docker, builds at once may take 11 GB"
    assert len(said) <= 2


def test_the_space_of_an_engine_elsewhere_cannot_be_seen(tmp_path: Path) -> None:
    here = replace(FakeEngine().info(), root_dir=str(tmp_path), local=True)
    seen = engine_space(here, LocalHost())

    assert seen is not None
    assert (seen.folder, seen.free > 0) == (str(tmp_path), True)
    assert engine_space(replace(here, local=False), LocalHost()) is None
