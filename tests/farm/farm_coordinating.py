"""Coordinators in processes of their own, which tests kill and start again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from farm_jobs import ROOT, Farm

from assay.ports.pools import PoolRun


class Coordinating:
    """Processes that coordinate one run; they can be killed and started again."""

    def __init__(
        self, farm: Farm, plan: PoolRun, *, environment: Mapping[str, str] | None = None, wrapped: tuple[str, ...] = ()
    ) -> None:
        self.farm, self.plan, self.environment, self.wrapped = farm, plan, dict(environment or {}), wrapped
        self.log = (farm.folder / "coordinator.log").open("ab")
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "farm")])
        program = str(ROOT / "tests/farm/farm_jobs.py")
        argv = [*self.wrapped, sys.executable, "-u", program, str(self.farm.folder), self.plan.run]
        environment = {**os.environ, "PYTHONPATH": path, **self.environment}
        process = subprocess.Popen(argv, env=environment, stdout=self.log, stderr=self.log)
        self.processes.append(process)
        return process

    def done(self) -> int:
        return len(list((self.farm.store.root / self.plan.run / "results").glob("*.json")))

    def until(self, count: int, seconds: float = 900.0) -> None:
        """Wait until so many jobs are done, or fail."""
        deadline = time.monotonic() + seconds
        while self.done() < count:
            last = self.processes[-1]
            text = (self.farm.folder / "coordinator.log").read_text(errors="replace")[-2000:]
            assert last.poll() is None or self.done() >= count, f"the coordinator ended with {last.returncode}: {text}"
            assert time.monotonic() < deadline, f"{self.done()} of {count}: {text}"
            time.sleep(0.2)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.log.close()
        print((self.farm.folder / "coordinator.log").read_text(errors="replace")[-8000:])


class Teller:
    """Prints what happens, with the time and how many jobs are done."""

    def __init__(self, coordinating: Coordinating) -> None:
        self._coordinating = coordinating
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        spent = time.monotonic() - self._began
        print(f"{spent:6.1f} s  {self._coordinating.done():3d} done  {text}", flush=True)
