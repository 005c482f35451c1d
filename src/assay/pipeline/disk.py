"""Disk space for builds: how much a build takes, and whether the engine has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from assay.errors import EngineError
from assay.matrix.lock import Lock
from assay.pipeline.build_jobs import BuildItem, is_stale
from assay.ports.engine import EngineInfo
from assay.ports.host import Host

__all__ = ["DiskSpace", "build_bytes", "check_disk", "engine_space", "wheel_bytes"]

_FACTOR: Final = 11
"""A build from nothing takes about this much disk for each byte of its wheels, which are packed about 1:2.5: each is
unpacked in its stage, in its layer and in the image, and packed in the image store (measured on the starter cells:
60 GB for 5.5 GB of wheels)."""
FREE_SPACE: Final = "docker buildx prune; docker image prune; or select fewer cells"


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """The free space where the engine keeps its images."""

    folder: str
    free: int
    """Bytes."""


def engine_space(info: EngineInfo, host: Host) -> DiskSpace | None:
    """Return the engine's free space; None if the engine is elsewhere, or its folder cannot be seen."""
    free = host.free_bytes(info.root_dir) if info.local else None
    return None if free is None else DiskSpace(folder=info.root_dir, free=free)


def wheel_bytes(locks: Iterable[Lock]) -> int:
    """Return the size of all wheels of locks, each counted once."""
    return sum({wheel.sha256: wheel.size or 0 for lock in locks for wheel in lock.wheels}.values())


def build_bytes(locks: Iterable[Lock]) -> int:
    """Return about how much disk it takes to build locks from nothing."""
    return wheel_bytes(locks) * _FACTOR


def check_disk(items: Sequence[BuildItem], space: DiskSpace | None) -> str:
    """Return a warning if the engine's disk may be too small for what has to be built, else an empty text.

    Raises:
        EngineError: it is too small.
    """
    locks = [item.lock for item in items if is_stale(item) and item.cell.kind == "build"]
    if space is None or not locks:
        return ""
    alone, needed = wheel_bytes(locks), build_bytes(locks)
    if space.free < alone:
        raise EngineError(
            f"only {space.free / 1e9:.1f} GB free in {space.folder}, and the wheels alone have {alone / 1e9:.1f} GB",
            hint=FREE_SPACE,
        )
    if space.free < needed:
        return (
            f"{space.free / 1e9:.0f} GB free in {space.folder}; to build all of this from nothing takes about "
            f"{needed / 1e9:.0f} GB (layers that exist already take none)"
        )
    return ""
