"""Where images go: the engine, a registry, a folder. Each says what it has, and takes what it lacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NoReturn, Protocol

from assay.errors import EngineError, RegistryContent
from assay.evidence.oci import Descriptor, Manifest
from assay.evidence.reference import Reference, Repository
from assay.foundation.foreign import read_json
from assay.matrix.cell import Cell
from assay.pipeline.assembly.deliver import push
from assay.ports.engine import Engine, ImageInfo, ImageLayer
from assay.ports.layers import LayerStore
from assay.ports.registry import Registry
from assay.wheels.layer import Packing

__all__ = [
    "CONFIG_BYTES",
    "ByDigest",
    "Destination",
    "InEngine",
    "InFolder",
    "InRegistry",
    "WithoutFiles",
    "image_info",
]

CONFIG_BYTES: Final = 4 << 20
"""Bytes that the configuration of an image may have."""
_AT_ONCE: Final = 8
_REMEMBERED: Final = 64
"""Images that the engine is asked for, the newest first."""

Say = Callable[[str], None]
Check = Callable[[], None]


class Destination(Protocol):
    """A place for images; as `Images` it tells which it holds."""

    def name(self, cell: Cell) -> str:
        """Return the reference that a cell's image has there."""
        ...

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that are there, by reference."""
        ...

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image, or None if it is not there."""
        ...

    def obstacle(self) -> str:
        """Return why no assembled image can go there; empty where it can."""
        ...

    def has(self, digest: str) -> bool:
        """Return whether a layer is there, so that it need not be made."""
        ...

    def take(self, manifest: Manifest, config: bytes, reference: str, *, say: Say, check: Check) -> None:
        """Take an image whose layers are in the store or there already."""
        ...


class InEngine:
    """The images of a container engine with the containerd image store.

    Args:
        engine: takes them.
        store: has the layers, and the manifests of images that were assembled before.
        archive: makes an archive of an image with some of its layers.
    """

    def __init__(
        self,
        engine: Engine,
        store: LayerStore,
        archive: Callable[[str, Manifest, bytes, Sequence[Descriptor]], Iterator[bytes]],
    ) -> None:
        self._engine = engine
        self._store = store
        self._archive = archive
        self.obstacle = cache(self._obstacle)
        """Why the engine cannot read the layers; asked once."""

    def name(self, cell: Cell) -> str:
        """Return the name under which the engine keeps it."""
        return cell.local_reference

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that the engine holds."""
        return self._engine.labels(references)

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image of the engine."""
        return self._engine.image(reference)

    def _obstacle(self) -> str:
        if self._engine.info().image_store == "containerd":
            return ""
        return "the engine does not use the containerd image store, which layers compressed with zstd need"

    def has(self, digest: str) -> bool:  # noqa: ARG002 - a layer that an engine holds may be gone a moment later
        """Return False: an engine promises nothing, so the store keeps the bytes."""
        return False

    def take(self, manifest: Manifest, config: bytes, reference: str, *, say: Say, check: Check) -> None:
        """Load an image: the layers that no image of the engine has, or all where it lost one."""
        held = self._held(manifest)
        lacking = [layer for layer in manifest.layers if layer.digest not in held]
        if held:
            say(f"the engine has {len(held)} of {len(manifest.layers)} layers")
            try:
                self._load(manifest, config, reference, lacking, say=say, check=check)
            except EngineError as error:
                say(f"sending all layers: {error.message}")
            else:
                return
        self._load(manifest, config, reference, manifest.layers, say=say, check=check)

    def _load(
        self,
        manifest: Manifest,
        config: bytes,
        reference: str,
        layers: Sequence[Descriptor],
        *,
        say: Say,
        check: Check,
    ) -> None:
        def pieces() -> Iterator[bytes]:
            for piece in self._archive(reference, manifest, config, layers):
                check()
                yield piece
            say("the engine unpacks")

        say(f"loading {sum(layer.size for layer in layers) / 1e6:.1f} MB into the engine")
        self._engine.load_pieces(pieces(), reference)
        loaded = self._engine.image(reference)
        if loaded is None or loaded.digest != manifest.digest:
            there = loaded.digest if loaded else "nothing"
            raise EngineError(
                f"{reference} was loaded as {manifest.digest[:19]}, and the engine has {there}",
                hint="does the engine use the containerd image store? `docker info` names the driver-type",
            )

    def _held(self, manifest: Manifest) -> frozenset[str]:
        """Return the layers of an image that other images of the engine have."""
        wanted = {layer.digest for layer in manifest.layers}
        held: set[str] = set()
        for other in self._store.images(_REMEMBERED):
            layers = {layer.digest for layer in other.layers} & wanted
            if layers - held and other.digest != manifest.digest and self._engine.image(other.digest) is not None:
                held |= layers
            if held == wanted:
                break
        return frozenset(held)


class InRegistry:
    """A repository of a registry, or one for each recipe; each cell is a tag. No engine is asked.

    Args:
        registry: speaks to it.
        repository: takes all cells; `{image}` in its name stands for the recipe.
        store: has the layers.
        packing: an image with layers that clients of this one cannot read does not count.
    """

    def __init__(
        self, registry: Registry, repository: str | Repository, store: LayerStore, packing: Packing = Packing.ZSTD
    ) -> None:
        self._packing = packing
        self._registry = registry
        self._repository = str(repository)
        self._repository_of("image")
        self._store = store
        self.has = cache(self._has)
        """Whether the repository has a layer."""
        self._guard = threading.Lock()
        self._sending: dict[str, threading.Lock] = {}

    def _repository_of(self, image: str) -> Repository:
        return Repository.parse(self._repository.replace("{image}", image))

    def name(self, cell: Cell) -> str:
        """Return the repository with the cell's tag."""
        return self._repository_of(cell.image).tagged(cell.tag)

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that the repository has."""
        asked = list(references)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = zip(asked, pool.map(self.image, asked), strict=True)
            return {reference: image.labels for reference, image in found if image is not None}

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image of the repository."""
        wanted = Reference.parse(reference)
        manifest = self._registry.manifest(wanted.repository, wanted.key)
        if manifest is None or manifest.config is None or not _readable(manifest, self._packing):
            return None
        config = self._registry.blob(wanted.repository, manifest.config, limit=CONFIG_BYTES)
        return None if config is None else image_info(manifest, config, reference)

    def obstacle(self) -> str:
        """Return nothing: a registry takes any layer."""
        return ""

    @contextmanager
    def _alone(self, digest: str) -> Iterator[bool]:
        """Let images that are sent at once share layers: one sends, the others wait."""
        with self._guard:
            lock = self._sending.setdefault(digest, threading.Lock())
        waited = not lock.acquire(blocking=False)
        if waited:
            lock.acquire()
        try:
            yield waited
        finally:
            lock.release()

    def _has(self, digest: str) -> bool:
        # What one repository has, another one lacks: the bytes are kept here, and the registry mounts them.
        return "{image}" not in self._repository and self._registry.has_blob(self._repository_of(""), digest)

    def take(self, manifest: Manifest, config: bytes, reference: str, *, say: Say, check: Check) -> None:
        """Upload what the repository lacks, or mount it from one that got it before."""
        wanted = Reference.parse(reference)
        push(
            manifest, config, self._registry, wanted.repository, wanted.key,
            opened=self._store.opened, siblings=self._store.pushed_to, alone=self._alone, say=say, check=check,
        )  # fmt: skip
        self._store.note_push([layer.digest for layer in manifest.layers], wanted.repository)


class ByDigest(InRegistry):
    """A repository in which images get no tag: a worker that was given up and ends after all would move it."""

    def take(self, manifest: Manifest, config: bytes, reference: str, *, say: Say, check: Check) -> None:
        """Upload what the repository lacks."""
        name = Reference.parse(reference).repository.at(manifest.digest)
        super().take(manifest, config, name, say=say, check=check)


class InFolder:
    """An OCI layout or archive in the file system; each cell is a name in it.

    Args:
        read: returns an image by name.
        write: adds or replaces one.
        packing: an image with layers that clients of this one cannot read does not count.
    """

    def __init__(
        self,
        read: Callable[[str], tuple[Manifest, bytes] | None],
        write: Callable[[str, Manifest, bytes], None],
        packing: Packing = Packing.ZSTD,
    ) -> None:
        self._packing = packing
        self._read = read
        self._write = write

    def name(self, cell: Cell) -> str:
        """Return the cell's tag."""
        return cell.tag

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that are there."""
        return {one: found.labels for one in references if (found := self.image(one)) is not None}

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image that is there."""
        found = self._read(reference)
        if found is None or not _readable(found[0], self._packing):
            return None
        return image_info(*found, reference)

    def obstacle(self) -> str:
        """Return nothing: a folder takes any layer."""
        return ""

    def has(self, digest: str) -> bool:  # noqa: ARG002 - blobs are linked from the store
        """Return False: blobs are links to those of the store."""
        return False

    def take(self, manifest: Manifest, config: bytes, reference: str, *, say: Say, check: Check) -> None:
        """Write an image."""
        check()
        say(f"writing {manifest.image_bytes / 1e6:.1f} MB")
        self._write(reference, manifest, config)


class WithoutFiles:
    """The images of a destination that is not an engine: what they hold follows from their layers, or is not known.

    Args:
        destination: has the images.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image, or None if it is not there."""
        return self._destination.image(reference)

    def image_files(self, reference: str) -> NoReturn:
        """Refuse: only an engine can read the files of an image.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"the layers of {reference} are not all known here, and no engine is used to read its files",
            hint=f"docker pull {reference}, then `assay audit --image {reference}`",
        )


def _readable(manifest: Manifest, packing: Packing) -> bool:
    """Return whether all layers can be read by clients for which images are packed so: everybody reads gzip."""
    return packing is Packing.ZSTD or all("zstd" not in layer.media_type for layer in manifest.layers)


def image_info(manifest: Manifest, config: bytes, reference: str) -> ImageInfo:
    """Return what an image says of itself; sizes are those of the packed layers.

    Raises:
        RegistryContent: the configuration is none of an image.
    """
    try:
        said: dict[str, Any] = read_json(config)
        own: dict[str, Any] = said.get("config") or {}
        steps = [str(one.get("created_by", "")) for one in said.get("history") or () if not one.get("empty_layer")]
        diff_ids = [str(one) for one in said["rootfs"]["diff_ids"]]
        steps += [""] * (len(diff_ids) - len(steps))
        return ImageInfo(
            reference=reference,
            id=manifest.digest,
            digest=manifest.digest,
            tags=(reference,),
            repo_digests=(),
            labels={str(name): str(value) for name, value in (own.get("Labels") or {}).items()},
            size_bytes=manifest.image_bytes,
            created=str(said.get("created", "")),
            architecture=str(said.get("architecture", "")),
            layers=tuple(
                ImageLayer(diff_id=diff_id, bytes=layer.size, made_by=step)
                for diff_id, layer, step in zip(diff_ids, manifest.layers, steps, strict=False)
            ),
            env=dict(str(pair).partition("=")[::2] for pair in own.get("Env") or ()),
            entrypoint=tuple(own.get("Entrypoint") or ()),
            command=tuple(own.get("Cmd") or ()),
            user=str(own.get("User", "")),
            workdir=str(own.get("WorkingDir", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryContent(f"{reference} has a configuration that is not one of an image") from error
