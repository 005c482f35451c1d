"""Disk space for builds: how much a build takes, and whether the engine has it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from assay.errors import EngineError
from assay.matrix.lock import Lock
from assay.matrix.model import BootstrapBase, Matrix
from assay.pipeline.build_jobs import BuildItem, DiskSpace, PreparedBuild, is_stale
from assay.pipeline.pool import JobControl
from assay.ports.engine import EngineInfo
from assay.ports.host import Host

__all__ = ["DiskRoom", "build_bytes", "check_disk", "engine_space", "likely_assembled", "wheel_bytes"]

_BUILD: Final = 11
"""A build from nothing takes about this much disk for each byte of its wheels, which are packed about 1:2.5: each is
unpacked in its stage, in its layer and in the image, and packed in the image store (measured on the starter cells:
60 GB for 5.5 GB of wheels)."""
_ASSEMBLY: Final = 7
"""The same for an image that is assembled: packed in the store of layers and in the engine, unpacked in the engine
(measured on the starter cells: 35 GB for 5.5 GB of wheels)."""
_PAUSE: Final = 1.0
"""Seconds between two looks at the free space."""
FREE_SPACE: Final = "docker buildx prune; docker image prune; or select fewer cells"


def engine_space(info: EngineInfo, host: Host) -> DiskSpace | None:
    """Return the engine's free space; None if the engine is elsewhere, or its folder cannot be seen."""
    free = host.free_bytes(info.root_dir) if info.local else None
    return None if free is None else DiskSpace(folder=info.root_dir, free=free)


def wheel_bytes(locks: Iterable[Lock]) -> int:
    """Return the size of all wheels of locks, each counted once."""
    return sum({wheel.sha256: wheel.size or 0 for lock in locks for wheel in lock.wheels}.values())


def build_bytes(locks: Iterable[Lock], *, assembled: Callable[[Lock], bool]) -> int:
    """Return about how much disk it takes to make the images of locks from nothing.

    Args:
        locks: of the images.
        assembled: whether an image is assembled, and not built.
    """
    made: list[Lock] = []
    built: list[Lock] = []
    for lock in locks:
        (made if assembled(lock) else built).append(lock)
    return wheel_bytes(made) * _ASSEMBLY + wheel_bytes(built) * _BUILD


def likely_assembled(matrix: Matrix) -> Callable[[Lock], bool]:
    """Return what says whether an image can be assembled as far as its lock shows: it has a base of packages."""
    made = {name for name, base in matrix.bases.items() if isinstance(base, BootstrapBase)}
    return lambda lock: lock.base in made


class DiskRoom:
    """Keeps builds that run at once within the engine's disk.

    A build waits while others run and the free space is less than all of them take from nothing; a wheel that they
    share counts once. A build that runs alone does not wait: layers that already exist take none.

    Args:
        space: returns the engine's free space; None if it cannot be seen.
    """

    def __init__(self, space: Callable[[], DiskSpace | None]) -> None:
        self._space = space
        self._running: list[PreparedBuild] = []
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, item: BuildItem, control: JobControl) -> Iterator[None]:
        """Wait until there is room for a build, or until it has to end; keep the room until the context is left."""
        if not is_stale(item):
            yield
            return
        with self._changed:
            while self._running and not control.stop.is_set():
                space, needed = self._space(), _bytes_of([*self._running, item])
                if space is None or space.free >= needed:
                    break
                free = f"{space.free / 1e9:.0f} GB free in {space.folder}"
                control.step(f"waiting for disk space: {free}, builds at once may take {needed / 1e9:.0f} GB")
                self._changed.wait(_PAUSE)
            self._running.append(item)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(item)
                self._changed.notify_all()

    def check(self, item: PreparedBuild) -> None:
        """Refuse a build for which there is no room.

        Raises:
            EngineError: the engine's disk cannot hold its wheels.
        """
        _refuse(self._space(), wheel_bytes([item.lock]), f"the wheels of {item.cell.id}")


def _bytes_of(items: Sequence[PreparedBuild]) -> int:
    """Return about how much disk builds take."""
    made = {item.cell.id for item in items if item.assembled}
    return build_bytes([item.lock for item in items], assembled=lambda lock: lock.cell in made)


def _refuse(space: DiskSpace | None, needed: int, what: str) -> None:
    if space is not None and space.free < needed:
        text = f"only {space.free / 1e9:.1f} GB free in {space.folder}, and {what} alone need {needed / 1e9:.1f} GB"
        raise EngineError(text, hint=FREE_SPACE)


def check_disk(items: Sequence[BuildItem], space: DiskSpace | None) -> str:
    """Return a warning if the engine's disk may be too small for what has to be built, else an empty text.

    Raises:
        EngineError: it is too small.
    """
    stale = [item for item in items if is_stale(item) and item.cell.kind == "build"]
    if space is None or not stale:
        return ""
    _refuse(space, wheel_bytes(item.lock for item in stale), "the wheels")
    if space.free < (needed := _bytes_of(stale)):
        return (
            f"{space.free / 1e9:.0f} GB free in {space.folder}; building all of this from scratch takes about "
            f"{needed / 1e9:.0f} GB (layers that already exist take none)"
        )
    return ""
