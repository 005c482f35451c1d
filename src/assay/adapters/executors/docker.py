"""Programs in containers: as little privilege as works, files in and out through the engine's API."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from assay.adapters.executors import this_machine
from assay.adapters.executors.probe_executor import ExecutorSettings, ProbeExecutor
from assay.errors import EngineError, GpuMissing, UsageError
from assay.foundation.nearest import suggestion
from assay.foundation.platforms import Platform
from assay.ports.engine import Bind, Container, ContainerSpec, Engine, EngineInfo, Exit
from assay.ports.jobs import Place
from assay.ports.task import TaskSpec

__all__ = ["ContainerTask", "DockerTaskHost", "executor"]

_WORK: Final = "/assay/work"
_CACHE: Final = "/assay-cache"
_PORT: Final = 8000
"""The port inside, where the network is not the machine's own."""
_TMPFS: Final = {"/tmp": 4 << 30, "/run": 64 << 20}  # noqa: S108 - inside the container


def executor(settings: ExecutorSettings) -> ProbeExecutor:
    """Return the executor that the table of executors calls `docker`."""
    from assay.adapters.docker.engine import DockerEngine  # noqa: PLC0415 - the SDK is slow to import

    return ProbeExecutor(DockerTaskHost(DockerEngine(), cache=settings.cache), settings.suites)


class ContainerTask:
    """A container; see `assay.ports.task.Task`."""

    work = _WORK

    def __init__(self, container: Container, *, cache: str, port: int, published: bool) -> None:
        self._container = container
        self.cache = cache
        self._port = port
        self._published = published

    @property
    def base(self) -> str:
        """Where a started server is reached."""
        port = self._container.host_port(self._port) if self._published else self._port
        return f"http://{this_machine.ADDRESS}:{port}"

    def put(self, files: Mapping[str, bytes | Path]) -> None:
        """Write files into the work folder."""
        self._container.put(_WORK, files)

    def start(self) -> None:
        """Start it."""
        self._container.start()

    def read(self, name: str) -> bytes | None:
        """Return a file of the work folder."""
        return next(iter(self._container.get(f"{_WORK}/{name}").values()), None)

    def running(self) -> bool:
        """Say whether it runs."""
        return self._container.running()

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal."""
        self._container.kill(signal)

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for its end; kill it when time is up."""
        return self._container.wait(timeout)

    def log(self, *, limit: int = 1 << 20) -> bytes:
        """Return what it wrote so far."""
        logs = self._container.logs(limit=limit)
        return logs.stdout + logs.stderr

    def follow(self) -> Iterator[bytes]:
        """Yield what it writes until it ends."""
        return self._container.follow()


class DockerTaskHost:
    """Runs things in containers of an engine, this machine's or a remote one; see `assay.ports.task.TaskHost`.

    Args:
        engine: the container engine.
        cache: a folder of this machine for what is compiled at run time; used with an engine of this machine only.
    """

    name = "docker"
    # Where images keep their Python; the first is the one that their PATH means.
    pythons = (
        "python3",
        "/usr/bin/python3",
        "/usr/local/bin/python3",
        "/opt/venv/bin/python3",
        "/opt/conda/bin/python3",
        "python",
    )

    def __init__(self, engine: Engine, *, cache: Path | None = None) -> None:
        self._engine = engine
        self._cache = cache

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs that the engine can give."""
        info = self._engine.info()
        names, why = this_machine.cuda_devices_in_child() if info.local else (("0",), "")
        if names and info.gpu is not None:
            return names
        missing, steps = [], []
        if info.local and not names:
            missing.append(f"driver: {why}")
            steps.append("install the NVIDIA driver (580 or later for CUDA 13 images); `nvidia-smi` must show the card")
        if info.gpu is None:
            toolkit = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-runtime")
            missing.append("device request: the engine knows neither NVIDIA's runtime nor a CDI description of a GPU")
            if toolkit is None:
                missing.append("toolkit: nvidia-ctk of the NVIDIA container toolkit is not on PATH")
                steps.append("install nvidia-container-toolkit")
            steps.append(
                "`nvidia-ctk runtime configure --runtime=docker` or `nvidia-ctk cdi generate "
                "--output=/etc/cdi/nvidia.yaml`, then restart the engine"
            )
        raise GpuMissing(
            "no GPU can be given to a container; missing:\n" + "\n".join(f"  {item}" for item in missing),
            hint="; ".join(steps),
        )

    def place(self, reference: str) -> Place:
        """Find an image that the engine holds."""
        image = self._engine.image(reference)
        if image is None:
            tags = [tag for item in self._engine.images() for tag in item.tags]
            raise UsageError(
                f"there is no image {reference!r} on this engine{suggestion(reference, tags)}",
                hint=f"`assay build` makes the images of cells; `docker pull {reference}` fetches a public one",
            )
        own, theirs = Platform.known(self._engine.info().architecture), Platform.known(image.architecture)
        if own is not None and theirs is not None and own is not theirs:
            raise UsageError(
                f"{reference} is an image for {theirs}, and this engine runs {own}",
                hint=f"probe it on a machine of {theirs}; `docker pull --platform {own} {reference}` gets another",
            )
        return Place(reference=reference, digest=image.digest or image.id)

    def labels(self, reference: str) -> Mapping[str, str]:
        """Return the labels of an image; none if it is not there, or this is not an image."""
        image = self._engine.image(reference)
        return image.labels if image is not None else {}

    def manifest(self, reference: str) -> str | None:
        """Return the digest of an image's manifest, if the engine has it."""
        image = self._engine.image(reference)
        return image.digest if image is not None else None

    def sweep(self) -> Sequence[str]:
        """Remove the containers and workspaces of processes of this machine that are gone."""
        return self._engine.sweep()

    @contextmanager
    def task(self, spec: TaskSpec) -> Iterator[ContainerTask]:
        """Prepare a container."""
        info = self._engine.info()
        network = self._network(spec, info)
        published = network == "bridge"
        host = this_machine.ADDRESS if network == "host" else "0.0.0.0"  # noqa: S104 - inside the container
        port = (spec.port or this_machine.free_port(spec.ports_beside)) if network == "host" else _PORT
        words = {"{work}": _WORK, "{host}": host, "{port}": str(port)}
        argv = list(spec.argv)
        for mark, word in words.items():
            argv = [item.replace(mark, word) for item in argv]
        folder = self._cache_folder(spec, info)
        binds = list(spec.mounts)
        if folder is not None:
            binds.append(Bind(source=str(folder), target=_CACHE, read_only=False))
        wanted = ContainerSpec(
            image=spec.reference,
            run=spec.run,
            command=argv,
            entrypoint=(),
            env={"HOME": _WORK, **spec.env},
            workdir=_WORK if spec.read_only else None,
            gpus=spec.gpus,
            network=network,
            ports=[port] if published else (),
            publish_at=spec.port if published else None,
            workspace=_WORK,
            binds=binds,
            tmpfs=_TMPFS if spec.read_only else {},
            read_only=spec.read_only,
            memory_bytes=spec.memory_bytes,
            init=spec.init and info.init,
            pids=spec.pids,
            shm_bytes=spec.shm_bytes,
        )
        with self._engine.container(wanted) as container:
            cache = f"{_WORK}/cache" if folder is None else _CACHE
            yield ContainerTask(container, cache=cache, port=port, published=published)

    def _network(self, spec: TaskSpec, info: EngineInfo) -> Literal["none", "bridge", "host"]:
        if spec.network is None:
            return "none"
        if not info.local:
            raise EngineError(
                f"the container engine runs on another machine, and a server in {spec.reference} would not be reached",
                hint=this_machine.HINT_ELSEWHERE,
            )
        if spec.network == "bridge" and not info.bridge:
            raise EngineError("this container engine has no bridge network", hint="--network host")
        this_machine.need_free_port(spec.port)
        if spec.network == "auto":
            return "bridge" if info.bridge else "host"
        return spec.network

    def _cache_folder(self, spec: TaskSpec, info: EngineInfo) -> Path | None:
        if self._cache is None or spec.cache is None or not info.local:
            return None
        folder = self._cache / spec.cache.replace("sha256:", "").replace("/", "_")[:24]
        folder.mkdir(parents=True, exist_ok=True)
        # The image's user is not ours; what it compiles is only ever read by the same image again.
        folder.chmod(0o777)
        return folder

    def gpu_memory_bytes(self, uuids: Collection[str]) -> int | None:
        """Return the memory in use on these GPUs; None if the engine runs elsewhere."""
        return this_machine.gpu_memory_bytes(uuids) if self._engine.info().local else None
