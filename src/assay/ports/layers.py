"""What assembling an image from wheels needs: wheels, bases, a compiler of bytecode, and a store of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

from assay.errors import PackageIndexError
from assay.evidence.oci import Manifest
from assay.evidence.reference import Repository
from assay.matrix.image_steps import ImageSteps, PinnedWheel
from assay.ports.engine import ImageFile
from assay.wheels.archive import Member
from assay.wheels.catalogue import BaseEntry, CatalogueEntry
from assay.wheels.install import Packed
from assay.wheels.layer import LayerBytes

ACCOUNT_FILES: Final = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid")
"""Files of a base that an account is written into."""

__all__ = [
    "ACCOUNT_FILES",
    "AssemblyBase",
    "AssemblyBases",
    "BytecodeCompiler",
    "LayerCatalogue",
    "LayerStore",
    "OpenWheel",
    "SourceArchive",
    "SourceWheels",
    "StoredLayer",
    "WheelFiles",
]


@dataclass(frozen=True, kw_only=True)
class StoredLayer:
    """A layer that the store holds."""

    media_type: str
    layer: LayerBytes


class OpenWheel(Protocol):
    """A wheel that is at hand."""

    @property
    def files(self) -> Sequence[Packed]:
        """All files of the archive."""
        ...

    def read(self, member: Member) -> bytes:
        """Return the content of a small file; raises `WheelError` if it is damaged."""
        ...

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the content of a file; raises `WheelError` if it is damaged."""
        ...


class WheelFiles(Protocol):
    """Brings wheels to this machine."""

    def open(
        self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None]
    ) -> AbstractContextManager[OpenWheel]:
        """Fetch a wheel, check its sha256, and open it.

        Args:
            wheel: by content.
            indexes: addresses of indexes that may have it, beside the default.
            check: is called between pieces of the download; raises where it has to end.

        Raises:
            SourceArchive: what has this content is not a wheel.
            PackageIndexError: no index has the file, or its bytes are others.
            WheelError: it cannot be read.
        """
        ...


class SourceArchive(PackageIndexError):
    """A file of the lock is a source archive; its wheel has to be built."""

    def __init__(self, message: str, *, wheel: PinnedWheel, indexes: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wheel = wheel
        self.indexes = indexes


class SourceWheels(Protocol):
    """Wheels that are built here from source, each once.

    A recipe is a Dockerfile that builds one wheel; its text decides which.
    """

    def built(self, recipe: str) -> PinnedWheel | None:
        """Return the wheel that was built of a recipe, if its bytes are here."""
        ...

    def build(self, recipe: str, say: Callable[[str], None], check: Callable[[], None]) -> PinnedWheel:
        """Build the wheel of a recipe and keep it; `WheelFiles` brings it from then on.

        Args:
            recipe: a Dockerfile.
            say: is given a line for each step.
            check: is called now and then; raises where building has to end.

        Raises:
            SourceBroken: the source does not compile, or gives no wheel.
            EngineError: BuildKit is missing, or failed.
            RegistryError: the base's registry failed.
        """
        ...


class BytecodeCompiler(Protocol):
    """Compiles with the Python of a base."""

    def submit(self, path: str, source: bytes) -> Future[bytes]:
        """Return the `.pyc` of a source at its path in the image, to come; empty where it cannot be compiled."""
        ...


@dataclass(frozen=True, kw_only=True)
class AssemblyBase:
    """A base image whose layers the store holds."""

    layers: tuple[StoredLayer, ...]
    config: Mapping[str, Any]
    """Its OCI image configuration."""
    python: str
    """Exact version of `/usr/bin/python3`, which decides the bytecode."""
    files: Mapping[str, bytes]
    """Some files of it: `ACCOUNT_FILES` and what /etc/skel holds."""
    root: str | None
    """Folder of this machine with what its Python needs to run; None where only the catalogue knows the base."""


class AssemblyBases(Protocol):
    """Makes or finds bases without an engine."""

    def known(self, steps: ImageSteps, *, told: bool = False) -> AssemblyBase | None:
        """Return the base of an image, with its packages, if it was made here before; its bytes may be gone.

        Args:
            steps: of the image.
            told: what another machine says that it made counts, too.

        Raises:
            NotAssembled: nothing here makes such a base.
        """
        ...

    def open(self, steps: ImageSteps, say: Callable[[str], None]) -> AssemblyBase:
        """Return the base of an image, with its packages; make it if need be.

        Raises:
            NotAssembled: nothing here makes such a base.
            ToolError: it cannot be made here.
            EngineError: BuildKit has to make it, and failed.
        """
        ...

    def compiler(self, base: AssemblyBase) -> AbstractContextManager[BytecodeCompiler]:
        """Return a compiler that runs the Python of a base."""
        ...


class LayerCatalogue(Protocol):
    """What was made here of wheels and recipes, and what other machines say that they made.

    What others say tells which digest to expect. It never stands in for a layer that is made or sent from here.
    """

    def described(self, key: str) -> CatalogueEntry | None:
        """Return the layer that this machine made of a key; its bytes may be gone."""
        ...

    def told(self, key: str) -> CatalogueEntry | None:
        """Return the layer that another machine made of a key, as it says."""
        ...

    def entries(self) -> Iterator[CatalogueEntry]:
        """Yield what was made here, in the order of the keys."""
        ...

    def bases(self) -> Iterator[BaseEntry]:
        """Yield the bases that were made here, in the order of the keys."""
        ...

    def hear(self, entry: CatalogueEntry) -> bool:
        """Take what another machine says of a layer; False where that is known."""
        ...

    def hear_base(self, base: BaseEntry) -> bool:
        """Take what another machine says of a base; False where that is known."""
        ...


class LayerStore(LayerCatalogue, Protocol):
    """Layers by digest, and the catalogue of them."""

    def has(self, digest: str, size: int) -> bool:
        """Return whether all bytes of a layer are here."""
        ...

    def opened(self, digest: str) -> BinaryIO:
        """Open the bytes of a layer.

        Raises:
            StoreError: they are not here.
        """
        ...

    def make(
        self,
        key: str,
        write: Callable[[BinaryIO], LayerBytes],
        wheels: Sequence[PinnedWheel] = (),
        last: Callable[[], bool] = lambda: True,
    ) -> LayerBytes:
        """Write a layer and file it under a key; nothing half-written is ever found.

        Args:
            key: decides its bytes.
            write: writes it.
            wheels: it holds.
            last: is asked when it is written: whether no further layer holds the rest of the wheels.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        ...

    def alone(self, key: str) -> AbstractContextManager[bool]:
        """Hold a key while its layer is made; False where it is held for another image, in whichever process.

        Whoever holds it looks whether the layer was made before: until then it may have been.
        """
        ...

    def entries(self) -> Iterator[CatalogueEntry]:
        """Yield what the catalogue has."""
        ...

    def base_layer(self, diff_id: str) -> str | None:
        """Return the digest of a layer of a base that is here."""
        ...

    def files(self, digest: str) -> AbstractContextManager[Iterator[ImageFile]]:
        """Read the files of a layer, in one pass.

        Raises:
            StoreError: its bytes are not here.
            EngineError: they are damaged.
        """
        ...

    def contents(self, diff_id: str) -> bytes | None:
        """Return what was kept of the files of a layer."""
        ...

    def keep_contents(self, diff_id: str, data: bytes) -> None:
        """Keep what an audit wants to know of the files of a layer."""
        ...

    def owned(self, wheel: str) -> str | None:
        """Return what was kept of the files that a wheel installs, by its sha256."""
        ...

    def keep_owned(self, wheel: str, owned: str) -> None:
        """Keep which files a wheel installs, by its sha256: wheels of known layers are compared with new ones."""
        ...

    def keep_image(self, manifest: Manifest, config: bytes) -> None:
        """Keep the manifest and configuration of an image that was assembled."""
        ...

    def image(self, digest: str) -> tuple[Manifest, bytes] | None:
        """Return the manifest and configuration of an image that was assembled here."""
        ...

    def images(self, most: int) -> Iterator[Manifest]:
        """Yield the manifests of images that were assembled here, the newest first."""
        ...

    def note_push(self, digests: Sequence[str], repository: Repository) -> None:
        """Remember that a repository has layers."""
        ...

    def pushed_to(self, digest: str) -> Sequence[Repository]:
        """Return the repositories that got a layer from here, the newest first."""
        ...
