"""The job pool: its rules for keep-going, fail-fast, time-outs, Ctrl-C and progress."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from assay.pipeline.pool import FailFast, JobControl, JobPool

PATIENCE = 20.0
"""Seconds after which a job that should have been stopped gives up."""


class Log:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []

    def started(self, name: str) -> None:
        self.heard.append(("started", name))

    def step(self, name: str, words: str) -> None:
        self.heard.append(("step", name, words))

    def finished(self, name: str, result: str) -> None:
        self.heard.append(("finished", name, result))


def stopped(control: JobControl) -> str:
    """Wait until the job has to end; return how that was said."""
    if not control.stop.wait(PATIENCE):
        return "never stopped"
    return "timed out" if control.timed_out else "stopped"


FAIL_FAST: FailFast[str, str] = FailFast(
    failed=lambda result: result.startswith("failed"), skipped=lambda job: f"skipped {job}"
)


def test_a_failed_job_leaves_the_others_alone() -> None:
    pool: JobPool[str, str] = JobPool(lambda job, _: "failed" if job == "a" else f"done {job}", at_once=2)

    assert sorted(pool.run(["a", "b", "c"])) == ["done b", "done c", "failed"]


def test_results_come_as_jobs_end() -> None:
    taken = threading.Event()

    def work(job: str, control: JobControl) -> str:
        if job == "slow":
            taken.wait(PATIENCE)
        return job

    results = JobPool(work, at_once=2).run(["slow", "quick"])

    assert next(results) == "quick"
    taken.set()
    assert list(results) == ["slow"]


def test_results_can_be_had_in_the_order_of_the_jobs() -> None:
    quick_ended = threading.Event()

    def work(job: str, control: JobControl) -> str:
        if job == "slow":
            quick_ended.wait(PATIENCE)
        else:
            quick_ended.set()
        return job

    assert JobPool(work, at_once=2).run_in_order(["slow", "quick"]) == ["slow", "quick"]


def test_no_more_jobs_run_at_once_than_allowed() -> None:
    lock = threading.Lock()
    running, most = 0, 0

    def work(job: int, control: JobControl) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    list(JobPool(work, at_once=3).run(range(12)))

    assert most == 3


def test_fail_fast_stops_running_jobs_and_skips_waiting_ones() -> None:
    second_runs = threading.Event()

    def work(job: str, control: JobControl) -> str:
        if job == "a":
            second_runs.wait(PATIENCE)
            return "failed a"
        second_runs.set()
        return f"{stopped(control)} {job}"

    pool = JobPool(work, at_once=2, fail_fast=FAIL_FAST)

    assert pool.run_in_order(["a", "b", "c", "d"]) == ["failed a", "stopped b", "skipped c", "skipped d"]


def test_without_a_failure_fail_fast_changes_nothing() -> None:
    pool: JobPool[str, str] = JobPool(lambda job, _: f"done {job}", fail_fast=FAIL_FAST)

    assert pool.run_in_order(["a", "b"]) == ["done a", "done b"]


def test_a_time_out_stops_its_own_job_alone() -> None:
    def work(job: str, control: JobControl) -> str:
        return stopped(control) if job == "long" else "done"

    pool = JobPool(work, at_once=1, timeout=0.05)

    assert pool.run_in_order(["quick", "long", "after"]) == ["done", "timed out", "done"]


def test_a_job_begins_when_it_is_admitted_and_gives_its_room_back() -> None:
    log: list[str] = []

    @contextmanager
    def admit(job: str, control: JobControl) -> Iterator[None]:
        log.append(f"room for {job}")
        yield
        log.append(f"room of {job} is back")

    def work(job: str, control: JobControl) -> str:
        log.append(f"work on {job}")
        return job

    list(JobPool(work, admit=admit).run(["a", "b"]))

    assert log == [
        "room for a", "work on a", "room of a is back", "room for b", "work on b", "room of b is back",
    ]  # fmt: skip


def test_a_job_that_was_stopped_has_not_timed_out() -> None:
    control = JobControl(step=lambda _: None)
    control.stop.set()
    control.end_by_timeout()

    assert not control.timed_out


def test_timers_end_with_their_jobs() -> None:
    before = set(threading.enumerate())
    pool: JobPool[str, str] = JobPool(lambda job, _: job, timeout=600.0)
    list(pool.run(["a", "b"]))
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)

    assert set(threading.enumerate()) <= before


def test_ctrl_c_stops_running_jobs_starts_no_more_and_propagates() -> None:
    ended: list[str] = []

    both_run = threading.Barrier(2)

    def work(job: str, control: JobControl) -> str:
        both_run.wait(PATIENCE)
        if job == "b":
            os.kill(os.getpid(), signal.SIGINT)
        ended.append(f"{stopped(control)} {job}")
        return job

    pool: JobPool[str, str] = JobPool(work, at_once=2)
    with pytest.raises(KeyboardInterrupt):
        list(pool.run(["a", "b", "c", "d"]))

    assert sorted(ended) == ["stopped a", "stopped b"]


def test_a_caller_that_takes_no_more_results_stops_the_jobs() -> None:
    ended: list[str] = []

    both_run = threading.Barrier(2)

    def work(job: str, control: JobControl) -> str:
        both_run.wait(PATIENCE)
        if job != "a":
            ended.append(f"{stopped(control)} {job}")
        return job

    def take_one() -> None:
        for _ in JobPool(work, at_once=2).run(["a", "b"]):
            raise KeyError

    with pytest.raises(KeyError):
        take_one()

    assert ended == ["stopped b"]


def test_an_error_that_a_worker_raises_stops_the_others_and_comes_out() -> None:
    ended: list[str] = []
    second_runs = threading.Event()

    def work(job: str, control: JobControl) -> str:
        if job == "a":
            second_runs.wait(PATIENCE)
            raise ValueError("a bug")
        second_runs.set()
        ended.append(f"{stopped(control)} {job}")
        return job

    with pytest.raises(ValueError, match="a bug"):
        list(JobPool(work, at_once=2).run(["a", "b", "c"]))

    assert ended == ["stopped b"]


def test_the_listener_hears_start_steps_and_end_by_name() -> None:
    log = Log()

    def work(job: int, control: JobControl) -> str:
        control.step("half")
        return "done"

    list(JobPool(work, listener=log, name=lambda job: f"cell {job}").run([1]))

    assert log.heard == [("started", "cell 1"), ("step", "cell 1", "half"), ("finished", "cell 1", "done")]


@pytest.mark.parametrize("broken", ["started", "step", "finished"])
def test_a_broken_listener_costs_no_result_and_is_reported_after_the_last(broken: str) -> None:
    log = Log()

    def fail(*_: str) -> None:
        raise OSError("the terminal is gone")

    setattr(log, broken, fail)
    done: list[str] = []

    def work(job: str, control: JobControl) -> str:
        control.step("half")
        return job

    def take() -> None:
        done.extend(JobPool(work, listener=log).run(["a", "b", "c"]))

    with pytest.raises(OSError, match="the terminal is gone"):
        take()

    assert sorted(done) == ["a", "b", "c"]


def test_no_jobs_give_no_results() -> None:
    pool: JobPool[str, str] = JobPool(lambda job, _: job)

    assert list(pool.run([])) == []


def test_a_lane_that_is_full_does_not_hold_up_another() -> None:
    blocked, done = threading.Event(), list[str]()

    def work(job: str, _: JobControl) -> str:
        if job.startswith("slow"):
            assert blocked.wait(PATIENCE)
        else:
            done.append(job)
            if len(done) == 2:
                blocked.set()
        return job

    pool: JobPool[str, str] = JobPool(work, at_once={"slow": 1, "quick": 1}, lane=lambda job: job.split()[0])
    results = list(pool.run(["slow 1", "slow 2", "quick 1", "quick 2"]))

    assert ["quick 1", "quick 2"] == done
    assert {"slow 1", "slow 2", "quick 1", "quick 2"} == set(results)
