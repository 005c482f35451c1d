"""A folder of layers: blobs by digest as in an OCI layout, and a catalogue of which key has which layer."""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

import zstandard

from assay.adapters.files.cache import cache_folder
from assay.adapters.files.image_archive import image_files
from assay.adapters.files.locks import locked, no_space
from assay.adapters.files.records import write_whole
from assay.adapters.index.local import file_sha256
from assay.errors import RegistryError, StoreError, UsageError, WheelError
from assay.evidence.oci import MANIFEST, Manifest
from assay.evidence.reference import Repository
from assay.foundation.digest import DIGEST, sha256_of
from assay.matrix.image_steps import PinnedWheel
from assay.ports.engine import ImageFile
from assay.wheels.catalogue import (
    BaseEntry,
    CatalogueEntry,
    CatalogueWheel,
    dump_base,
    dump_entry,
    load_base,
    load_entry,
)
from assay.wheels.layer import LayerBytes

__all__ = ["FolderStore", "default_folder"]

_PARTIAL: Final = "partial-"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SIBLINGS: Final = 3
"""Repositories remembered for a layer, beside the newest."""


def default_folder() -> Path:
    """Return where layers are kept: ASSAY_LAYERS, else below assay's cache folder."""
    return Path(os.environ.get("ASSAY_LAYERS") or cache_folder() / "layers")


class FolderStore:
    """Keeps layers. A blob gets its name when all of it is written, and its entry in the catalogue after that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._catalogue = folder / "catalogue"
        self._images = folder / "images"
        self._pushed = folder / "pushed"
        self._told = folder / "told"
        self._bases = folder / "bases"
        self._owned = folder / "owned"
        places = (self._blobs, self._catalogue, self._images, self._pushed, self._told, self._bases, self._owned)
        try:
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made: {error.strerror}", hint="ASSAY_LAYERS names another folder"
            ) from error
        self._sweep()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    def blob(self, digest: str) -> Path:
        """Return the file of a blob, which need not be there."""
        assert DIGEST.fullmatch(digest), digest
        return self._blobs / digest.removeprefix("sha256:")

    def wheel(self, sha256: str) -> Path:
        """Return the file of a wheel that was built here, which need not be there."""
        return self._blobs / sha256

    def described(self, key: str) -> CatalogueEntry | None:
        """Return what the catalogue has of a key; see the port. An entry that cannot be read is none."""
        try:
            return load_entry(self._entry(key).read_bytes(), key)
        except (OSError, WheelError):
            return None

    def told(self, key: str) -> CatalogueEntry | None:
        """Return what other machines say of a key; see the port."""
        try:
            return load_entry((self._told / self._entry(key).name).read_bytes(), key)
        except (OSError, WheelError):
            return None

    def hear(self, entry: CatalogueEntry) -> bool:
        """Take what another machine says of a layer; see the port."""
        if self.described(entry.key) is not None or self.told(entry.key) == entry:
            return False
        write_whole(self._told / self._entry(entry.key).name, dump_entry(entry))
        return True

    def base(self, key: str, *, told: bool = False) -> BaseEntry | None:
        """Return a base of the catalogue, by what names its recipe; see the port."""
        for folder in (self._bases, self._told) if told else (self._bases,):
            try:
                return load_base((folder / f"{key}.json").read_bytes())
            except (OSError, WheelError):
                continue
        return None

    def learn_base(self, base: BaseEntry) -> None:
        """Take a base that was made here into the catalogue."""
        write_whole(self._bases / f"{base.key}.json", dump_base(base))

    def hear_base(self, base: BaseEntry) -> bool:
        """Take what another machine says of a base; see the port."""
        if self.base(base.key) is not None or self.base(base.key, told=True) == base:
            return False
        write_whole(self._told / f"{base.key}.json", dump_base(base))
        return True

    def bases(self) -> Iterator[BaseEntry]:
        """Yield the bases that were made here; see the port."""
        for path in sorted(self._bases.glob("*.json")):
            if (found := self.base(path.stem)) is not None:
                yield found

    def has(self, digest: str, size: int) -> bool:
        """Return whether all bytes of a layer are here; see the port."""
        try:
            return self.blob(digest).stat().st_size == size
        except OSError:
            return False

    def opened(self, digest: str) -> BinaryIO:
        """Open the bytes of a layer; see the port."""
        try:
            return self.blob(digest).open("rb")
        except OSError as error:
            raise StoreError(
                f"{digest[:19]} is not in {self._folder}", hint="run again: a layer that is missing is made again"
            ) from error

    def make(
        self,
        key: str,
        write: Callable[[BinaryIO], LayerBytes],
        wheels: Sequence[PinnedWheel] = (),
        last: Callable[[], bool] = lambda: True,
    ) -> LayerBytes:
        """Write a layer and file it under a key; see the port."""
        with self._partial() as (path, file):
            layer = write(file)
            file.flush()
            os.fsync(file.fileno())
            path.replace(self.blob(layer.digest))
        named = tuple(CatalogueWheel(name=one.name, version=one.version, sha256=one.sha256) for one in wheels)
        self.learn(CatalogueEntry(key=key, **vars(layer), wheels=named, last=last()))
        return layer

    @contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Hold a key; see the port. A process that ends, however it does, holds nothing."""
        path = self._folder / "making" / self._entry(key).stem
        with locked(path) as mine:
            yield mine
            if mine:
                # Whoever waits has the file open, and finds the layer; a layer that failed keeps its file.
                path.unlink(missing_ok=True)

    def learn(self, entry: CatalogueEntry) -> None:
        """Take an entry into the catalogue; one of its key is replaced."""
        write_whole(self._entry(entry.key), dump_entry(entry))

    def entries(self) -> Iterator[CatalogueEntry]:
        """Yield what the catalogue has, in the order of the keys."""
        for path in sorted(self._catalogue.glob("*.json")):
            if (found := self.described(f"sha256:{path.stem}")) is not None:
                yield found

    def base_layer(self, diff_id: str) -> str | None:
        """Return the digest of a layer of a base; see the port."""
        for base in self.bases():
            for layer in base.layers:
                if layer.diff_id == diff_id and self.has(layer.digest, layer.size):
                    return layer.digest
        return None

    @contextmanager
    def files(self, digest: str) -> Iterator[Iterator[ImageFile]]:
        """Read the files of a layer; see the port."""
        with self.opened(digest) as packed, _unpacked(packed) as stream:
            yield image_files(stream, f"reading the layer {digest[:19]}")

    def contents(self, diff_id: str) -> bytes | None:
        """Return what was kept of a layer's files; see the port."""
        try:
            return self._of(diff_id).read_bytes()
        except OSError:
            return None

    def keep_contents(self, diff_id: str, data: bytes) -> None:
        """Keep the files of a layer, as an audit sees them; see the port."""
        write_whole(self._of(diff_id), data)

    def _of(self, diff_id: str) -> Path:
        assert DIGEST.fullmatch(diff_id), diff_id
        return self._folder / "contents" / f"{diff_id.removeprefix('sha256:')}.json"

    def owned(self, wheel: str) -> str | None:
        """Return which files a wheel installs; see the port."""
        try:
            return (self._owned / wheel).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None

    def keep_owned(self, wheel: str, owned: str) -> None:
        """Keep which files a wheel installs; see the port."""
        write_whole(self._owned / wheel, owned.encode("utf-8", "surrogateescape"))

    def keep_image(self, manifest: Manifest, config: bytes) -> None:
        """Keep manifest and configuration; see the port."""
        assert manifest.config is not None
        for digest, data in ((manifest.config.digest, config), (manifest.digest, manifest.raw)):
            if not (path := self._images / digest.removeprefix("sha256:")).is_file():
                write_whole(path, data)

    def image(self, digest: str) -> tuple[Manifest, bytes] | None:
        """Return manifest and configuration; see the port."""
        try:
            manifest = Manifest.parse(
                (self._images / digest.removeprefix("sha256:")).read_bytes(), MANIFEST, expected=digest
            )
            assert manifest.config is not None
            config = (self._images / manifest.config.digest.removeprefix("sha256:")).read_bytes()
        except (OSError, RegistryError):
            return None
        return (manifest, config) if sha256_of(config) == manifest.config.digest else None

    def images(self, most: int) -> Iterator[Manifest]:
        """Yield manifests, the newest first; see the port."""
        newest = sorted(self._images.glob("*"), key=lambda path: -path.stat().st_mtime)
        for path in newest[: 2 * most]:
            if (found := self.image(f"sha256:{path.name}")) is not None:
                yield found[0]

    def note_push(self, digests: Sequence[str], repository: Repository) -> None:
        """Remember that a repository has layers; see the port."""
        for digest in digests:
            there = self.pushed_to(digest)
            if there[:1] == [repository]:
                continue
            known = [str(one) for one in there if one != repository][:_SIBLINGS]
            lines = "\n".join([str(repository), *known])
            write_whole(self._pushed / digest.removeprefix("sha256:"), lines.encode())

    def pushed_to(self, digest: str) -> Sequence[Repository]:
        """Return repositories that have a layer; see the port."""
        try:
            lines = (self._pushed / digest.removeprefix("sha256:")).read_text().splitlines()
            return [Repository.parse(line) for line in lines]
        except (OSError, UnicodeDecodeError, UsageError):
            return []

    def keep(self, data: BinaryIO, digest: str) -> Path:
        """Keep a blob that comes from elsewhere.

        Raises:
            StoreError: its bytes have another digest.
        """
        target = self.blob(digest)
        if target.is_file():
            return target
        with self._partial() as (path, file):
            shutil.copyfileobj(data, file, 1 << 20)
            file.flush()
            found = f"sha256:{file_sha256(path)}"
            if found != digest:
                raise StoreError(f"a blob has the digest {found}, not {digest}: it was damaged or changed underway")
            path.replace(target)
        return target

    def _entry(self, key: str) -> Path:
        assert DIGEST.fullmatch(key), key
        return self._catalogue / f"{key.removeprefix('sha256:')}.json"

    @contextmanager
    def _partial(self) -> Iterator[tuple[Path, BinaryIO]]:
        path: Path | None = None
        try:
            with ExitStack() as stack:
                with self._alone():
                    file = stack.enter_context(
                        tempfile.NamedTemporaryFile(dir=self._folder, prefix=_PARTIAL, delete=False)
                    )
                    path = Path(file.name)
                    # Held as long as this process lives: what nobody holds was left by one that was killed.
                    fcntl.flock(file, fcntl.LOCK_EX)
                path.chmod(0o644)
                yield path, file  # type: ignore[misc]
        except OSError as error:
            hint = no_space(error) or "ASSAY_LAYERS names another folder"
            raise StoreError(f"{self._folder} cannot be written: {error.strerror}", hint=hint) from error
        finally:
            if path is not None:
                path.unlink(missing_ok=True)

    def _alone(self) -> AbstractContextManager[bool]:
        return locked(self._folder / ".lock", wait=True)

    def _sweep(self) -> None:
        """Remove what killed runs left."""
        with self._alone():
            for path in self._folder.glob(f"{_PARTIAL}*"):
                # Not by process id: containers that share the folder number their processes each for itself.
                with locked(path) as free:
                    if free:
                        path.unlink(missing_ok=True)


def _unpacked(packed: BinaryIO) -> BinaryIO:
    """Return a stream of the tar of a layer, which is packed with zstd, gzip or not at all."""
    start = packed.read(4)
    packed.seek(0)
    if start == _ZSTD:
        return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    return cast("BinaryIO", gzip.open(packed)) if start[:2] == b"\x1f\x8b" else packed
