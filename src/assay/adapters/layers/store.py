"""A folder of layers: blobs by digest as in an OCI layout, and a catalogue of which key has which layer."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from assay.adapters.files.cache import cache_folder
from assay.adapters.files.locks import locked, no_space
from assay.adapters.files.records import write_whole
from assay.adapters.index.local import file_sha256
from assay.errors import StoreError
from assay.foundation.digest import DIGEST
from assay.wheels.layer import LayerBytes

__all__ = ["FolderStore", "default_folder"]

_PARTIAL: Final = "partial-"


def default_folder() -> Path:
    """Return where layers are kept: ASSAY_LAYERS, else below assay's cache folder."""
    return Path(os.environ.get("ASSAY_LAYERS") or cache_folder() / "layers")


class FolderStore:
    """Keeps layers. A blob gets its name when all of it is written, and its entry in the catalogue after that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._catalogue = folder / "catalogue"
        try:
            for place in (self._blobs, self._catalogue):
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

    def known(self, key: str) -> LayerBytes | None:
        """Return the layer of a key; None if it was never made, or its bytes are not here."""
        try:
            said = json.loads(self._entry(key).read_bytes())
            found = LayerBytes(**said)
            here = DIGEST.fullmatch(found.digest) is not None and self.blob(found.digest).stat().st_size == found.size
        except (OSError, ValueError, TypeError):
            return None
        return found if here else None

    def make(self, key: str, write: Callable[[BinaryIO], LayerBytes]) -> LayerBytes:
        """Write a layer and file it under a key; see the port."""
        with self._partial() as (path, file):
            layer = write(file)
            file.flush()
            os.fsync(file.fileno())
            path.replace(self.blob(layer.digest))
        write_whole(self._entry(key), json.dumps(vars(layer), sort_keys=True).encode())
        return layer

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
