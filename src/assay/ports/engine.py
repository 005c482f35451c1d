"""The container engine: images as it holds them, containers as a lifecycle that cannot leak.

Builds do not go through here (BuildKit needs its own session protocol); everything else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from assay.ports.jobs import Bind

__all__ = [
    "LABEL_OWNER",
    "LABEL_RUN",
    "Bind",
    "Container",
    "ContainerSpec",
    "Engine",
    "EngineInfo",
    "Exit",
    "Gpus",
    "ImageFile",
    "ImageInfo",
    "ImageLayer",
    "Logs",
    "RunResult",
    "run",
]

LABEL_RUN: Final = "assay.run"
"""Label of every container and volume: the run that made it."""
LABEL_OWNER: Final = "assay.owner"
"""Label of every container and volume: host, process and its start, so that only what a dead process left is swept."""

Gpus = tuple[()] | Literal["all"] | tuple[str, ...]
"""GPUs given to a container: none, all, or indexes and UUIDs."""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Facts about the engine."""

    version: str
    api_version: str
    image_store: Literal["containerd", "graphdriver"]
    """With `containerd`, linked layers are held once and an image's id is the digest of its manifest."""
    storage_driver: str
    architecture: str
    """As in image platforms: `amd64`, `arm64`."""
    operating_system: str
    kernel: str
    cpus: int
    memory_bytes: int
    root_dir: str
    """Where images lie, on the engine's machine."""
    local: bool
    """The engine runs on this machine (it is reached by a socket in the file system)."""
    gpu: Literal["runtime", "cdi"] | None
    """How a container gets GPUs: NVIDIA's runtime, the Container Device Interface, or not at all."""
    bridge: bool = True
    """It has a bridge network; without one a container has the host's network or none."""
    init: bool = False
    """It has a small init process to put in front of a container's program."""
    buildx: str | None = None
    """Version of the buildx client on PATH."""
    podman: bool = False
    """Podman answers in Docker's place: it runs containers, and has no BuildKit."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageLayer:
    """One layer of an image."""

    diff_id: str
    """Digest of the uncompressed layer; equal layers of different images have equal ones."""
    bytes: int | None
    """As the engine holds it; None if the engine's history cannot be matched with its layers."""
    made_by: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """An image the engine holds."""

    reference: str
    """As asked for."""
    id: str
    digest: str | None
    """Digest of the manifest (or index), if the engine knows one: always with the containerd store, after a pull or
    push otherwise. A registry decides for itself: re-read it there before relying on it."""
    tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    """`repository@sha256:...`"""
    labels: Mapping[str, str]
    size_bytes: int
    created: str
    architecture: str
    layers: tuple[ImageLayer, ...]
    env: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    workdir: str


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One entry of an image's file system."""

    path: str
    """Absolute, normalised: `/usr/bin/python3`."""
    kind: Literal["file", "directory", "symlink", "hardlink", "other"]
    size: int
    mode: int
    target: str
    """Of a symlink as written; of a hard link the absolute path of the file it is another name of; otherwise empty."""
    open: Callable[[], BinaryIO] = field(repr=False, compare=False)
    """Bytes of a `file`; only until the next entry is asked for, and only forward."""


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What to run and how far it may go; the defaults give it as little as possible."""

    image: str
    run: str
    """The run this container belongs to (label)."""
    command: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    """None keeps the image's own; an empty sequence removes it."""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    gpus: Gpus = ()
    network: Literal["none", "bridge", "host"] = "none"
    ports: Sequence[int] = ()
    """TCP ports of the container, published on free ports of the loopback interface (network `bridge`)."""
    publish_at: int | None = None
    """The port of the loopback interface for the first of `ports`, instead of a free one."""
    workspace: str | None = None
    """A folder for files in and out, before start and after the end; writable for every user, even with `read_only`.
    Its parent becomes a volume of the engine, so this works on a remote one too, and it has to be a path of its own:
    `/assay/work`.
    """
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    """Path -> bytes."""
    read_only: bool = False
    drop_capabilities: bool = True
    no_new_privileges: bool = True
    memory_bytes: int | None = None
    """Memory and swap together; over it the process is killed and `Exit.oom_killed` is true."""
    init: bool = False
    """Put the engine's init process in front: as process 1 a program cannot kill itself, and orphans stay zombies."""
    pids: int | None = 4096
    shm_bytes: int = 64 << 20
    ipc_host: bool = False
    """Share the host's IPC; several GPUs talk through shared memory."""
    log_bytes: int = 64 << 20
    """The engine keeps about this much of the output, the newest."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a container ended."""

    code: int
    """Exit code; 128 + n if signal n killed it."""
    signal: int | None
    """The signal that (as far as the code tells) killed it."""
    oom_killed: bool
    timed_out: bool
    """It was killed because its time was up."""
    seconds: float
    """From start to end, as the engine measured."""
    error: str = ""
    """What the engine says went wrong, if anything."""

    @property
    def ok(self) -> bool:
        """It ended by itself with code 0."""
        return self.code == 0 and not self.timed_out and not self.oom_killed


@dataclass(frozen=True, kw_only=True)
class Logs:
    """What a container wrote; of long output the middle is left out and the gap named."""

    stdout: bytes
    stderr: bytes
    truncated: bool

    @property
    def text(self) -> str:
        """Standard output, then standard error, as text; bytes that are not UTF-8 are replaced."""
        return (self.stdout + self.stderr).decode(errors="replace")


class Container(Protocol):
    """A container that exists; it goes when its context ends, whatever state it is in. Methods are thread-safe."""

    @property
    def id(self) -> str: ...

    def start(self) -> None:
        """Start it. A program that is missing or cannot be executed is the image's fault, not the engine's: `wait` then
        gives code 127 or 126 with the reason in `error`.

        Raises:
            GpuMissing: GPUs were asked for and the engine cannot give them.
            EngineError: the engine could not start it.
        """
        ...

    def put(self, folder: str, files: Mapping[str, bytes | Path]) -> None:
        """Write files into a folder that exists, before or after the start; names may hold folders (`a/b.py`).

        Everybody may read and execute them. With `read_only` only the workspace and binds that may be written work.

        Raises:
            EngineError: the folder does not exist or cannot be written.
        """
        ...

    def get(self, path: str, *, limit: int = 64 << 20) -> dict[str, bytes]:
        """Read a file, or all files below a folder, running or not: relative name -> bytes (a file: its name alone).

        Nothing there gives an empty dict.

        Raises:
            EngineError: more than `limit` bytes lie there.
        """
        ...

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait until it ends; after `timeout` seconds kill it and say so."""
        ...

    def running(self) -> bool:
        """Say whether it runs now."""
        ...

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal; nothing happens if it does not run."""
        ...

    def logs(self, *, limit: int = 1 << 20) -> Logs:
        """Return what it wrote so far, at most about `limit` bytes of each stream."""
        ...

    def follow(self) -> Iterator[bytes]:
        """Yield both streams as they come, from the start, until it ends."""
        ...

    def host_port(self, port: int) -> int:
        """Return the loopback port under which a published port is reached."""
        ...


class Engine(Protocol):
    """A container engine. Every method raises `EngineMissing` when no engine answers."""

    def info(self) -> EngineInfo:
        """Ask the engine about itself."""
        ...

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image by tag, id or `repository@digest`; None if the engine does not hold it."""
        ...

    def images(self, *, label: str | None = None) -> Sequence[ImageInfo]:
        """Return the tagged images, or those that carry a label (`key` or `key=value`)."""
        ...

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that the engine holds, by the reference they were asked for."""
        ...

    def pull(self, reference: str, *, progress: Callable[[str], None] | None = None) -> ImageInfo:
        """Pull from a registry with the credentials of the Docker configuration.

        Raises:
            RegistryError: the registry cannot be reached, refuses, or lacks it.
        """
        ...

    def tag(self, reference: str, new: str) -> None:
        """Give an image another name."""
        ...

    def push(self, reference: str, *, progress: Callable[[str], None] | None = None) -> str:
        """Push a tag and return the digest that the registry took it under.

        Raises:
            RegistryError: the registry cannot be reached or refuses, or nothing by that name is here.
        """
        ...

    def remove_image(self, reference: str, *, force: bool = False) -> bool:
        """Remove a name, and the image with the last one; False if there was none."""
        ...

    def load(self, archive: Path) -> Sequence[str]:
        """Load an image archive (OCI layout or `docker save`); return the references or ids in it."""
        ...

    def load_pieces(self, pieces: Iterable[bytes], what: str) -> Sequence[str]:
        """Load an image archive that comes in pieces; return the references or ids in it.

        Args:
            pieces: of the archive; what they raise comes out.
            what: names the image in messages.

        Raises:
            EngineError: the archive leaves out content that the engine does not hold, or loading failed.
        """
        ...

    def container(self, spec: ContainerSpec) -> AbstractContextManager[Container]:
        """Create a container; its context removes it with its volumes on every path.

        Raises:
            EngineError: the image is not here, or the engine refuses.
            GpuMissing: GPUs were asked for and the engine knows no way to give them.
        """
        ...

    def image_files(self, reference: str) -> AbstractContextManager[Iterator[ImageFile]]:
        """Read the file system of an image, in one pass, without running it. A few empty entries are the engine's own
        (`/.dockerenv`, `/etc/hosts`, `/etc/mtab`, ...).

        Raises:
            EngineError: the image is not here.
        """
        ...

    def sweep(self, run: str | None = None) -> Sequence[str]:
        """Remove the containers and volumes of a run, or (None) those whose process on this machine is gone.

        Returns the names of what was removed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A container's whole life."""

    exit: Exit
    logs: Logs
    files: Mapping[str, bytes]


def run(
    engine: Engine,
    spec: ContainerSpec,
    *,
    timeout: float | None = None,
    files: Mapping[str, bytes | Path] | None = None,
    collect: Iterable[str] = (),
    log_limit: int = 1 << 20,
) -> RunResult:
    """Run a container from its creation to its removal.

    Args:
        timeout: seconds after which it is killed.
        files: written into the workspace before the start.
        collect: names in the workspace that are read after the end; those that are missing are left out.
        log_limit: bytes kept of each stream.
    """
    with engine.container(spec) as container:
        if files:
            assert spec.workspace is not None, "files need a workspace"
            container.put(spec.workspace, files)
        container.start()
        end = container.wait(timeout)
        found: dict[str, bytes] = {}
        for name in collect:
            assert spec.workspace is not None, "files need a workspace"
            found.update((name, data) for data in container.get(f"{spec.workspace}/{name}").values())
        return RunResult(exit=end, logs=container.logs(limit=log_limit), files=found)
