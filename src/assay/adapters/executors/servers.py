"""Servers wherever things run: one task for each server, removed when its context ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.local import LocalTaskHost
from assay.errors import EngineError, GpuMissing
from assay.evidence.record import Device
from assay.foundation.platforms import Platform
from assay.ports.engine import Bind, Engine, Gpus
from assay.ports.server import Output, RunningServer, ServerEnded, ServerFacts, ServerSpec
from assay.ports.task import LOCAL, Network, Task, TaskHost, TaskSpec, run_task

__all__ = ["ContainerServerHost", "HostedServers", "LocalServerHost", "devices_of"]

_CACHE: Final = "/assay-cache/huggingface"
_LOG_BYTES: Final = 8 << 20
# Compilers and libraries start a thread or process for each core, several times over.
_PIDS: Final = 1 << 15


class HostedServer:
    """A server that was started; see `assay.ports.server.RunningServer`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._ended: ServerEnded | None = None
        self.base = task.base

    def running(self) -> bool:
        """Say whether its process is there."""
        return self._task.running()

    def log(self) -> str:
        """Return what it wrote so far."""
        return self._task.log(limit=_LOG_BYTES).decode(errors="replace")

    def stop(self, *, grace: float) -> ServerEnded:
        """Ask it to end, then kill it."""
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


class HostedServers:
    """Implements `assay.ports.server.ServerHost` on whatever things run on.

    Args:
        host: where things run.
        reference: the image, or `local`.
        run: the run its tasks belong to.
        facts_program: probes/probelib/facts.py.
        gpus: the GPUs that a server gets.
        network: how it is reached.
        port: the port of this machine; None: a free one.
        mounts: folders of this machine that it gets.
        env: laid under the environment of every program.
    """

    def __init__(
        self,
        host: TaskHost,
        reference: str,
        *,
        run: str,
        facts_program: Path,
        gpus: Gpus = "all",
        network: Network = "auto",
        port: int | None = None,
        mounts: Sequence[Bind] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        self.executor = host.name
        self.reference = reference
        self._run = run
        self._facts_program = facts_program
        self._gpus = gpus
        self._network: Network = network
        self._port = port
        self._mounts = tuple(mounts)
        self._env = dict(env or {})
        self._uuids: tuple[str, ...] = ()

    def facts(self) -> ServerFacts:
        """Read devices and packages there."""
        spec = self._spec(["python3", "{work}/facts.py", "{work}/facts.json"], {})
        done = run_task(self._host, spec, timeout=300, files={"facts.py": self._facts_program}, file="facts.json")
        if done.file is None:
            said = " ".join(done.log.decode(errors="replace").split())[-300:] or done.exit.error
            raise EngineError(f"{self.reference}: devices and packages could not be read there: {said}")
        said_facts = json.loads(done.file)
        devices = devices_of(said_facts)
        self._uuids = tuple(device.uuid for device in devices)
        return ServerFacts(
            devices=devices,
            packages=said_facts["packages"],
            image_digest=self._host.manifest(self.reference),
            platform=Platform.known(str(said_facts.get("machine", ""))),
        )

    def output(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Output:
        """Run a short program to its end."""
        done = run_task(self._host, self._spec(argv, env), timeout=timeout)
        return Output(code=done.exit.code, text=done.log.decode(errors="replace") or done.exit.error)

    @contextmanager
    def start(self, spec: ServerSpec) -> Iterator[RunningServer]:
        """Start a server in its own task."""
        wanted = self._spec(spec.argv, spec.env).model_copy(
            update={
                "network": self._network,
                "port": self._port,
                "ports_beside": tuple(spec.ports_beside),
                "shm_bytes": spec.shm_bytes,
            }
        )
        with self._host.task(wanted) as task:
            task.start()
            if self.reference == LOCAL and not task.running() and (end := task.wait()).code == 127 and end.error:
                raise EngineError(end.error, hint="serve-check IMAGE runs it in a container")
            server = HostedServer(task)
            try:
                yield server
            finally:
                if task.running():
                    server.stop(grace=10)

    def gpu_memory_bytes(self) -> int | None:
        """Return the memory in use on the GPUs that `facts` found."""
        return self._host.gpu_memory_bytes(self._uuids)

    def _spec(self, argv: Sequence[str], env: Mapping[str, str]) -> TaskSpec:
        return TaskSpec(
            run=self._run,
            reference=self.reference,
            argv=tuple(argv),
            env={"PYTHONUNBUFFERED": "1", **self._env, **env},
            gpus=self._gpus,
            mounts=self._mounts,
            pids=_PIDS,
            init=True,
        )


class LocalServerHost(HostedServers):
    """Servers as processes of this machine, with its own Python."""

    def __init__(
        self,
        *,
        facts_program: Path,
        python: str | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`python` is the interpreter with the packages; `env` is laid over this process' environment."""
        host = LocalTaskHost(python=python or sys.executable)
        super().__init__(host, LOCAL, run=LOCAL, facts_program=facts_program, port=port, env=env)


class ContainerServerHost(HostedServers):
    """Servers in containers of an image.

    Args:
        cache: a Hugging Face cache of this machine that the container may use and fill.
        model: a model folder of this machine, given under the same path, read-only.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        run: str,
        facts_program: Path,
        gpus: Gpus = "all",
        network: Network = "auto",
        cache: Path | None = None,
        model: Path | None = None,
        mounts: Sequence[Bind] = (),
        port: int | None = None,
    ) -> None:
        own = [Bind(source=str(cache), target=_CACHE, read_only=False)] if cache is not None else []
        own += [Bind(source=str(model), target=str(model))] if model is not None else []
        # An engine refuses two mounts at one place; what the user mounts there wins.
        theirs = {bind.target for bind in mounts}
        super().__init__(
            DockerTaskHost(engine),
            image,
            run=run,
            facts_program=facts_program,
            gpus=gpus,
            network=network,
            port=port,
            mounts=[*mounts, *(bind for bind in own if bind.target not in theirs)],
            env={"HF_HOME": _CACHE} if cache is not None else {},
        )


def devices_of(said: Mapping[str, object]) -> tuple[Device, ...]:
    """Read the devices of a facts document.

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
