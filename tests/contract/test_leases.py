"""What leases of GPUs do: one suite for locked files and for the fake."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from assay.adapters.executors.fake import FakeLeases
from assay.adapters.executors.gpu_leases import FileLeases
from assay.errors import GpuMissing, Interrupted
from assay.ports.executor import Leases


@pytest.fixture(params=["fake", "files"])
def leases(request: pytest.FixtureRequest, tmp_path: Path) -> Leases:
    return FakeLeases() if request.param == "fake" else FileLeases(tmp_path)


def test_one_gpu_has_one_user(leases: Leases) -> None:
    with leases.take(("0", "1"), 1, wait_seconds=0) as held, leases.take(("0", "1"), 1, wait_seconds=0) as other:
        assert {"0", "1"} == {*held, *other}
        with pytest.raises(GpuMissing, match="became free"), leases.take(("0", "1"), 1, wait_seconds=0):
            pass


def test_what_was_given_back_is_there_again(leases: Leases) -> None:
    for _ in range(2):
        with leases.take(("0", "1"), 2, wait_seconds=0) as both:
            assert ("0", "1") == both


def test_it_is_given_back_after_an_error(leases: Leases) -> None:
    with pytest.raises(KeyError), leases.take(("0",), 1, wait_seconds=0):
        raise KeyError
    with leases.take(("0",), 1, wait_seconds=0) as held:
        assert ("0",) == held


def test_fewer_than_are_asked_for_are_not_held(leases: Leases) -> None:
    """Who waits for two must not keep the one that is free from others."""
    with leases.take(("0", "1"), 1, wait_seconds=0):
        with pytest.raises(GpuMissing), leases.take(("0", "1"), 2, wait_seconds=0):
            pass
        with leases.take(("0", "1"), 1, wait_seconds=0) as rest:
            assert 1 == len(rest)


def test_more_gpus_than_there_are(leases: Leases) -> None:
    with pytest.raises(GpuMissing, match="3 GPUs are needed, 1 can be given"), leases.take(("0",), 3, wait_seconds=60):
        pass


def test_none_are_given_at_once(leases: Leases) -> None:
    with leases.take((), 0, wait_seconds=0) as held:
        assert () == held


def test_who_waits_gets_it_when_it_is_free(leases: Leases) -> None:
    order: list[str] = []

    def second() -> None:
        with leases.take(("0",), 1, wait_seconds=30):
            order.append("second")

    with leases.take(("0",), 1, wait_seconds=0):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(30)

    assert ["first", "second"] == order


def test_a_stop_ends_the_wait(leases: Leases) -> None:
    stop = threading.Event()

    with leases.take(("0",), 1, wait_seconds=0):
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Interrupted), leases.take(("0",), 1, wait_seconds=60, stop=stop):
            pass


def test_many_at_once_never_share(leases: Leases) -> None:
    busy: set[str] = set()
    shared: list[str] = []
    lock = threading.Lock()

    def use() -> None:
        for _ in range(5):
            with leases.take(("0", "1"), 1, wait_seconds=60) as (name,):
                with lock:
                    shared.extend(busy & {name})
                    busy.add(name)
                time.sleep(0.001)
                with lock:
                    busy.discard(name)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == shared
