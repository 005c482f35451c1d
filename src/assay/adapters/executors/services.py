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
from assay.errors import EngineError, UsageError
from assay.ports.engine import LABEL_RUN, ContainerSpec
from assay.ports.server import RunningServer, ServerEnded, ServerJob, need_same_image
from assay.ports.services import LABEL, PREFIX, KeptServer

__all__ = ["DockerServices"]

_PORT: Final = 8000
"""The port inside, where the network is not the machine's own."""


class DockerServices:
    """Containers that nobody removes but `remove`.

    Args:
        engine: the engine of this machine.
    """

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine

    def start(self, job: ServerJob) -> RunningServer:
        """Create and start a container; one that cannot start is removed again."""
        image, at = job.place.reference, job.port
        if not job.name or at is None:
            raise UsageError("a server that stays needs a name and a port, and its job lacks one")
        info = self._engine.info()
        if not info.local:
            raise EngineError(
                "the container engine runs on another machine, and the server would not be reached from here",
                hint=this_machine.HINT_ELSEWHERE,
            )
        this_machine.need_free_port(at)
        need_same_image(job, self._manifest)
        bridge = info.bridge and job.network != "host"
        host, port = ("0.0.0.0", _PORT) if bridge else (this_machine.ADDRESS, at)  # noqa: S104 - inside
        argv = [word.replace("{host}", host).replace("{port}", str(port)) for word in job.argv]
        wanted = ContainerSpec(
            image=image,
            run=job.run,
            entrypoint=argv[:1],
            command=argv[1:],
            env=job.env,
            user=job.user,
            gpus=job.gpus,
            network="bridge" if bridge else "host",
            ports=[port] if bridge else (),
            publish_at=at if bridge else None,
            binds=job.mounts,
            memory_bytes=job.limits.memory_bytes,
            init=info.init,
            pids=job.limits.pids,
            shm_bytes=job.limits.shm_bytes,
        )
        labels = {**job.labels, LABEL: job.name, LABEL_RUN: job.run, f"{LABEL}.port": str(at)}
        api, name = self._engine.client.api, PREFIX + job.name
        with translated(f"creating a container of {image}"):
            try:
                made = api.create_container(name=name, labels=labels, **self._engine.arguments(wanted, None))
            except docker.errors.ImageNotFound as error:
                raise EngineError(f"the engine does not hold the image {image}", hint="build or pull it") from error
        container = DockerContainer(self._engine.client, made["Id"], wanted)
        try:
            container.start()
        except BaseException:
            container.remove()
            raise
        # Its address is known: the engine is not asked for it, and one that ended at once has an address too.
        return RunningServer(ContainerTask(container, cache="", port=at, published=False))

    def _manifest(self, reference: str) -> str | None:
        found = self._engine.image(reference)
        return found.digest if found is not None else None

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
                return RunningServer(ContainerTask(container, cache="", port=0, published=False)).stop(grace=grace)
            return ServerEnded(code=None, signal=None, seconds=0)
        finally:
            container.remove()

    def _container(self, server: KeptServer) -> DockerContainer:
        return DockerContainer(self._engine.client, server.container, ContainerSpec(image=server.image, run="up"))
