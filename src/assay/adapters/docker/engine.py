"""The Docker engine through its SDK: everything but building."""

from __future__ import annotations

import os
import platform
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final
from uuid import uuid4

import docker
import docker.auth
import docker.errors
import docker.types
import docker.utils

from assay.adapters.docker.container import DockerContainer, writable_folder
from assay.adapters.docker.errors import HINT_GPU, HINT_REGISTRY, transfer_failed, translated
from assay.adapters.docker.read import Reader, read_image, read_info
from assay.adapters.docker.ssh_forward import SshForward
from assay.adapters.files.image_archive import image_files
from assay.errors import EngineError, GpuMissing, RegistryError
from assay.ports.engine import (
    LABEL_OWNER,
    LABEL_RUN,
    Container,
    ContainerSpec,
    EngineInfo,
    ImageFile,
    ImageInfo,
)

__all__ = ["DockerEngine"]

_PUSHED: Final = re.compile(r"\S+: digest: (sha256:[0-9a-f]{64}) size: \d+")
_TIMEOUT: Final = 120
# As many connections as the SDK keeps open to one engine.
_AT_ONCE: Final = 8


class DockerEngine:
    """A Docker engine: the one DOCKER_HOST or the current context names, else this machine's."""

    def __init__(self, client: docker.DockerClient | None = None) -> None:
        self._made = client
        self._local = True
        self._info: EngineInfo | None = None

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, connected at its first use."""
        if self._made is None:
            url = _address()
            with translated(f"connecting to the container engine at {url}"):
                if url.startswith("ssh://"):
                    forward = SshForward(url)
                    weakref.finalize(self, forward.close)
                    self._local = False
                    self._made = docker.DockerClient(f"unix://{forward.socket}", timeout=_TIMEOUT)
                else:
                    self._local = url.startswith(("unix://", "http+unix://", "npipe://"))
                    self._made = docker.from_env(timeout=_TIMEOUT)
            # The SDK keeps connections open until it is told to close.
            weakref.finalize(self, self._made.close)
        return self._made

    def info(self) -> EngineInfo:
        """Ask the engine about itself; asked once."""
        if self._info is None:
            with translated("asking the container engine about itself"):
                said = self.client.api.info()
                version = self.client.api.version()
                networks = {str(one["Name"]) for one in self.client.api.networks()}
            self._info = read_info(said, version, local=self._local, networks=networks)
        return self._info

    # --- images ---------------------------------------------------------------------------------------------------

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image, or None."""
        with translated(f"inspecting {reference}"):
            try:
                found = self.client.api.inspect_image(reference)  # type: ignore[no-untyped-call]
                history = self.client.api.history(found["Id"])  # type: ignore[no-untyped-call]
            except docker.errors.NotFound:
                return None
        return read_image(reference, found, history, self.info().image_store)

    def images(self, *, label: str | None = None) -> Sequence[ImageInfo]:
        """Return tagged images, or those with a label."""
        with translated("listing images"):
            listed = self.client.api.images(filters={"label": label} if label else None)
        names = [(entry.get("RepoTags") or [None])[0] or (entry["Id"] if label else None) for entry in listed]
        found = [self.image(name) for name in names if name and name != "<none>:<none>"]
        return [image for image in found if image is not None]

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Inspect images, several at once: for a list the containerd store computes the sizes of all that it holds."""

        def one(reference: str) -> Mapping[str, str] | None:
            with translated(f"inspecting {reference}"):
                try:
                    found = client.api.inspect_image(reference)  # type: ignore[no-untyped-call]
                except docker.errors.NotFound:
                    return None
            return dict(found["Config"].get("Labels") or {})

        client, asked = self.client, list(references)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return {
                name: labels for name, labels in zip(asked, pool.map(one, asked), strict=True) if labels is not None
            }

    def pull(self, reference: str, *, progress: Callable[[str], None] | None = None) -> ImageInfo:
        """Pull from a registry."""
        repository, tag = _split(reference)
        with translated(f"pulling {reference}"):
            try:
                stream = self.client.api.pull(
                    repository, tag=tag, stream=True, decode=True, auth_config=_auth(repository)
                )
                _follow(stream, f"pulling {reference}", progress)
            except docker.errors.APIError as error:
                raise transfer_failed(f"pulling {reference}", str(error.explanation)) from error
        image = self.image(reference)
        if image is None:
            raise RegistryError(f"pulling {reference} ended without an error, yet the engine does not hold it")
        return image

    def tag(self, reference: str, new: str) -> None:
        """Name an image."""
        repository, tag = _split(new)
        with translated(f"tagging {reference} as {new}"):
            self.client.api.tag(reference, repository, tag)

    def push(self, reference: str, *, progress: Callable[[str], None] | None = None) -> str:
        """Push a tag; the SDK reports failures only inside the stream, so the stream is read to its end."""
        repository, tag = _split(reference)
        digest = ""
        with translated(f"pushing {reference}"):
            try:
                stream = self.client.api.push(
                    repository, tag=tag, stream=True, decode=True, auth_config=_auth(repository)
                )
                for aux in _follow(stream, f"pushing {reference}", progress):
                    digest = aux.get("Digest") or digest
            except docker.errors.APIError as error:
                raise transfer_failed(f"pushing {reference}", str(error.explanation)) from error
        if not digest:
            raise RegistryError(f"pushing {reference} ended without an error and without a digest")
        return digest

    def remove_image(self, reference: str, *, force: bool = False) -> bool:
        """Remove a name of an image."""
        with translated(f"removing the image {reference}"):
            try:
                self.client.api.remove_image(reference, force=force)
            except docker.errors.NotFound:
                return False
        return True

    def load(self, archive: Path) -> Sequence[str]:
        """Load an image archive."""
        with archive.open("rb") as file:
            return self._load(file, archive.name)

    def load_pieces(self, pieces: Iterable[bytes], what: str) -> Sequence[str]:
        """Load an image archive that comes in pieces."""
        return self._load(pieces, what)

    def _load(self, archive: BinaryIO | Iterable[bytes], what: str) -> Sequence[str]:
        found: list[str] = []
        errors: list[str] = []
        with translated(f"loading {what}"):
            for line in self.client.api.load_image(archive):  # type: ignore[no-untyped-call]
                if error := line.get("errorDetail"):
                    errors.append(str(error.get("message", error)))
                for start in ("Loaded image ID: ", "Loaded image: "):
                    if (said := line.get("stream", "")).startswith(start):
                        found.append(said.removeprefix(start).strip())
        if errors:
            raise EngineError(f"loading {what}: {errors[0]}")
        return found

    @contextmanager
    def image_files(self, reference: str) -> Iterator[Iterator[ImageFile]]:
        """Stream an image's file system through a container that is never started."""
        # An image without a command cannot become a container; this one is never run.
        spec = ContainerSpec(image=reference, run="read", entrypoint=(), command=("none",))
        with self._created(spec) as container:
            doing = f"reading the files of {reference}"
            with translated(doing):
                stream = self.client.api.export(container.id, chunk_size=1 << 20)
            with Reader(stream, doing) as reader:
                yield image_files(reader, doing)

    # --- containers -----------------------------------------------------------------------------------------------

    @contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[Container]:
        """Create a container that is removed when the context ends."""
        with self._created(spec) as container:
            yield container

    @contextmanager
    def _created(self, spec: ContainerSpec) -> Iterator[DockerContainer]:
        api = self.client.api
        labels = {**spec.labels, LABEL_RUN: spec.run, LABEL_OWNER: _owner()}
        # Named beforehand: should creation be interrupted, there is still a name to remove.
        name = f"assay-{spec.run}-{uuid4().hex[:12]}"
        workspace = PurePosixPath(spec.workspace) if spec.workspace else None
        if workspace and len(workspace.parts) < 3:
            raise EngineError(f"the workspace of a container has to be a path like /assay/work, not {workspace}")
        volume = f"{name}-workspace" if workspace else None
        container = DockerContainer(self.client, name, spec)
        try:
            with translated(f"creating a container of {spec.image}"):
                if volume:
                    api.create_volume(volume, labels=labels)
                try:
                    made = api.create_container(name=name, labels=labels, **self.arguments(spec, volume))
                except docker.errors.ImageNotFound as error:
                    raise EngineError(
                        f"the engine does not hold the image {spec.image}", hint="build or pull it"
                    ) from error
                container.id = made["Id"]
                if workspace:
                    api.put_archive(container.id, str(workspace.parent), writable_folder(workspace.name))
            yield container
        finally:
            container.remove()
            if volume:
                with (
                    translated(f"removing the workspace of a container of {spec.image}"),
                    suppress(docker.errors.NotFound),
                ):
                    api.remove_volume(volume, force=True)

    def arguments(self, spec: ContainerSpec, volume: str | None) -> dict[str, Any]:
        """Return what the SDK's `create_container` takes for a container."""
        mounts = [
            docker.types.Mount(bind.target, bind.source, type="bind", read_only=bind.read_only) for bind in spec.binds
        ]
        if volume and spec.workspace:
            parent = str(PurePosixPath(spec.workspace).parent)
            mounts.append(docker.types.Mount(parent, volume, type="volume", no_copy=True))
        host = self.client.api.create_host_config(
            network_mode=spec.network,
            port_bindings={
                f"{port}/tcp": ("127.0.0.1", None if number else spec.publish_at)
                for number, port in enumerate(spec.ports)
            }
            or None,
            mounts=mounts,
            tmpfs={path: f"rw,exec,nosuid,nodev,size={size}" for path, size in spec.tmpfs.items()},
            read_only=spec.read_only,
            cap_drop=["ALL"] if spec.drop_capabilities else None,
            security_opt=["no-new-privileges"] if spec.no_new_privileges else None,
            mem_limit=spec.memory_bytes,
            memswap_limit=spec.memory_bytes,
            pids_limit=spec.pids,
            shm_size=spec.shm_bytes,
            ipc_mode="host" if spec.ipc_host else None,
            init=spec.init or None,
            device_requests=self._device_requests(spec),
            log_config=docker.types.LogConfig(
                type="json-file", config={"max-size": f"{max(spec.log_bytes // 2 // 1024, 1)}k", "max-file": "2"}
            ),
        )
        return {
            "image": spec.image,
            "command": list(spec.command) or None,
            "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint) or [""],
            "environment": dict(spec.env),
            "working_dir": spec.workdir,
            "user": spec.user,
            "ports": list(spec.ports) or None,
            "host_config": host,
            "detach": True,
        }

    def _device_requests(self, spec: ContainerSpec) -> list[docker.types.DeviceRequest] | None:
        if not spec.gpus:
            return None
        how = self.info().gpu
        ids = ["all"] if spec.gpus == "all" else list(spec.gpus)
        match how:
            case "cdi":
                return [docker.types.DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={one}" for one in ids])]
            case "runtime":
                count = {"count": -1} if spec.gpus == "all" else {"device_ids": ids}
                return [docker.types.DeviceRequest(driver="nvidia", capabilities=[["gpu"]], **count)]
            case None:
                raise GpuMissing(
                    f"a container of {spec.image} needs a GPU, and the engine knows neither NVIDIA's runtime nor a "
                    "CDI description of a GPU",
                    hint=HINT_GPU,
                )

    def sweep(self, run: str | None = None) -> Sequence[str]:
        """Remove what a run, or dead processes of this machine, left behind."""
        label = {"label": LABEL_OWNER if run is None else f"{LABEL_RUN}={run}"}
        removed: list[str] = []
        with translated("sweeping leaked containers"):
            api = self.client.api
            for entry in api.containers(all=True, filters=label):
                if run is not None or _left_behind(entry["Labels"]):
                    with suppress(docker.errors.NotFound):
                        api.remove_container(entry["Id"], v=True, force=True)
                        removed.append(entry["Names"][0].lstrip("/"))
            for volume in api.volumes(filters=label)["Volumes"] or []:
                if run is not None or _left_behind(volume["Labels"]):
                    with suppress(docker.errors.APIError):
                        api.remove_volume(volume["Name"])
                        removed.append(volume["Name"])
        return removed


def _address() -> str:
    """Return where the engine is: DOCKER_HOST, else the current context, else this machine's socket."""
    return os.environ.get("DOCKER_HOST") or str(
        docker.ContextAPI.kwargs_from_context(environment=os.environ).get("base_url") or "unix:///var/run/docker.sock"
    )


def _split(reference: str) -> tuple[str, str]:
    """Split into repository and tag or digest; no tag means `latest`, as everywhere; a digest outweighs a tag."""
    repository, tag = docker.utils.parse_repository_tag(reference)
    if tag and ":" in tag:
        repository, _ = docker.utils.parse_repository_tag(repository)
    return repository, tag or "latest"


def _auth(repository: str) -> dict[str, str]:
    """Return the credentials for a registry; an empty dict, never None, when anonymous (moby #50614)."""
    registry, _ = docker.auth.resolve_repository_name(repository)
    try:
        return docker.auth.load_config().resolve_authconfig(registry) or {}
    except docker.errors.DockerException as error:
        raise RegistryError(f"the credentials for {registry} cannot be read: {error}", hint=HINT_REGISTRY) from error


def _follow(
    stream: Iterator[dict[str, Any]], doing: str, progress: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    """Read a progress stream to its end; an error in it is an error. Returns the `aux` entries."""
    found: list[dict[str, Any]] = []
    said = ""
    for line in stream:
        # Read on after an error: a stream that is left in the middle keeps its connection.
        if error := line.get("errorDetail") or line.get("error"):
            said = said or str(error.get("message", error) if isinstance(error, dict) else error)
        if aux := line.get("aux"):
            found.append(aux)
        elif pushed := _PUSHED.fullmatch(str(line.get("status", ""))):
            # With the containerd store the digest stands in the words alone (measured, Docker 26.1.5).
            found.append({"Digest": pushed[1]})
        if progress is not None and (status := line.get("status")) and "progressDetail" not in line:
            progress(f"{line['id']}: {status}" if "id" in line else status)
    if said:
        raise transfer_failed(doing, said)
    return found


def _owner() -> str:
    pid = os.getpid()
    return f"{platform.node()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """Return when a process started, in the kernel's ticks: a pid alone may be another process by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _left_behind(labels: Mapping[str, str]) -> bool:
    host, _, rest = labels.get(LABEL_OWNER, "").rpartition(":")[0].rpartition(":")
    started = labels.get(LABEL_OWNER, "").rpartition(":")[2]
    return host == platform.node() and rest.isdigit() and _started(int(rest)) != started
