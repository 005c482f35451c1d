"""Servers on the host that probes use: what is to be started is a plain document; the server itself is a `Task`.

How it comes up is watched, and it is stopped, beside the document: by whoever holds the `RunningServer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from assay.errors import EngineError, GpuMissing, UsageError
from assay.evidence.record import Device
from assay.foundation.foreign import read_json
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.ports.engine import Gpus
from assay.ports.jobs import Bind, Place, Sealed
from assay.ports.task import LOCAL, Network, Task, TaskHost, TaskSpec, run_task

__all__ = [
    "Output",
    "RunningServer",
    "ServerDeadlines",
    "ServerEnded",
    "ServerFacts",
    "ServerJob",
    "ServerLimits",
    "devices_of",
    "facts_of",
    "need_same_image",
    "read_facts",
    "read_output",
    "running_server",
]

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_LOG_BYTES: Final = 8 << 20


class ServerLimits(Value):
    """How far a server may go."""

    memory_bytes: int | None = Field(default=None, ge=1)
    """None: as much as the machine has."""
    pids: int = Field(default=1 << 15, ge=1)
    """Compilers and libraries start a thread or process for each core, several times over."""
    shm_bytes: int = Field(default=64 << 20, ge=0)


class ServerDeadlines(Value):
    """How long a server may take."""

    start_seconds: Seconds = 900.0
    """From its start until it is healthy."""
    stop_seconds: Seconds = 30.0
    """From SIGTERM to its end; then it is killed."""


class ServerJob(Sealed):
    """One server to start in one place. `{host}` and `{port}` in `argv` become the address to listen on.

    It has the secrets that the server needs; what is kept in records is `ServerCommand.told`.
    """

    schema_version: Literal[1] = 1
    kind: Literal["server"] = "server"
    run: str
    """The run it belongs to."""
    name: str = ""
    """Of a server that stays when assay has ended: lower case, digits and hyphens; empty: it ends with the command."""
    place: Place
    """With a digest, nothing else is started under this reference."""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """Laid over the environment there."""
    user: str | None = None
    """`uid:gid`; None: the image's own."""
    gpus: Gpus = "all"
    mounts: tuple[Bind, ...] = ()
    network: Network = "auto"
    port: Port | None = None
    """On this machine; None: a free one."""
    ports_beside: tuple[int, ...] = ()
    """Ports that it takes beside its own, as distances from it."""
    health: str = "/health"
    """The path that answers with HTTP 200 once the server is ready."""
    limits: ServerLimits = ServerLimits()
    deadlines: ServerDeadlines = ServerDeadlines()
    labels: dict[str, str] = {}
    """Of the container of a server that stays."""

    def task(self) -> TaskSpec:
        """Return the server as the host takes it."""
        beside = self.program(self.argv, self.env)
        return beside.model_copy(
            update={
                "network": self.network,
                "port": self.port,
                "ports_beside": self.ports_beside,
                "shm_bytes": self.limits.shm_bytes,
            }
        )

    def program(self, argv: Sequence[str], env: Mapping[str, str]) -> TaskSpec:
        """Return a short program in the same place, which nobody reaches."""
        return TaskSpec(
            run=self.run,
            reference=self.place.reference,
            argv=tuple(argv),
            env={"PYTHONUNBUFFERED": "1", **self.env, **env},
            gpus=self.gpus,
            mounts=self.mounts,
            memory_bytes=self.limits.memory_bytes,
            pids=self.limits.pids,
            init=True,
        )


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What was read where the server runs."""

    devices: tuple[Device, ...]
    packages: Mapping[str, str]
    """Distribution -> version."""
    image_digest: str | None = None
    platform: Platform | None = None
    """Of the image, or of the Python environment; None if it is not known."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a short program wrote there."""

    code: int
    text: str


@dataclass(frozen=True, kw_only=True)
class ServerEnded:
    """How a server ended."""

    code: int | None
    """Exit code; None if a signal ended it."""
    signal: int | None
    seconds: float
    """From being asked until it was gone; 0 if it ended by itself."""
    forced: bool = False
    """It had to be killed."""
    oom_killed: bool = False

    def __str__(self) -> str:
        how = f"signal {self.signal}" if self.signal is not None else f"code {self.code}"
        tail = " (the kernel's memory limit)" if self.oom_killed else ""
        return ("killed after it ignored SIGTERM, " if self.forced else "") + how + tail


class RunningServer:
    """A server that was started, as a task of its host."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._ended: ServerEnded | None = None
        self._base = ""

    @property
    def base(self) -> str:
        """Where it is reached: `http://127.0.0.1:40123`.

        Raises:
            EngineError: it ended before anybody asked.
        """
        self._base = self._base or self._task.base
        return self._base

    def running(self) -> bool:
        """Return whether its process is there."""
        return self._task.running()

    def log(self) -> str:
        """Return what it wrote so far; of very long output the middle is left out."""
        return self._task.log(limit=_LOG_BYTES).decode(errors="replace")

    def stop(self, *, grace: float) -> ServerEnded:
        """Send SIGTERM, kill it after `grace` seconds, and return how it ended; one that has ended stays as it is."""
        if self._ended is None:
            began = time.monotonic()
            asked = self._task.running()
            if asked:
                self._task.kill("SIGTERM")
            end = self._task.wait(grace if asked else 30)
            self._ended = ServerEnded(
                code=None if end.signal is not None else end.code,
                signal=end.signal,
                seconds=time.monotonic() - began if asked else 0.0,
                forced=end.timed_out,
                oom_killed=end.oom_killed,
            )
        return self._ended


@contextmanager
def running_server(host: TaskHost, job: ServerJob) -> Iterator[RunningServer]:
    """Start a server on a host; it is gone, with all its processes, when the context ends.

    Raises:
        EngineError: the place cannot be used, or the port is taken.
        GpuMissing: a GPU was asked for and cannot be given.
        UsageError: the job names another image than the one that has this reference here.
    """
    need_same_image(job, host.manifest)
    with host.task(job.task()) as task:
        task.start()
        if job.place.reference == LOCAL and not task.running() and (end := task.wait()).code == 127 and end.error:
            raise EngineError(end.error, hint="serve-check IMAGE runs it in a container")
        server = RunningServer(task)
        try:
            yield server
        finally:
            if task.running():
                server.stop(grace=10)


def need_same_image(job: ServerJob, manifest: Callable[[str], str | None]) -> None:
    """Do nothing if the job names no digest, or that of the image that has its reference here.

    Args:
        job: names the image.
        manifest: returns the digest of an image's manifest by its reference; None if it is not known.

    Raises:
        UsageError: it is another image.
    """
    place = job.place
    here = manifest(place.reference) if place.digest is not None else None
    if here is not None and here != place.digest:
        raise UsageError(
            f"{place.reference} is {here} on this machine, and {place.digest} in the job",
            hint="pull or load the image of the job, or create the job again",
        )


def read_facts(host: TaskHost, job: ServerJob, program: Path) -> ServerFacts:
    """Return the devices and packages of the place of a job.

    Args:
        host: where the job runs.
        job: names the place and what it gets.
        program: probes/probelib/facts.py.

    Raises:
        EngineError: the place cannot be used, or its Python cannot be run.
        GpuMissing: a GPU was asked for and cannot be given.
    """
    spec = job.program(["python3", "{work}/facts.py", "{work}/facts.json"], {})
    done = run_task(host, spec, timeout=300, files={"facts.py": program}, file="facts.json")
    if done.file is None:
        said = " ".join(done.log.decode(errors="replace").split())[-300:] or done.exit.error
        raise EngineError(f"{job.place.reference}: devices and packages could not be read there: {said}")
    return facts_of(done.file, source=job.place.reference, digest=host.manifest(job.place.reference))


def facts_of(data: bytes, *, source: str, digest: str | None = None) -> ServerFacts:
    """Return what facts.py wrote, which ran among the files of an image that somebody else made.

    Args:
        data: the document.
        source: names the image in messages.
        digest: of the image.

    Raises:
        EngineError: it is not what facts.py writes.
        GpuMissing: it lists no devices.
    """
    try:
        said = read_json(data)
        return ServerFacts(
            devices=devices_of(said),
            packages={str(name): str(version) for name, version in said["packages"].items()},
            image_digest=digest,
            platform=Platform.known(str(said.get("machine", ""))),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{source}: what its Python wrote about devices and packages cannot be read",
            hint="does `python3` in the image start? assay runs probes/probelib/facts.py with it",
        ) from error


def read_output(
    host: TaskHost, job: ServerJob, argv: Sequence[str], *, env: Mapping[str, str], timeout: float
) -> Output:
    """Run a short program in the place of a job, and return what it wrote."""
    done = run_task(host, job.program(argv, env), timeout=timeout)
    return Output(code=done.exit.code, text=done.log.decode(errors="replace") or done.exit.error)


def devices_of(said: Mapping[str, object]) -> tuple[Device, ...]:
    """Return the devices of a facts document.

    Raises:
        GpuMissing: the document is not what facts.py writes.
    """
    listed = said.get("devices")
    if not isinstance(listed, list):
        raise GpuMissing("the facts of the place name no list of devices")
    return tuple(
        Device(
            name=str(entry["name"]),
            capability=str(entry["capability"]),
            memory_bytes=int(entry["memory_bytes"]),
            uuid=str(entry.get("uuid", "")),
            driver=str(said.get("driver", "")),
            cuda=str(said.get("cuda", "")),
        )
        for entry in listed
    )
