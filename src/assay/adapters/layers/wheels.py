"""Brings wheels from indexes to this machine, each checked against its sha256, and away again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from assay.adapters.files.locks import no_space
from assay.adapters.index.local import file_sha256
from assay.adapters.layers.archive import WheelArchive
from assay.errors import PackageIndexError, StoreError
from assay.matrix.image_steps import PinnedWheel
from assay.ports.index import IndexFile, PackageIndex
from assay.ports.layers import SourceArchive
from assay.ports.wheel_source import WheelSource

__all__ = ["IndexWheels"]


class IndexWheels:
    """Wheels of package indexes.

    Args:
        index: lists the files.
        source: opens them.
        names: address of an index -> its name in the matrix.
        scratch: a wheel lies here while its layer is made.
        here: returns the file of a wheel that was built here, by its sha256; it need not be there.
        kept: returns the open file of a wheel that was fetched before and checked, by its sha256.
    """

    def __init__(
        self,
        index: PackageIndex,
        source: WheelSource,
        names: Mapping[str, str],
        scratch: Path,
        *,
        here: Callable[[str], Path],
        kept: Callable[[str], IO[bytes] | None] = lambda _: None,
    ) -> None:
        self._kept = kept
        self._here = here
        self._index = index
        self._source = source
        self._names = names
        self._scratch = scratch

    @contextmanager
    def open(
        self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> Iterator[WheelArchive]:
        """Fetch a wheel, check its sha256, and open it; see the port."""
        if (built := self._here(wheel.sha256)).is_file():
            if file_sha256(built) != wheel.sha256:
                raise StoreError(f"{built} is damaged", hint="remove it; the wheel is built again")
            with WheelArchive(built, f"{wheel.name} {wheel.version}") as archive:
                yield archive
            return
        file = self._found(wheel, indexes)
        try:
            with (
                self._kept(wheel.sha256) or self._fetched(wheel, file, check) as target,
                WheelArchive(Path(f"/proc/self/fd/{target.fileno()}"), file.filename) as archive,
            ):
                yield archive
        except OSError as error:
            hint = no_space(error)
            if hint is None:
                raise
            raise StoreError(f"{self._scratch}: {file.filename} does not fit: {error.strerror}", hint=hint) from error

    def _fetched(self, wheel: PinnedWheel, file: IndexFile, check: Callable[[], None]) -> IO[bytes]:
        """Return the bytes of a wheel, checked, in a file without a name: nothing is left of it in any case."""
        digest = hashlib.sha256()
        with ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(dir=self._scratch))
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
            stack.pop_all()
            return target

    def _found(self, wheel: PinnedWheel, indexes: Sequence[str]) -> IndexFile:
        for name in [*(self._names[url] for url in indexes if url in self._names), "pypi"]:
            for file in self._index.files(wheel.name, index=name):
                if file.sha256 == wheel.sha256:
                    if not file.filename.endswith(".whl"):
                        raise SourceArchive(
                            f"{file.filename} is not a wheel: only a build can install it",
                            wheel=wheel,
                            indexes=indexes,
                            hint="add --builder buildkit, which builds all of this image",
                        )
                    return file
        raise PackageIndexError(
            f"no index has the file of {wheel.name} {wheel.version} with sha256 {wheel.sha256[:12]}...",
            hint="it was removed or is on an index that matrix.yaml does not name; lock again",
        )
