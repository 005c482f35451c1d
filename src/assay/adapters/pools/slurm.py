"""Pools of Slurm: sbatch, squeue and scancel, with jobs and results in a folder that all nodes share.

Slurm's own commands, in the one form that is alike from 22.05 to 24.11 (`squeue -o`): JSON differs between them, sacct
may be off, and a client library has to be of the controller's version.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from assay.adapters.host import process
from assay.adapters.pools.folder import JobFolder
from assay.errors import ToolError, ToolTimedOut
from assay.evidence.reference import Reference, registry_host
from assay.matrix.pools import SlurmPool
from assay.ports.jobs import ProbeJob
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, PoolSilent, Submission
from assay.ports.task import LOCAL

__all__ = ["SlurmProbePool", "batch_script", "states_in"]

_PATIENCE: Final = 20.0
"""Seconds: with its controller gone, squeue waits for some 18 s."""
_FRESH: Final = 1.0
"""Seconds for which all threads share one answer of squeue: it lists the jobs of every run."""
_ROOM: Final = 900
"""Slurm's own limit of an array is 1001 tasks; accounts often may have a thousand jobs."""
_LIVES: Final = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"}
)
_ENDS: Final[Mapping[str, Loss | None]] = {
    "COMPLETED": None,
    "FAILED": Loss.NO_RESULT,
    "NODE_FAIL": Loss.NODE_LOST,
    "BOOT_FAIL": Loss.NODE_LOST,
    "PREEMPTED": Loss.PREEMPTED,
    "TIMEOUT": Loss.TIME_LIMIT,
    "DEADLINE": Loss.TIME_LIMIT,
    "OUT_OF_MEMORY": Loss.OUT_OF_MEMORY,
    "CANCELLED": Loss.KILLED,
    "REVOKED": Loss.KILLED,
}
_ORDER: Final = (Phase.ENDED, Phase.WAITING, Phase.RUNNING)
"""Of several jobs with one name the one that is furthest to the right counts."""


class SlurmProbePool:
    """One partition; see `assay.ports.pools.ProbePool`."""

    def __init__(self, pool: SlurmPool) -> None:
        self._pool = pool
        self._folder = JobFolder(Path(pool.folder))
        self._queue = _Queue()
        self.kind = LOCAL if pool.runtime == "none" else "slurm"
        self.room = pool.at_once or _ROOM

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Submit jobs; see the port."""
        there: set[str] = set()
        for run in {item.job.run for item in jobs}:
            there |= states_in(self._queue.listed(within=0), run).keys()
        refused: dict[str, str] = {}
        self._folder.write(jobs)
        for item in jobs:
            if item.job.name in there:
                continue
            if why := self._sbatch(batch_script(item, self._pool, self._folder)):
                refused[item.job.name] = why
        return refused

    def start(self, run: str, name: str, argv: Sequence[str]) -> str:
        """Submit a job that runs a program on a node, unless Slurm has one of that name; return why it refused."""
        if name in self.poll(run):
            return ""
        head = _head(name, self._folder.log(run, name), self._pool)
        return self._sbatch(f"{head}exec {shlex.join(argv)}\n")

    def _sbatch(self, script: str) -> str:
        try:
            process.run(["sbatch", "--parsable"], stdin=script.encode(), timeout=_PATIENCE)
        except ToolTimedOut as error:
            raise PoolSilent("Slurm's controller does not answer sbatch") from error
        except ToolError as error:
            self._need_controller()
            return error.message
        return ""

    def _need_controller(self) -> None:
        """Raise PoolSilent unless a controller answers; sbatch has but one exit code for everything."""
        try:
            process.run(["scontrol", "ping"], timeout=_PATIENCE)
        except ToolError as error:
            raise PoolSilent(f"Slurm's controller does not answer: {error.message}") from error

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every job of a run; one that failed by itself is explained by the end of its log."""
        found = states_in(self._queue.listed(), run)
        for name, state in found.items():
            if state.loss is Loss.NO_RESULT and (line := self._folder.last_line(run, name)):
                found[name] = replace(state, said=f"{state.said}: {line}")
        return found

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:
        """Return what jobs have left since the last call."""
        return self._folder.collect(names, run=run)

    def cancel(self, names: Collection[str], *, run: str) -> None:  # noqa: ARG002 - names begin with the run
        """End jobs."""
        # A job that was submitted a moment ago has to be found as well.
        found = [line.split("|") for line in self._queue.listed(within=0).splitlines()]
        ids = [row[1] for row in found if row[0] in names and len(row) > 2 and row[2] not in _ENDS]
        for start in range(0, len(ids), 200):
            try:
                process.run(["scancel", *ids[start : start + 200]], timeout=_PATIENCE, check=False)
            except ToolTimedOut as error:
                raise PoolSilent("Slurm's controller does not answer scancel") from error

    def sweep(self, run: str) -> None:
        """Remove the files of a run."""
        self._folder.sweep(run)

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return the batch scripts, what they need by its path in the shared folder, and how to submit them."""
        root = self._folder.root
        files = {f"shared/{path.relative_to(root)}": data for path, data in self._folder.files(jobs).items()}
        files |= {f"{item.job.name}.sbatch": batch_script(item, self._pool, self._folder).encode() for item in jobs}
        folders = " ".join(sorted({f"{root}/{item.job.run}/{part}" for item in jobs for part in ("results", "logs")}))
        files["submit.sh"] = (
            f"#!/bin/sh\n# Copies what the jobs need into the shared folder, and submits them.\nset -eu\n"
            f'cd "$(dirname "$0")"\nmkdir -p {folders}\ncp -R shared/. {root}/\n'
            'for script in *.sbatch; do sbatch "$script"; done\n'
        ).encode()
        return files

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:
        """Return what the partition has."""
        items = [_program("sbatch"), _program("squeue")]
        if not all(item.ok for item in items):
            return items
        try:
            said = process.run(["sinfo", "-h", "-p", self._pool.partition, "-o", "%D|%T|%G|%f"], timeout=_PATIENCE).text
        except ToolError as error:
            return [*items, PoolItem(name="controller", ok=False, found=error.message, mend="scontrol ping")]
        rows = [line.split("|") for line in said.splitlines() if line.count("|") == 3]
        mend = "sinfo lists the partitions"
        items.append(PoolItem(name="partition", ok=bool(rows), found=_nodes(rows), mend="" if rows else mend))
        has = " ".join(row[2] for row in rows)
        for gpu in self._pool.gpus:
            there = f"gpu:{gpu}:" in has
            found = has if there else f"no gres gpu:{gpu} in {has or 'none'}"
            items.append(PoolItem(name=f"gpu {gpu}", ok=there, found=found, mend="" if there else "sinfo -o %G"))
        items.append(self._writable())
        if rows:
            items += self._from_a_node(registry)
        return items

    def _writable(self) -> PoolItem:
        root = self._folder.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / ".assay").touch()
        except OSError as error:
            mend = "name a folder that this machine and all nodes share"
            return PoolItem(name="folder", ok=False, found=f"{root}: {error.strerror}", mend=mend)
        return PoolItem(name="folder", ok=True, found=str(root))

    def _from_a_node(self, registry: str | None) -> Sequence[PoolItem]:
        """Ask a node: does it see the folder, has it the runtime, does it reach the registry?"""
        program = shlex.split(self._pool.command)[0]
        tool = self._pool.python if program == "{python}" else program
        script = f"test -e {self._folder.root}/.assay && echo folder; command -v {shlex.quote(tool)} && echo tool; "
        if registry:
            # Any answer, 401 too, shows that the registry is reached.
            script += (
                "python3 -c 'import sys, urllib.request, urllib.error\n"
                'for scheme in ("https", "http"):\n'
                ' try: urllib.request.urlopen(scheme + "://" + sys.argv[1] + "/v2/", timeout=8); print("registry")\n'
                ' except urllib.error.HTTPError: print("registry")\n'
                f" except Exception as error: print(error)' {shlex.quote(registry)}"
            )
        argv = ["srun", "-p", self._pool.partition, "--immediate=15", "-n1", "-t2", "sh", "-c", script]
        try:
            said = process.run(argv, timeout=60, check=False, merge=True).text
        except ToolError as error:
            return [PoolItem(name="node", ok=None, found=f"no node is free to be asked: {error.message}")]
        if "folder" not in said and "tool" not in said and "error" in said:
            return [PoolItem(name="node", ok=None, found=f"no node is free to be asked: {said.strip()[-200:]}")]
        words = said.split()
        items = [
            _seen("node: folder", "folder" in words, str(self._folder.root), "mount the folder on all nodes"),
            _seen("node: runtime", "tool" in words, tool, f"install {tool} on the nodes"),
        ]
        if registry:
            mend = "open the way from the nodes to the registry, or name a mirror in `registry`"
            items.append(_seen("node: registry", "registry" in words, registry, mend))
        return items


class _Queue:
    """What squeue prints, asked for once by all threads that follow jobs of the same pool."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._began = self._ended = -_PATIENCE
        self._text = ""
        self._silent = ""

    def listed(self, *, within: float = _FRESH) -> str:
        """Return `%j|%i|%T|%r|%N` of all jobs; squeue is run unless that was done not long ago.

        Args:
            within: seconds that the answer may be older than this call; 0: squeue begins after it.

        Raises:
            PoolSilent: the controller does not answer. Threads that waited for the same answer get the same error.
        """
        called = time.monotonic()
        with self._asking:
            # A controller that is gone costs each thread one wait, not one after the wait of every other.
            waited_for_it = within > 0 and self._ended > called
            if self._began < called - within and not waited_for_it:
                self._ask()
            if self._silent:
                raise PoolSilent(self._silent)
            return self._text

    def _ask(self) -> None:
        self._began, self._text, self._silent = time.monotonic(), "", ""
        argv = ["squeue", "-h", "-t", "all", "-o", "%j|%i|%T|%r|%N"]
        try:
            self._text = process.run(argv, timeout=_PATIENCE, limit=64 << 20).text
        except ToolError as error:
            self._silent = f"Slurm's controller does not answer squeue: {error.message}"
        self._ended = time.monotonic()


def _program(name: str) -> PoolItem:
    path = process.find(name)
    return PoolItem(name=name, ok=path is not None, found=path or "not on PATH", mend="" if path else "slurm-client")


def _seen(name: str, ok: bool, what: str, mend: str) -> PoolItem:
    return PoolItem(name=name, ok=ok, found=what if ok else f"{what}: not there", mend="" if ok else mend)


def _nodes(rows: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{row[0]} {row[1]} ({row[2]}, {row[3]})" for row in rows) or "no such partition"


def states_in(text: str, run: str) -> dict[str, JobState]:
    """Return the states in what squeue printed (`%j|%i|%T|%r|%N`), of the jobs of one run by name."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        row = line.split("|")
        if len(row) != 5 or not row[0].startswith(f"{run}-"):
            continue
        state = _state(row[2], row[3], row[4])
        before = found.get(row[0])
        if before is None or _ORDER.index(state.phase) > _ORDER.index(before.phase):
            found[row[0]] = state
    return found


def _state(state: str, reason: str, nodes: str) -> JobState:
    said = state.lower() if reason in {"None", ""} else f"{state.lower()}: {reason}"
    if state in _ENDS:
        return JobState(phase=Phase.ENDED, loss=_ENDS[state], said=said, where=nodes)
    if state in _LIVES:
        return JobState(phase=Phase.RUNNING, said=said, where=nodes)
    # `JobHeldUser`, `launch failed requeued held`: Slurm has no other word for it.
    held = "held" in reason.lower() or state in {"REQUEUE_HOLD", "SPECIAL_EXIT"}
    return JobState(phase=Phase.WAITING, loss=Loss.HELD if held else None, said=said)


def batch_script(item: Submission, pool: SlurmPool, folder: JobFolder) -> str:
    """Return the batch script of a job.

    Raises:
        UsageError: the job's image has no digest, which the container runtimes of nodes need.
    """
    job = item.job
    options = [f"--mem={job.limits.memory_bytes >> 20}M"] if job.limits.memory_bytes else []
    if job.devices.count:
        model = f"{job.devices.model}:" if job.devices.model else ""
        options.append(f"--gres=gpu:{model}{job.devices.count}")
    executor = LOCAL if pool.runtime == "none" else "slurm"
    return (
        f"{_head(job.name, folder.log(job.run, job.name), pool, *options)}"
        f'export ASSAY_EXECUTOR={executor} ASSAY_MACHINE="${{SLURMD_NODENAME:-}}"\n'
        f"{_scratched(_command(item, pool, folder))}\n"
    )


def _scratched(command: str) -> str:
    """Return the last lines of a script: the command, and what makes and removes its scratch folder if it has one."""
    if "$scratch" not in command:
        return f"exec {command}"
    made = "scratch=$(mktemp -d) || exit 1\ntrap 'rm -rf \"$scratch\"' EXIT\ntrap 'exit 143' TERM\n"
    return f"{made}{command}"


def _head(name: str, log: Path, pool: SlurmPool, *more: str) -> str:
    """Return the first lines of a batch script."""
    options = [
        f"--job-name={name}",
        # Of jobs with one name, one runs at a time: the second finds the result of the first.
        "--dependency=singleton",
        f"--partition={pool.partition}",
        f"--output={log}",
        "--open-mode=append",
        "--requeue",
        "--nodes=1",
        "--ntasks=1",
    ]
    options += [f"--account={pool.account}"] if pool.account else []
    options += [f"--qos={pool.qos}"] if pool.qos else []
    options += [f"--time={pool.minutes}"] if pool.minutes else []
    return "#!/bin/sh\n" + "".join(f"#SBATCH {option}\n" for option in (*options, *more, *pool.options))


def _command(item: Submission, pool: SlurmPool, folder: JobFolder) -> str:
    job: ProbeJob = item.job
    paths = (folder.runner, folder.suite(item.suite), folder.job(job.run, job.name), folder.result(job.run, job.name))
    words = {"registry": "", "path": "", "digest": job.place.digest or "", "image": job.place.reference}
    if job.place.reference != LOCAL:
        repository = Reference.parse(job.place.reference).repository
        # enroot asks the very host that stands there (docker.sh): Docker Hub's registry is not its name in references.
        words |= {"registry": registry_host(repository.host), "path": repository.path}
        words["image"] = repository.at(words["digest"]) if words["digest"] else job.place.reference
    return pool.command.format(
        folder=folder.root,
        env="--env ASSAY_EXECUTOR=slurm --env ASSAY_MACHINE=$ASSAY_MACHINE "
        "--env CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-}",
        python=pool.python,
        arguments=shlex.join(map(str, paths)),
        **words,
    )
