"""Runs one job document on this machine: `python -m assay.adapters.executors.run_job JOB.json RESULT.json`.

This is what SSH, Slurm or Kubernetes call where a job is sent. The result is a sealed document, written whole or not at
all, after each probe and at the end; the log is beside it (`RESULT.json.log`). A job whose result is there is not run
again. The exit code says whether there is a result, whatever is in it: 0, or that of the error (2: the job cannot be
run here, 4: no engine or GPU).
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from assay.adapters.executors.gpu_leases import FileLeases
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.adapters.executors.probe_suite import ProbeSuites, load_suite, suite_in
from assay.adapters.executors.table import EXECUTORS
from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.errors import AssayError, EngineError, EngineMissing, StoreError, UsageError
from assay.evidence.record import now
from assay.evidence.suite import HarnessResult
from assay.ports.executor import Executor, JobListener, Leases, Stop
from assay.ports.jobs import JobResult, ProbeJob, seal, unseal

__all__ = ["log_of", "main", "run_document"]


def log_of(result: Path) -> Path:
    """Return the path of the log that a result refers to."""
    return result.with_name(result.name + ".log")


def run_document(
    job: ProbeJob, result: Path, executor: Executor, leases: Leases, *, wait_seconds: float, stop: Stop
) -> JobResult:
    """Run a job, keep its result in a file, and return it.

    Raises:
        UsageError: what is to be probed is another thing here than where the job was made.
        EngineMissing, GpuMissing: it cannot be run here.
        StoreError: the result cannot be written.
    """
    if (there := _done(job, result)) is not None:
        return there
    here = executor.place(job.place.reference)
    if job.place.digest not in {None, here.digest}:
        raise UsageError(
            f"{job.place.reference} is {here.digest} on this machine, and {job.place.digest} in the job",
            hint="pull or load the image of the job, or create the job again",
        )
    count = len(job.devices.names) or job.devices.count
    gpus = (job.devices.names or executor.gpus()) if count else ()
    with leases.take(gpus, count, wait_seconds=wait_seconds, stop=stop) as held:
        devices = job.devices.model_copy(update={"count": count, "names": held})
        mine = job.model_copy(update={"devices": devices})

        def keep(harness: HarnessResult) -> None:
            so_far = JobResult(job=job.digest, executor=executor.name, ended="unfinished", harness=harness)
            write_whole(result, seal(so_far))

        listener = JobListener(line=_say, measured=keep, log=lambda data: write_whole(log_of(result), data))
        # The names of the GPUs are this machine's: the result is that of the job as it was sent.
        made = executor.run(mine, listener=listener, stop=stop)
        made = made.model_copy(update={"job": job.digest, "machine": platform.node(), "written": now()})
    write_whole(result, seal(made))
    return made


def _done(job: ProbeJob, result: Path) -> JobResult | None:
    """Return the result of the job if it is there, whole, and not one of a run that broke off."""
    try:
        found = unseal(read_regular(result), JobResult, source=result.name)
    except (OSError, StoreError):
        return None
    return found if found.job == job.digest and found.ended != "unfinished" else None


def _swept(executor: Executor) -> None:
    """Remove what killed runs left on this machine, as far as that can be done."""
    try:
        executor.sweep()
    except EngineMissing:
        raise
    except EngineError as error:
        _say(f"the leftovers of a killed run could not be removed: {error.message}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Run the job that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="run_job", description="Run one job of probes and write its result.")
    parser.add_argument("job", type=Path, help="the job document")
    parser.add_argument("result", type=Path, help="where the result is written")
    parser.add_argument("--executor", choices=list(EXECUTORS), default="docker")
    parser.add_argument("--python", help="the Python that is probed (--executor local)")
    parser.add_argument("--probes", type=Path, help="folder of the probe programs [default: those of assay]")
    parser.add_argument("--cache", type=Path, help="folder for what is compiled at run time")
    parser.add_argument("--wait", type=float, default=600.0, help="seconds to wait for a free GPU")
    given = parser.parse_args(argv)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        job = unseal(read_regular(given.job), ProbeJob, source=given.job.name)
        suite = suite_in(given.probes) if given.probes else load_suite(Path.cwd())
        settings = ExecutorSettings(suites=ProbeSuites(suite), cache=given.cache, python=given.python)
        executor = EXECUTORS[given.executor](settings)
        _swept(executor)
        made = run_document(job, given.result, executor, FileLeases(), wait_seconds=given.wait, stop=stop)
    except AssayError as error:
        _say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        _say(f"error: {error.filename}: {error.strerror}")
        return UsageError.exit_code
    _say(f"{job.name}: {made.ended}" + (f": {made.message}" if made.message else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
