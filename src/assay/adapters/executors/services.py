"""Servers that stay, as containers of the engine; see `assay.ports.services`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import docker.errors

from assay.adapters.docker.container import DockerContainer
from assay.adapters.docker.engine import DockerEngine
from assay.adapters.docker.errors import translated
from assay.adapters.executors import this_machine
from assay.adapters.executors.docker import ContainerTask
from assay.adapters.executors.servers import HostedServer
from assay.errors import EngineError
from assay.ports.engine import LABEL_RUN, ContainerSpec
from assay.ports.server import RunningServer, ServerEnded
from assay.ports.services import LABEL, PREFIX, KeptServer, ServiceSpec

__all__ = ["DockerServices"]

_PORT: Final = 8000
"""The port inside, where the network is not the machine's own."""
_PIDS: Final = 1 << 15


class DockerServices:
    """Containers that nobody removes but `remove`.

    Args:
        engine: the engine of this machine.
    """

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine

    def start(self, spec: ServiceSpec) -> RunningServer:
        """Create and start a container; one that cannot start is removed again."""
        info = self._engine.info()
        if not info.local:
            raise EngineError(
                "the container engine runs on another machine, and the server would not be reached from here",
                hint="run assay on that machine",
            )
        this_machine.need_free_port(spec.port)
        host, port = ("0.0.0.0", _PORT) if info.bridge else (this_machine.ADDRESS, spec.port)  # noqa: S104 - inside
        argv = [word.replace("{host}", host).replace("{port}", str(port)) for word in spec.argv]
        wanted = ContainerSpec(
            image=spec.image,
            run="up",
            entrypoint=argv[:1],
            command=argv[1:],
            env=spec.env,
            user=spec.user,
            gpus=spec.gpus,
            network="bridge" if info.bridge else "host",
            ports=[port] if info.bridge else (),
            publish_at=spec.port if info.bridge else None,
            binds=spec.binds,
            init=info.init,
            pids=_PIDS,
            shm_bytes=spec.shm_bytes,
        )
        labels = {**spec.labels, LABEL: spec.name, LABEL_RUN: "up", f"{LABEL}.port": str(spec.port)}
        api, name = self._engine.client.api, PREFIX + spec.name
        with translated(f"creating a container of {spec.image}"):
            try:
                made = api.create_container(name=name, labels=labels, **self._engine.arguments(wanted, None))
            except docker.errors.ImageNotFound as error:
                raise EngineError(
                    f"the engine does not hold the image {spec.image}", hint="build or pull it"
                ) from error
        container = DockerContainer(self._engine.client, made["Id"], wanted)
        try:
            container.start()
        except BaseException:
            container.remove()
            raise
        task = ContainerTask(container, cache="", port=port, published=info.bridge)
        return HostedServer(task)

    def servers(self) -> Sequence[KeptServer]:
        """List the labelled containers, the newest first."""
        with translated("listing servers"):
            found: list[dict[str, Any]] = self._engine.client.api.containers(all=True, filters={"label": LABEL})
        return [
            KeptServer(
                name=entry["Labels"][LABEL],
                container=entry["Names"][0].lstrip("/"),
                image=entry["Image"],
                running=entry["State"] == "running",
                state=entry["Status"],
                labels=entry["Labels"],
            )
            for entry in found
        ]

    def log(self, server: KeptServer) -> str:
        """Return what it wrote so far."""
        logs = self._container(server).logs(limit=8 << 20)
        return logs.text

    def follow(self, server: KeptServer) -> Iterator[bytes]:
        """Yield its output as it comes."""
        return self._container(server).follow()

    def remove(self, server: KeptServer, *, grace: float) -> ServerEnded:
        """Stop and remove it; somebody else may have done so in the meantime."""
        container = self._container(server)
        try:
            with suppress(EngineError):
                return HostedServer(ContainerTask(container, cache="", port=0, published=False)).stop(grace=grace)
            return ServerEnded(code=None, signal=None, seconds=0)
        finally:
            container.remove()

    def _container(self, server: KeptServer) -> DockerContainer:
        return DockerContainer(self._engine.client, server.container, ContainerSpec(image=server.image, run="up"))
