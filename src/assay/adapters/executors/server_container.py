"""Servers in a container of an image: one container per server, removed when its context ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from assay.adapters.executors.local_server import devices_of, free_port, gpu_memory_bytes, port_taken
from assay.errors import EngineError
from assay.ports.engine import Bind, Container, ContainerSpec, Engine, Exit, Gpus, run
from assay.ports.server import Output, RunningServer, ServerEnded, ServerFacts, ServerSpec

__all__ = ["ContainerServerHost"]

_WORK: Final = "/assay/work"
_CACHE: Final = "/assay-cache/huggingface"
_LOG_BYTES: Final = 8 << 20
# Compilers and libraries start a thread or process for each core, several times over.
_PIDS: Final = 1 << 15


class _ContainerServer:
    def __init__(self, container: Container, base: str) -> None:
        self._container = container
        self.base = base
        self._ended: ServerEnded | None = None

    def running(self) -> bool:
        return self._container.running()

    def log(self) -> str:
        return self._container.logs(limit=_LOG_BYTES).text

    def stop(self, *, grace: float) -> ServerEnded:
        if self._ended is None:
            forced = False
            asked = self._container.running()
            if asked:
                self._container.kill("SIGTERM")
            end = self._container.wait(grace if asked else 30)
            forced = end.timed_out
            self._ended = _ended(end, forced=forced)
        return self._ended


def _ended(end: Exit, *, forced: bool) -> ServerEnded:
    return ServerEnded(
        code=None if end.signal is not None else end.code,
        signal=end.signal,
        seconds=0.0,
        forced=forced,
        oom_killed=end.oom_killed,
    )


class ContainerServerHost:
    """Implements `assay.ports.server.ServerHost` with an engine and an image.

    Args:
        image: what the engine holds.
        run: the run its containers belong to.
        facts_program: probes/probelib/facts.py.
        gpus: the GPUs that the container gets.
        network: `bridge` publishes the port on the loopback interface; `host` shares this machine's network; `auto`
            is `bridge` where the engine has one, else `host`.
        cache: a Hugging Face cache of this machine that the container may use and fill.
        model: a model folder of this machine, given under the same path, read-only.
        mounts: more folders of this machine.
    """

    executor: Literal["docker", "local"] = "docker"

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        run: str,
        facts_program: Path,
        gpus: Gpus = "all",
        network: Literal["auto", "bridge", "host"] = "auto",
        cache: Path | None = None,
        model: Path | None = None,
        mounts: Sequence[Bind] = (),
        port: int | None = None,
    ) -> None:
        self._engine = engine
        self.reference = image
        self._run = run
        self._facts_program = facts_program
        self._gpus = gpus
        self._asked_network: Literal["auto", "bridge", "host"] = network
        self._cache = cache
        self._model = model
        self._mounts = tuple(mounts)
        self._port = port
        self._uuids: tuple[str, ...] = ()

    @property
    def _network(self) -> Literal["bridge", "host"]:
        if self._asked_network == "auto":
            return "bridge" if self._engine.info().bridge else "host"
        return self._asked_network

    def facts(self) -> ServerFacts:
        """Read devices and packages inside the image."""
        image = self._engine.image(self.reference)
        if image is None:
            raise EngineError(
                f"the engine does not hold the image {self.reference}", hint="build it (assay build) or pull it"
            )
        result = run(
            self._engine,
            self._spec(["python3", f"{_WORK}/facts.py", f"{_WORK}/facts.json"], {}, entrypoint=()),
            timeout=300,
            files={"facts.py": self._facts_program},
            collect=["facts.json"],
        )
        if "facts.json" not in result.files:
            said = " ".join(result.logs.text.split())[-300:]
            raise EngineError(f"{self.reference}: devices and packages could not be read inside: {said}")
        said_facts = json.loads(result.files["facts.json"])
        devices = devices_of(said_facts)
        self._uuids = tuple(device.uuid for device in devices)
        return ServerFacts(devices=devices, packages=said_facts["packages"], image_digest=image.digest)

    def output(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Output:
        """Run a short program to its end."""
        result = run(self._engine, self._spec(argv, env, entrypoint=()), timeout=timeout, log_limit=4 << 20)
        return Output(code=result.exit.code, text=result.logs.text)

    @contextmanager
    def start(self, spec: ServerSpec) -> Iterator[RunningServer]:
        """Start a server in a container of its own."""
        info = self._engine.info()
        if not info.local:
            raise EngineError(
                f"the container engine runs on another machine, and a server in {self.reference} would not be reached",
                hint="run assay on that machine",
            )
        if self._network == "bridge" and not info.bridge:
            raise EngineError("this container engine has no bridge network", hint="--network host")
        if self._port is not None and port_taken(self._port):
            raise EngineError(f"port {self._port} is in use", hint="leave --port out, or stop what listens there")
        inside = (self._port or free_port(spec.ports_beside)) if self._network == "host" else 8000
        host = "127.0.0.1" if self._network == "host" else "0.0.0.0"  # noqa: S104 - inside the container
        argv = [word.replace("{host}", host).replace("{port}", str(inside)) for word in spec.argv]
        wanted = self._spec(argv, spec.env, entrypoint=(), shm=spec.shm_bytes, port=inside)
        with self._engine.container(wanted) as container:
            container.start()
            outside = inside if self._network == "host" else container.host_port(inside)
            server = _ContainerServer(container, f"http://127.0.0.1:{outside}")
            try:
                yield server
            finally:
                if container.running():
                    server.stop(grace=10)

    def gpu_memory_bytes(self) -> int | None:
        """Return what is in use on the GPUs that `facts` saw; None if the engine runs elsewhere."""
        return gpu_memory_bytes(self._uuids) if self._engine.info().local else None

    def _spec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        entrypoint: Sequence[str] | None,
        shm: int = 64 << 20,
        port: int | None = None,
    ) -> ContainerSpec:
        binds: list[Bind] = []
        settings = {"PYTHONUNBUFFERED": "1", "HOME": _WORK, **env}
        if self._cache is not None:
            binds.append(Bind(source=str(self._cache), target=_CACHE, read_only=False))
            settings.setdefault("HF_HOME", _CACHE)
        if self._model is not None:
            binds.append(Bind(source=str(self._model), target=str(self._model)))
        # An engine refuses two mounts at one place; what the user mounts there wins.
        theirs = {bind.target for bind in self._mounts}
        binds = [*self._mounts, *(bind for bind in binds if bind.target not in theirs)]
        published = port is not None and self._network == "bridge"
        network: Literal["none", "bridge", "host"] = "none" if port is None else self._network
        return ContainerSpec(
            image=self.reference,
            run=self._run,
            command=list(argv),
            entrypoint=entrypoint,
            env=settings,
            gpus=self._gpus,
            network=network,
            ports=[port] if published and port is not None else (),
            publish_at=self._port if published else None,
            workspace=_WORK,
            binds=binds,
            init=self._engine.info().init,
            pids=_PIDS,
            shm_bytes=shm,
        )
