"""The pool of this machine: processes that outlive assay, each of which runs one job document."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from assay.adapters.executors import this_machine
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.adapters.executors.probe_suite import ProbeSuites
from assay.adapters.executors.table import EXECUTORS
from assay.adapters.host import process
from assay.adapters.host.info import LocalHost
from assay.adapters.pools.folder import JobFolder
from assay.errors import EngineError
from assay.matrix.pools import LocalPool
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, Submission

__all__ = ["LocalProbePool"]


class LocalProbePool:
    """This machine; see `assay.ports.pools.ProbePool`.

    Args:
        pool: its entry in pools.yaml.
        root: a folder for jobs and results.
        python: the interpreter that is probed (`executor: local`).
        on_gpus: its jobs need GPUs, where there are any.
    """

    def __init__(self, pool: LocalPool, root: Path, *, python: str | None = None, on_gpus: bool = True) -> None:
        self._pool = pool
        self._python = python
        self._folder = JobFolder(root)
        self._on_gpus = on_gpus
        self.kind = pool.executor

    @cached_property
    def room(self) -> int:
        """One job for each GPU: one that found none free would wait for it as long as those before it take."""
        gpus = this_machine.cuda_devices_in_child()[0] if self._on_gpus and not self._pool.at_once else ()
        return self._pool.at_once or len(gpus) or 4

    def _mark(self, run: str, name: str) -> Path:
        """Return the file that says which process runs a job: made by one coordinator only."""
        return self._folder.root / run / "processes" / name

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Start a process for each job that has none."""
        self._folder.write(jobs)
        said = {item.job.name: self.start(item.job.run, item.job.name, self._command(item)) for item in jobs}
        return {name: why for name, why in said.items() if why}

    def start(self, run: str, name: str, argv: Sequence[str]) -> str:
        """Start a process under a name, unless there was one; return why that failed, or nothing."""
        mark = self._mark(run, name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return ""
        try:
            pid = self._started(argv, self._folder.log(run, name))
            os.write(handle, f"{pid} {_began(pid)}".encode())
        except OSError as error:
            return f"no process could be started: {error.strerror}"
        finally:
            os.close(handle)
        return ""

    def _command(self, item: Submission) -> list[str]:
        job = item.job
        programs = self._folder.suite(item.suite).with_suffix("")
        if not (programs / "probes" / "harness.py").is_file():
            with zipfile.ZipFile(self._folder.suite(item.suite)) as archive:
                archive.extractall(programs)
        paths = (self._folder.job(job.run, job.name), self._folder.result(job.run, job.name))
        argv = [sys.executable, "-m", "assay.adapters.executors.run_job", *map(str, paths)]
        argv += ["--executor", self._pool.executor, "--probes", str(programs / "probes")]
        # For a GPU that another run holds; the coordinator takes waiting for running, so it ends well before the limit.
        argv += ["--wait", f"{job.limits.seconds / 2:g}"]
        return [*argv, "--python", self._python] if self._python else argv

    @staticmethod
    def _started(argv: Sequence[str], log_file: Path) -> int:
        with log_file.open("ab") as log:
            started = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        # It outlives this object and this process; nobody waits for it here.
        started.returncode = 0
        return started.pid

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every job of a run."""
        found: dict[str, JobState] = {}
        for mark in (self._folder.root / run / "processes").glob("*"):
            pid = _pid(mark)
            if pid:
                found[mark.name] = JobState(phase=Phase.RUNNING, said=f"process {pid}")
            else:
                found[mark.name] = JobState(phase=Phase.ENDED, loss=Loss.NO_RESULT, said="its process is gone")
        return found

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:
        """Return what jobs have left since the last call."""
        return self._folder.collect(names, run=run)

    def cancel(self, names: Collection[str], *, run: str) -> None:
        """End the processes of jobs."""
        for name in names:
            if pid := _pid(self._mark(run, name)):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)

    def sweep(self, run: str) -> None:
        """Remove the files of a run."""
        self._folder.sweep(run)

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return the documents, and a script that runs one after the other on any machine with assay."""
        root = self._folder.root
        files = {str(path.relative_to(root)): data for path, data in self._folder.files(jobs).items()}
        lines = ["#!/bin/sh", "# Runs each job on a machine where assay is installed.", 'cd "$(dirname "$0")"']
        lines += [f"mkdir -p {run}/results" for run in sorted({item.job.run for item in jobs})]
        lines += [
            f"python3 -m assay.adapters.executors.run_job {item.job.run}/jobs/{item.job.name}.json "
            f"{item.job.run}/results/{item.job.name}.json --executor {self._pool.executor}"
            for item in jobs
        ]
        return files | {"run.sh": ("\n".join(lines) + "\n").encode()}

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:  # noqa: ARG002 - `assay doctor` asks from here
        """Return what this machine has."""
        items = []
        if self._pool.gpus or this_machine.cuda_devices_in_child()[0]:
            items.append(self._gpus())
        if self._pool.executor == "docker":
            path = process.find("docker")
            items.append(PoolItem(name="docker", ok=path is not None, found=path or "not on PATH"))
        return items or [PoolItem(name="python", ok=True, found=sys.executable)]

    def _gpus(self) -> PoolItem:
        """Return the GPUs that jobs of the pool can get, in containers if they run in those."""
        try:
            names = EXECUTORS[self._pool.executor](ExecutorSettings(suites=ProbeSuites({}))).gpus()
        except EngineError as error:
            return PoolItem(
                name="gpus", ok=False, found=" ".join(error.message.split()), mend=error.hint or "assay doctor"
            )
        there = Counter(f"{gpu.name}, {gpu.capability}" for gpu in LocalHost().gpus())
        products = "; ".join(f"{count} x {product}" for product, count in there.items())
        return PoolItem(name="gpus", ok=True, found=f"{len(names)}" + (f" of {products}" if products else ""))


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's ticks and since which boot: pids are used again."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] == "Z" else f"{boot}/{words[19]}"


def _pid(mark: Path) -> int | None:
    """Return the process that a mark names, if it still runs."""
    try:
        pid, _, began = mark.read_text(encoding="ascii").partition(" ")
        return int(pid) if began and _began(int(pid)) == began else None
    except (OSError, ValueError):
        return None
