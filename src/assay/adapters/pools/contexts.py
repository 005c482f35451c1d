"""Pools of Docker contexts: a container for each job on the engine of another machine, reached over SSH.

The container's name is the job's, so that an engine never has a job twice; it outlives assay and holds its result
until it is removed. The docker program is used and not its API: contexts, SSH and its agents are the program's own.
"""

from __future__ import annotations

import io
import shlex
import tarfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from assay.adapters.host import process
from assay.adapters.host.process import Completed
from assay.adapters.pools.bundle import RUNNER, runner, suite_name
from assay.errors import ToolError
from assay.foundation.foreign import ForeignError, read_json
from assay.matrix.pools import PoolHost, SshPool
from assay.ports.jobs import MAX_BYTES, seal
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, PoolSilent, Submission

__all__ = ["ContextsProbePool", "only_member"]

_PATIENCE: Final = 30.0
_REST: Final = 10.0
"""Seconds for which a host that did not answer is not asked again."""
_AT: Final = "/assay/job"
_RESULT: Final = f"{_AT}/result.json"
_TMP: Final = "/tmp:exec,mode=1777"  # noqa: S108 - inside the container
_LABEL: Final = "org.assay-images.pool"


class ContextsProbePool:
    """Hosts behind Docker contexts; see `assay.ports.pools.ProbePool`.

    Args:
        pool: its entry in pools.yaml.
        clock: seconds, for how long a host is left alone.
    """

    kind = "ssh"

    def __init__(self, pool: SshPool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._silent: dict[str, float] = {}
        self._where: dict[str, str] = {}
        """Name of a job -> the context that has it."""
        self._ended: set[str] = set()
        self._collected: set[str] = set()
        self.room = pool.at_once or sum(max(1, host.count) for host in pool.hosts)

    def _docker(self, context: str, *words: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        """Run docker there; raises PoolSilent if the engine does not answer, ToolError if it refuses."""
        if self._silent.get(context, 0.0) > self._clock():
            raise PoolSilent(f"the host {context} does not answer")
        argv = ["docker", "--context", context, *words]
        try:
            return process.run(argv, stdin=stdin, timeout=_PATIENCE, limit=MAX_BYTES + (1 << 20), check=check)
        except ToolError as error:
            # The program has one exit code for a host that is gone and for what an engine refuses: ask it again.
            try:
                process.run(["docker", "--context", context, "version", "--format", "{{.Server.Version}}"], timeout=15)
            except ToolError:
                self._silent[context] = self._clock() + _REST
                raise PoolSilent(f"the host {context} does not answer: {error.message}") from error
            raise

    def _containers(self, context: str) -> list[Mapping[str, str]]:
        said = self._docker(context, "ps", "--all", "--no-trunc", "--filter", f"label={_LABEL}", "--format", "json")
        rows: list[Mapping[str, str]] = []
        for line in said.text.splitlines():
            with suppress(ForeignError):
                row = read_json(line)
                labels = dict(pair.partition("=")[::2] for pair in str(row.get("Labels", "")).split(","))
                state, name = str(row.get("State", "")), str(row.get("Names", ""))
                rows.append({**labels, "name": name, "state": state, "status": str(row.get("Status", ""))})
        return rows

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Start a container for each job on a host that has a GPU free."""
        refused: dict[str, str] = {}
        there: dict[str, list[Mapping[str, str]]] = {}
        for host in self._pool.hosts:
            with suppress(PoolSilent):
                there[host.context] = self._containers(host.context)
        if not there:
            raise PoolSilent("none of the pool's hosts answers")
        held = {row["name"]: context for context, rows in there.items() for row in rows if row["state"] != "created"}
        for item in jobs:
            if (context := held.get(item.job.name)) is not None:
                self._where[item.job.name] = context
                continue
            if (place := self._free(item, there)) is None:
                continue
            host, gpus = place
            try:
                self._start(item, host.context, gpus)
            except PoolSilent:
                there.pop(host.context)
            except ToolError as error:
                refused[item.job.name] = error.message
            else:
                self._where[item.job.name] = host.context
                labels = {f"{_LABEL}.gpus": "+".join(gpus), "name": item.job.name, "state": "running", "status": ""}
                there[host.context].append(labels)
        return refused

    def _free(
        self, item: Submission, there: Mapping[str, Sequence[Mapping[str, str]]]
    ) -> tuple[PoolHost, tuple[str, ...]] | None:
        """Return the host with the most room for a job, and the GPUs that it gets there."""
        wanted, best = item.job.devices, None
        for host in self._pool.hosts:
            if host.context not in there or (wanted.model and host.gpu != wanted.model):
                continue
            running = [row for row in there[host.context] if row["state"] in {"running", "created"}]
            used = {name for row in running for name in row.get(f"{_LABEL}.gpus", "").split("+")}
            free = [str(number) for number in range(host.count) if str(number) not in used]
            room = len(free) - wanted.count if wanted.count else max(1, host.count) - len(running) - 1
            if room >= 0 and (best is None or room > best[0]):
                best = (room, host, tuple(free[: wanted.count]))
        return best and best[1:]

    def _start(self, item: Submission, context: str, gpus: Sequence[str]) -> None:
        name = item.job.name
        with suppress(ToolError):
            # A coordinator died between making and starting it: it is made again, with GPUs that are free now.
            self._docker(context, "rm", "--force", "--volumes", name)
        self._docker(context, "create", *self._words(item, gpus))
        self._docker(context, "cp", "-", f"{name}:/assay", stdin=_archive(item))
        self._docker(context, "start", name)

    def _words(self, item: Submission, gpus: Sequence[str]) -> list[str]:
        """Return the words after `docker create`."""
        job, limits = item.job, item.job.limits
        words = ["--name", job.name, "--label", f"{_LABEL}={job.run}", "--label", f"{_LABEL}.gpus={'+'.join(gpus)}"]
        words += ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"]
        words += ["--tmpfs", _TMP, "--volume", "/assay", "--pids-limit", str(limits.pids)]
        words += ["--shm-size", str(limits.shm_bytes), "--env", "ASSAY_EXECUTOR=ssh", "--env", f"HOME={_AT}"]
        words += ["--memory", str(limits.memory_bytes)] if limits.memory_bytes else []
        words += ["--gpus", f'"device={",".join(gpus)}"'] if gpus else []
        suite = f"{_AT}/{suite_name(item.suite)}"
        program = ["--entrypoint", self._pool.python, item.job.place.reference, f"{_AT}/{RUNNER}", suite]
        return [*words, *program, f"{_AT}/job.json", _RESULT, f"{_AT}/work"]

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every job of a run; of those on a host that does not answer, that it is unknown."""
        found: dict[str, JobState] = {}
        silent = 0
        for host in self._pool.hosts:
            try:
                rows = [row for row in self._containers(host.context) if row.get(_LABEL) == run]
            except PoolSilent as error:
                silent += 1
                known = [name for name, context in self._where.items() if context == host.context]
                found |= {
                    name: JobState(phase=Phase.UNKNOWN, said=error.message, where=host.context)
                    for name in known
                    if name.startswith(f"{run}-") and name not in found
                }
                continue
            for row in rows:
                self._where[row["name"]] = host.context
                found[row["name"]] = _state(row, host.context)
        if silent == len(self._pool.hosts):
            raise PoolSilent("none of the pool's hosts answers")
        self._ended |= {name for name, state in found.items() if state.phase is Phase.ENDED}
        return found

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:  # noqa: ARG002 - names have it
        """Return what containers that ended have left, each once."""
        found: list[JobOutput] = []
        for name in [name for name in names if name in self._ended and name not in self._collected]:
            context = self._where[name]
            try:
                log = self._docker(context, "logs", "--tail", "5000", name, check=False)
                copied = self._docker(context, "cp", f"{name}:{_RESULT}", "-", check=False)
            except (PoolSilent, ToolError):
                continue
            self._collected.add(name)
            found.append(JobOutput(name=name, result=only_member(copied.stdout), log=log.stdout + log.stderr))
        return found

    def cancel(self, names: Collection[str], *, run: str) -> None:  # noqa: ARG002 - names have it
        """Remove the containers of jobs; those on a host that does not answer stay until a later call."""
        for name in names:
            if (context := self._where.get(name)) is not None:
                with suppress(PoolSilent, ToolError):
                    self._docker(context, "rm", "--force", "--volumes", name)
                    self._where.pop(name)

    def sweep(self, run: str) -> None:
        """Remove the containers of a run."""
        for host in self._pool.hosts:
            with suppress(PoolSilent, ToolError):
                names = [row["name"] for row in self._containers(host.context) if row.get(_LABEL) == run]
                if names:
                    self._docker(host.context, "rm", "--force", "--volumes", *names)

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return for each job an archive and the docker commands that start it."""
        files: dict[str, bytes] = {}
        for item in jobs:
            name, gpus = item.job.name, tuple(str(number) for number in range(item.job.devices.count))
            files[f"{name}.tar"] = _archive(item)
            create = " \\\n  ".join(["docker create", *map(shlex.quote, self._words(item, gpus))])
            files[f"{name}.sh"] = (
                f'#!/bin/sh\n# DOCKER_CONTEXT selects the host.\nset -eu\ncd "$(dirname "$0")"\n'
                f"{create}\ndocker cp - {name}:/assay < {name}.tar\ndocker start {name}\ndocker wait {name}\n"
                f"docker cp {name}:{_RESULT} {name}.json\ndocker rm --volumes {name}\n"
            ).encode()
        return files

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:
        """Return what each host has."""
        return [item for host in self._pool.hosts for item in self._of_host(host, registry)]

    def _of_host(self, host: PoolHost, registry: str | None) -> Sequence[PoolItem]:
        try:
            said = self._docker(host.context, "info", "--format", "json")
            info = read_json(said.stdout)
        except (PoolSilent, ToolError, ForeignError) as error:
            mend = f"docker context inspect {host.context}; then ssh there by hand"
            return [PoolItem(name=host.context, ok=False, found=str(error).splitlines()[0], mend=mend)]
        where = f"Docker {info.get('ServerVersion')} on {info.get('OperatingSystem')}, {info.get('NCPU')} CPUs"
        items = [PoolItem(name=host.context, ok=True, found=where)]
        if host.gpu is not None and host.count:
            ok = "nvidia" in (info.get("Runtimes") or {}) or bool(info.get("CDISpecDirs"))
            found = f"{host.count} {host.gpu} (as pools.yaml says)" if ok else "no NVIDIA runtime and no CDI"
            mend = "" if ok else "install nvidia-container-toolkit there"
            items.append(PoolItem(name=f"{host.context}: gpu", ok=ok, found=found, mend=mend))
        if registry:
            # An image that nobody has: the engine itself says whether it gets an answer, and nothing is pulled.
            absent = f"{registry}/assay-doctor/none@sha256:{'0' * 64}"
            said = self._docker(host.context, "pull", "--quiet", absent, check=False)
            words = said.stderr.decode(errors="replace").strip()
            lost = any(mark in words for mark in ("dial tcp", "no such host", "x509", "timeout", "HTTPS client"))
            mend = "open the way from the host to the registry" if lost else ""
            found = words.splitlines()[-1][:200] if lost and words else registry
            items.append(PoolItem(name=f"{host.context}: registry", ok=not lost, found=found, mend=mend))
        return items


def _state(row: Mapping[str, str], context: str) -> JobState:
    state, said = row["state"], row["status"]
    if state in {"running", "restarting", "paused"}:
        return JobState(phase=Phase.RUNNING, said=said, where=context)
    if state == "created":
        # Made, and never started: its coordinator died, or it cannot start.
        return JobState(phase=Phase.GONE, said=said, where=context)
    loss = Loss.KILLED if "(137)" in said or "(143)" in said else Loss.NO_RESULT
    return JobState(phase=Phase.ENDED, loss=loss, said=said, where=context)


def _archive(item: Submission) -> bytes:
    """Return what a container needs, as a tar archive; its folder can be written by whatever user the image has."""
    files = {RUNNER: runner(), suite_name(item.suite): item.suite, "job.json": seal(item.job)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("job")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(f"job/{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def only_member(data: bytes) -> bytes | None:
    """Return the one file of an archive that `docker cp` wrote."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.next()
            if member is None or not member.isfile() or member.size > MAX_BYTES:
                return None
            file = archive.extractfile(member)
            return file.read() if file is not None else None
    except tarfile.TarError:
        return None
