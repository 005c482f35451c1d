"""What a Docker daemon answers, as the values of the engine port."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from assay.adapters.docker.errors import translated
from assay.adapters.host import process
from assay.errors import ToolError, UsageError
from assay.evidence.reference import Reference, Repository
from assay.foundation.platforms import Platform
from assay.ports.engine import EngineInfo, ImageInfo, ImageLayer

__all__ = ["Reader", "gpu_access", "read_image", "read_info"]

# Instructions that change only the configuration of an image; all others make a layer.
_NO_LAYER: Final = ("ENV", "LABEL", "CMD", "ENTRYPOINT", "EXPOSE", "ARG", "USER", "STOPSIGNAL", "HEALTHCHECK", "VOLUME",
                    "SHELL", "ONBUILD", "MAINTAINER")  # fmt: skip


def read_info(
    said: Mapping[str, Any], version: Mapping[str, Any], *, local: bool, networks: Collection[str] = ("bridge",)
) -> EngineInfo:
    """Read `GET /info`, `GET /version` and the names of the networks."""
    driver_type = dict(said.get("DriverStatus") or []).get("driver-type", "")
    architecture = str(said.get("Architecture", ""))
    podman = any(part.get("Name") == "Podman Engine" for part in version.get("Components") or ())
    return EngineInfo(
        version=str(said["ServerVersion"]),
        api_version=str(version.get("ApiVersion", "")),
        image_store="containerd" if "containerd" in driver_type else "graphdriver",
        storage_driver=str(said.get("Driver", "")),
        architecture=here.architecture if (here := Platform.known(architecture)) else architecture,
        operating_system=str(said.get("OperatingSystem", "")),
        kernel=str(said.get("KernelVersion", "")),
        cpus=int(said.get("NCPU", 0)),
        memory_bytes=int(said.get("MemTotal", 0)),
        root_dir=str(said.get("DockerRootDir", "")),
        local=local,
        gpu=gpu_access(said, local=local),
        bridge="bridge" in networks,
        # N/A without one (moby, daemon/info_unix.go); empty for Debian's tini, whose version names no commit.
        # Podman does not say; a container that asks for one it lacks is not made.
        init=not podman and (said.get("InitCommit") or {}).get("ID", "N/A") != "N/A",
        buildx=_buildx(),
        podman=podman,
        warnings=tuple(said.get("Warnings") or ()),
    )


def gpu_access(said: Mapping[str, Any], *, local: bool) -> Literal["runtime", "cdi"] | None:
    """Find out how this engine gives a container a GPU.

    Docker 28 lists the CDI devices it knows; 25 to 27 name only the folders they look in, which can be read when the
    engine is on this machine and have to be trusted otherwise.
    """
    if "nvidia" in (said.get("Runtimes") or {}):
        return "runtime"
    discovered = said.get("DiscoveredDevices")
    if discovered is not None:
        named = [str(device.get("ID", "")) for device in discovered if device.get("Source") == "cdi"]
        return "cdi" if any(name.startswith("nvidia.com/gpu=") for name in named) else None
    folders = [Path(folder) for folder in said.get("CDISpecDirs") or ()]
    if not local:
        return "cdi" if folders else None
    for folder in folders:
        with suppress(OSError):
            if any("nvidia.com/gpu" in spec.read_text() for spec in folder.iterdir() if spec.is_file()):
                return "cdi"
    return None


def _buildx() -> str | None:
    try:
        said = process.run(["docker", "buildx", "version"], timeout=20).text.split()
    except ToolError:
        return None
    return said[1] if len(said) > 1 else None


def read_image(
    reference: str,
    found: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    store: Literal["containerd", "graphdriver"],
) -> ImageInfo:
    """Read `GET /images/<name>/json` and its history."""
    config = found.get("Config") or {}
    repo_digests = tuple(found.get("RepoDigests") or ())
    digest = found["Id"] if store == "containerd" else _digest(reference, repo_digests)
    return ImageInfo(
        reference=reference,
        id=found["Id"],
        digest=digest,
        tags=tuple(found.get("RepoTags") or ()),
        repo_digests=repo_digests,
        labels=config.get("Labels") or {},
        size_bytes=int(found.get("Size") or 0),
        created=str(found.get("Created") or ""),
        architecture=str(found.get("Architecture") or ""),
        layers=_layers((found.get("RootFS") or {}).get("Layers") or (), history),
        env=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        user=str(config.get("User") or ""),
        workdir=str(config.get("WorkingDir") or ""),
    )


def _digest(reference: str, repo_digests: Sequence[str]) -> str | None:
    """Return the digest that a registry gave the image: that of the reference, or of its repository, or any.

    One image may have several: pushed to two registries by an engine that keeps no manifests, its layers can be
    compressed anew for each.
    """
    given = reference.partition("@")[2]
    names = [name.rpartition("@") for name in repo_digests]
    if given and any(digest == given for _, _, digest in names):
        return given
    repository = _repository(reference)
    return next(
        (digest for name, _, digest in names if repository is not None and _repository(name) == repository),
        next((digest for _, _, digest in names), None),
    )


def _repository(reference: str) -> Repository | None:
    try:
        return Reference.parse(reference).repository
    except UsageError:
        # An image may be named by a piece of its id.
        return None


def _instruction(entry: Mapping[str, Any]) -> str:
    return str(entry.get("CreatedBy") or "").removeprefix("/bin/sh -c #(nop) ").strip()


def _layers(diff_ids: Sequence[str], history: Sequence[Mapping[str, Any]]) -> tuple[ImageLayer, ...]:
    """Join layers with the history, which the engine gives newest first and without saying which entry made a layer."""
    entries = [
        entry for entry in reversed(history or ()) if not _instruction(entry).startswith(_NO_LAYER) or entry.get("Size")
    ]
    if len(entries) != len(diff_ids):
        entries = [entry for entry in entries if entry.get("Size")]
    if len(entries) != len(diff_ids):
        return tuple(ImageLayer(diff_id=diff_id, bytes=None) for diff_id in diff_ids)
    return tuple(
        ImageLayer(diff_id=diff_id, bytes=int(entry.get("Size") or 0), made_by=_instruction(entry))
        for diff_id, entry in zip(diff_ids, entries, strict=True)
    )


class Reader(io.RawIOBase):
    """A stream of chunks from the engine as a file that can be read forward; `doing` starts the error message."""

    def __init__(self, chunks: Iterator[bytes], doing: str) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._doing = doing

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with available bytes; return 0 at the end."""
        while not self._rest:
            with translated(self._doing):
                chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
