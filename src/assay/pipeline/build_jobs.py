"""What the build step is given: cells with their locks, the ports it works through, and its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeGuard

from assay.audit.judgement import AuditJudgement
from assay.errors import UsageError
from assay.evidence.record import BuildRecord
from assay.foundation.platforms import Platform
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.lockfile import lock_digest
from assay.matrix.model import Base
from assay.pipeline.pool import PoolListener, SilentListener
from assay.ports.builder import Builder
from assay.ports.engine import ImageInfo
from assay.ports.store import Store

__all__ = [
    "Assembly",
    "BuildItem",
    "BuildOptions",
    "BuildPorts",
    "DiskSpace",
    "ImageJudge",
    "Images",
    "Judge",
    "PreparedBuild",
    "Spreads",
    "build_labels",
    "forecast",
    "is_assembled_anew",
    "is_spread",
    "is_stale",
    "prepare",
    "without_refusals",
]

KEY_LABEL: Final = f"{render.LABEL_PREFIX}content-key"
LOCK_LABEL: Final = f"{render.LABEL_PREFIX}lock"


class Images(Protocol):
    """The images of an engine, a registry or a folder, as far as building needs them."""

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of those images that the engine holds, by reference."""
        ...

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image, or None if the engine does not hold it."""
        ...


class Assembly(Protocol):
    """Tells, before anything is made, what becomes of a Dockerfile."""

    def obstacle(self, dockerfile: str) -> str:
        """Return what keeps an image from being assembled; empty where nothing does."""
        ...

    def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
        """Return the digest that the image will have; None where the catalogue lacks a layer."""
        ...

    def begin(self, dockerfile: str) -> None:
        """Begin in the background what an image needs besides its wheels."""
        ...


Judge = Callable[[Cell, Lock, str], AuditJudgement | None]
"""(cell, lock, run) -> the audit of the wheels; None where nothing could be read. Keeps its own record."""
ImageJudge = Callable[[Cell, Lock, str, str], AuditJudgement | None]
"""(cell, lock, image reference, run) -> the audit of what is really installed."""


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """The free space where the engine keeps its images."""

    folder: str
    free: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class BuildPorts:
    """What building needs from the world."""

    bases: Mapping[str, Base]
    """Base name -> base."""
    ensure_base: Callable[[str, Base, Platform, Callable[[str], None]], str | None]
    """Makes a base that has to be made before anything is built on it; is given where its progress goes. Returns its
    reference where builders see it under another one."""
    render_cell: Callable[[Cell, Lock], str]
    """Cell and lock -> Dockerfile."""
    builder: Builder
    images: Images
    store: Store
    ready: Callable[[Sequence[str]], None] | None = None
    """Tells the builders of a pool which Dockerfiles they are going to build; raises EngineMissing if none answers."""
    spreads: Spreads | None = None
    """Says whether an item goes to the pool, where there is one; None: what BuildKit builds does."""
    name_of: Callable[[Cell], str] = field(default=lambda cell: cell.local_reference)
    """Cell -> the name of its image where `images` has it."""
    assembly: Assembly | None = None
    """What can be assembled without a build; None leaves everything to the builder."""
    judge: Judge | None = None
    """Audits the wheels before a build; None leaves the audit out."""
    judge_image: ImageJudge | None = None
    """Audits the image after a build; None leaves the audit out."""
    diagnose: Callable[[Path], str | None] | None = None
    """Build log -> the most likely cause of its failure, an entry of knowledge/failures/."""
    space: Callable[[], DiskSpace | None] = lambda: None
    """Returns the free space where the engine keeps its images; None if it cannot be seen."""
    listener: PoolListener[BuildRecord] = field(default_factory=SilentListener)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a run is done."""

    jobs: int = 2
    fail_fast: bool = False
    force: bool = False
    """Build what the audit refuses, and what the engine holds already."""
    timeout: float | None = 7200.0
    """Seconds for one cell."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    """Registry -> the mirror that bases are pulled from instead."""
    revision: str = ""
    """Of the recipes' repository."""
    spread: int = 0
    """Cells that the builders of a pool build at the same time, beside `jobs` here; 0 where this machine builds all."""


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A cell with all that its build needs."""

    cell: Cell
    lock: Lock
    dockerfile: str
    key: str
    stale: str | None
    """Why it has to be built; None when the image is there."""
    obstacle: str | None = None
    """What keeps it from being assembled; empty where nothing does, None where nobody assembles."""

    @property
    def assembled(self) -> bool:
        """Whether it is assembled, and not built."""
        return self.obstacle == ""

    @property
    def labels(self) -> dict[str, str]:
        """The labels that a build adds to those of the Dockerfile."""
        return build_labels(self.key)


def build_labels(key: str) -> dict[str, str]:
    """Return the labels that a build of some content key adds to those of the Dockerfile."""
    return {KEY_LABEL: key}


BuildItem = PreparedBuild | LockedCell
"""A build that is prepared, or a cell without a lock, which is refused."""


Spreads = Callable[[BuildItem], TypeGuard[PreparedBuild]]
"""Says whether an item goes to a pool."""


def is_stale(item: BuildItem) -> TypeGuard[PreparedBuild]:
    """Return whether an item has to be built."""
    return isinstance(item, PreparedBuild) and item.stale is not None


def is_spread(item: BuildItem) -> TypeGuard[PreparedBuild]:
    """Return whether an item is built by a pool of builders, where there is one."""
    return is_stale(item) and not item.assembled


def is_assembled_anew(item: BuildItem) -> TypeGuard[PreparedBuild]:
    """Return whether an item is assembled by workers of a pool, where there is one."""
    return is_stale(item) and item.assembled


def without_refusals(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that make sense without an audit: all but the controls that the audit must refuse.

    Raises:
        UsageError: none is left.
    """
    left = [cell for cell in cells if cell.expect is None or cell.expect.stage != "audit"]
    if cells and not left:
        raise UsageError(
            "the selected cells are controls that the audit must refuse, and --no-audit skips it",
            hint="omit --no-audit",
        )
    return left


def prepare(cells: Sequence[LockedCell], ports: BuildPorts, *, force: bool = False) -> list[BuildItem]:
    """Return each cell with its Dockerfile and content key; a cell without a lock stays as it is.

    Raises:
        ConfigError: a template is wrong.
        EngineMissing: no engine answers.
    """
    locked = [(item.cell, item.lock) for item in cells if item.lock is not None]
    with ThreadPoolExecutor(1) as pool:
        # The engine takes its time to answer; meanwhile there is something to do.
        asked = pool.submit(ports.images.labels, [ports.name_of(cell) for cell, _ in locked])
        texts = {cell.id: ports.render_cell(cell, lock) for cell, lock in locked}
        there = asked.result()
    result: list[BuildItem] = []
    for item in cells:
        cell, lock = item.cell, item.lock
        if lock is None:
            result.append(item)
            continue
        key = render.content_key(texts[cell.id])
        stale = "requested by --force" if force else _stale(there.get(ports.name_of(cell)), key, lock)
        obstacle = None if ports.assembly is None else ports.assembly.obstacle(texts[cell.id])
        prepared = PreparedBuild(
            cell=cell, lock=lock, dockerfile=texts[cell.id], key=key, stale=stale, obstacle=obstacle
        )
        result.append(prepared)
    return result


def forecast(cells: Iterable[LockedCell], rendered: Callable[[Cell, Lock], str], assembly: Assembly) -> dict[str, str]:
    """Return cell id -> the digest that its lock gives, for cells of which the catalogue has every layer."""
    found: dict[str, str] = {}
    for item in cells:
        if item.lock is None or assembly.obstacle(text := rendered(item.cell, item.lock)):
            continue
        if digest := assembly.digest(text, build_labels(render.content_key(text))):
            found[item.cell.id] = digest
    return found


def _stale(labels: Mapping[str, str] | None, key: str, lock: Lock) -> str | None:
    """Return why an image is not the one of this key, or None when it is."""
    if labels is None:
        return "this cell has no image"
    if labels.get(KEY_LABEL) == key:
        return None
    if labels.get(LOCK_LABEL) != lock_digest(lock):
        return "the lock changed"
    return "the recipe or the template changed"
