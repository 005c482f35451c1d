"""A real Slurm cluster of four nodes on one machine, each with two made-up GPUs; everything lies in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
NODES = ("n1", "n2", "n3", "n4")

_CONF = """
ClusterName=assayfarm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=300
KillWait=2
SlurmctldTimeout=30
SlurmdTimeout=15
InactiveLimit=0
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 Gres=gpu:h200:2 State=UNKNOWN
HealthCheckProgram={root}/health
HealthCheckInterval=10
HealthCheckNodeState=ANY
PartitionName=low Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP PreemptMode=REQUEUE PriorityTier=1
PartitionName=high Nodes=n[1-4] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""
# A controller that was killed starts jobs again that run already, and drains their nodes for it; a site's health check
# puts them back.
_HEALTH = """#!/bin/sh
export SLURM_CONF={conf}
for node in $(sinfo -h -N -t drained -o %N | sort -u); do scontrol update nodename=$node state=resume; done
"""
_GRES = "NodeName=n[1-4] Name=gpu Type=h200 File=/dev/null\nNodeName=n[1-4] Name=gpu Type=h200 File=/dev/zero\n"


def _free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that nobody uses."""
    for first in range(17100, 29000, 10):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


class SlurmCluster:
    """Starts on entering; on leaving, every process that it started is gone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def env(self) -> Mapping[str, str]:
        """What Slurm's commands need."""
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def __enter__(self) -> Self:
        root = self.root
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        (root / "state").mkdir()
        first = _free_ports(5)
        words = {"root": root, "host": socket.gethostname().split(".")[0], "port": first}
        self.conf.write_text(_CONF.format(**words, first=first + 1, last=first + 4))
        (root / "gres.conf").write_text(_GRES)
        (root / "health").write_text(_HEALTH.format(conf=self.conf))
        (root / "health").chmod(0o755)
        key = root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        try:
            self._start("munged", "munged", "--foreground", "--force", f"--socket={root}/munge.sock",
                        f"--key-file={key}", f"--pid-file={root}/munged.pid", f"--log-file={root}/munged.log",
                        f"--seed-file={root}/munged.seed")  # fmt: skip
            self._until((root / "munge.sock").exists, "munged")
            self.start_controller(clean=True)
            for node in NODES:
                self.start_node(node)
            self._until(lambda: self.command("sinfo", "-h", "-o", "%T %D").split() == ["idle", "4"], "four idle nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--state=R"], env=self.env, timeout=10, check=False, capture_output=True)
        for name in sorted(self._processes, key=lambda name: name == "munged"):
            self.kill(name, signal.SIGTERM)

    def _start(self, name: str, *argv: str) -> None:
        with (self.root / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )

    def _until(self, done: object, what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():  # type: ignore[operator]
            assert time.monotonic() < deadline, f"{what}: not there after {seconds:g} s, see {self.root}"
            time.sleep(0.1)

    def command(self, *argv: str) -> str:
        """Run one of Slurm's commands; return what it printed."""
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=60, check=False).stdout

    def start_controller(self, *, clean: bool = False) -> None:
        """Start slurmctld; it reads its state back unless `clean`."""
        self._start("slurmctld", "slurmctld", "-D", *(["-c"] if clean else []))

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon: `slurmctld`, or that of a node; jobs of the node go on without it."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def jobs_on(self, node: str) -> dict[int, str]:
        """Return the processes that run on a node, each with the kernel's letter for its state."""
        found: dict[int, str] = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if f"SLURMD_NODENAME={node}".encode() in words and f"SLURM_CONF={self.conf}".encode() in words:
                    state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
                    found[int(path.parent.name)] = state
        return found

    def end_jobs_on(self, node: str) -> int:
        """Kill whatever runs on a node, as a power cut does; return how many processes that were."""
        killed = 0
        for process in self.jobs_on(node):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
                killed += 1
        return killed
