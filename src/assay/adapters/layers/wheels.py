"""Brings wheels from indexes to this machine, each checked against its sha256, and away again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from assay.adapters.files.locks import no_space
from assay.adapters.layers.archive import WheelArchive
from assay.errors import PackageIndexError, StoreError
from assay.matrix.image_steps import PinnedWheel
from assay.ports.index import IndexFile, PackageIndex
from assay.ports.wheel_source import WheelSource

__all__ = ["IndexWheels"]


class IndexWheels:
    """Wheels of package indexes.

    Args:
        index: lists the files.
        source: opens them.
        names: address of an index -> its name in the matrix.
        scratch: a wheel lies here while its layer is made.
    """

    def __init__(self, index: PackageIndex, source: WheelSource, names: Mapping[str, str], scratch: Path) -> None:
        self._index = index
        self._source = source
        self._names = names
        self._scratch = scratch

    @contextmanager
    def open(
        self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> Iterator[WheelArchive]:
        """Fetch a wheel, check its sha256, and open it; see the port."""
        file = self._found(wheel, indexes)
        digest = hashlib.sha256()
        try:
            # Without a name: nothing is left of it, however this process ends.
            with tempfile.TemporaryFile(dir=self._scratch) as target:
                with self._source.open(file) as source:
                    for chunk in source.stream():
                        check()
                        digest.update(chunk)
                        target.write(chunk)
                target.flush()
                if digest.hexdigest() != wheel.sha256:
                    raise PackageIndexError(
                        f"{file.filename}: the lock has sha256 {wheel.sha256}, the index sent {digest.hexdigest()}",
                        hint="the index or what lies between is wrong or attacked; nothing of it was used",
                    )
                with WheelArchive(Path(f"/proc/self/fd/{target.fileno()}"), file.filename) as archive:
                    yield archive
        except OSError as error:
            hint = no_space(error)
            if hint is None:
                raise
            raise StoreError(f"{self._scratch}: {file.filename} does not fit: {error.strerror}", hint=hint) from error

    def _found(self, wheel: PinnedWheel, indexes: Sequence[str]) -> IndexFile:
        for name in [*(self._names[url] for url in indexes if url in self._names), "pypi"]:
            for file in self._index.files(wheel.name, index=name):
                if file.sha256 == wheel.sha256:
                    if not file.filename.endswith(".whl"):
                        raise PackageIndexError(
                            f"{file.filename} is no wheel: only a build can install it",
                            hint="use the BuildKit builder for this image",
                        )
                    return file
        raise PackageIndexError(
            f"no index has the file of {wheel.name} {wheel.version} with sha256 {wheel.sha256[:12]}...",
            hint="it was removed or is on an index that matrix.yaml does not name; lock again",
        )
