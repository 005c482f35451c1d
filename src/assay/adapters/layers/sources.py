"""Wheels that are built here from source: each once, kept beside the layers by the digest of its recipe."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from assay.adapters.files.locks import locked, no_space
from assay.adapters.files.records import write_whole
from assay.adapters.index.local import file_sha256
from assay.adapters.layers.archive import WheelArchive
from assay.adapters.layers.store import FolderStore
from assay.errors import SourceBroken, StoreError, WheelError
from assay.foundation.digest import sha256_of
from assay.matrix.image_steps import PinnedWheel
from assay.wheels.catalogue import CatalogueWheel, dump_wheel, load_wheel

__all__ = ["BuildWheel", "BuiltWheels"]

BuildWheel = Callable[[str, Path, Callable[[str], None], Callable[[], None]], None]
"""(recipe, folder, say, check): builds and puts the wheel into the folder; see `SourceWheels.build`."""
_NEW: Final = ".new-"
_PAUSE: Final = 0.2
"""Seconds between looks at whether another run has built the wheel."""


class BuiltWheels:
    """Satisfies `assay.ports.layers.SourceWheels`.

    Args:
        store: keeps the wheels as blobs, and notes which recipe gave which.
        build: builds a wheel.
        learn: is given the file of a new wheel: what an audit wants to know of it is read.
    """

    def __init__(self, store: FolderStore, build: BuildWheel, learn: Callable[[Path], None]) -> None:
        self._store = store
        self._build = build
        self._learn = learn
        self._folder = store.folder / "sources"

    def built(self, recipe: str) -> PinnedWheel | None:
        """Return the wheel of a recipe; see the port."""
        try:
            found = load_wheel(self._note(recipe).read_bytes())
        except (OSError, WheelError):
            return None
        there = self._store.blob(f"sha256:{found.sha256}").is_file()
        return PinnedWheel(name=found.name, version=found.version, sha256=found.sha256) if there else None

    def build(self, recipe: str, say: Callable[[str], None], check: Callable[[], None]) -> PinnedWheel:
        """Build the wheel of a recipe; see the port. Another run that builds the same is waited for."""
        note, told = self._note(recipe), False
        while True:
            check()
            with locked(note.with_suffix(".lock")) as mine:
                if mine:
                    return self.built(recipe) or self._built_alone(recipe, note, say, check)
            if not told:
                say("another run builds this wheel; waiting")
                told = True
            time.sleep(_PAUSE)

    def _built_alone(
        self, recipe: str, note: Path, say: Callable[[str], None], check: Callable[[], None]
    ) -> PinnedWheel:
        try:
            for left in self._folder.glob(f"{note.stem}{_NEW}*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=f"{note.stem}{_NEW}") as scratch:
                self._build(recipe, Path(scratch), say, check)
                return self._keep(note, Path(scratch), say)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be written: {error.strerror}", hint=no_space(error)) from error

    def _keep(self, note: Path, folder: Path, say: Callable[[str], None]) -> PinnedWheel:
        files = sorted(folder.iterdir())
        try:
            (path,) = files
            name, version, *_ = parse_wheel_filename(path.name)
            WheelArchive(path, path.name).__exit__()
        except (ValueError, InvalidWheelFilename, WheelError) as error:
            names = ", ".join(file.name for file in files[:3]) or "nothing"
            raise SourceBroken(f"a source was built, and gave {names} in place of one wheel: {error}") from error
        digest = file_sha256(path)
        self._learn(path)
        with path.open("rb") as data:
            self._store.keep(data, f"sha256:{digest}")
        wheel = CatalogueWheel(name=name, version=str(version), sha256=digest)
        write_whole(note, dump_wheel(wheel))
        say(f"{path.name} was built: sha256 {digest}")
        return PinnedWheel(name=wheel.name, version=wheel.version, sha256=digest)

    def _note(self, recipe: str) -> Path:
        return self._folder / f"{sha256_of(recipe.encode()).removeprefix('sha256:')}.json"
