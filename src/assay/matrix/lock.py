"""A lock: the exact wheels of a cell. The file `lock.txt` is what pip and uv install with `--require-hashes`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Final

from pydantic import StringConstraints

from assay.foundation.derived import Deriving
from assay.foundation.strict import Value
from assay.foundation.text import Commit, Date, GitRef, ImageName, PlainText, Slug, VersionText
from assay.matrix.cell import Cell

__all__ = [
    "HEAVY_BYTES",
    "MEDIUM_BYTES",
    "SHELVES",
    "Lock",
    "LockedCell",
    "LockedSource",
    "LockedWheel",
    "Need",
    "Place",
    "Sha256",
    "place_of",
]

HEAVY_BYTES: Final = 60_000_000
"""A wheel from this size on gets a layer of its own."""

MEDIUM_BYTES: Final = 4_000_000
"""Wheels from this size on share layers with their like, so that a small one that changes takes none of them along."""

SHELVES: Final = 6
"""Layers for the medium wheels, and as many for the small ones."""

Place = tuple[int, str]
"""What layers are sorted by, lowest first, and the stage that makes them: the heaviest, ..., shelves by name."""
Need = tuple[str, str]
"""A requirement with an exact version and a hash, and the name of its index."""

WheelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def place_of(name: str, size: int | None, filename: str) -> Place:
    """Return where a file lies among the layers of an image: a later place is laid over an earlier one.

    Args:
        size: of the file in bytes, where it is known.
    """
    if (size or 0) >= HEAVY_BYTES and filename.endswith(".whl"):
        return -(size or 0), f"wheel-{name}"
    number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % SHELVES + 1
    return 0, f"{'medium' if (size or 0) >= MEDIUM_BYTES else 'small'}-{number}"


class LockedWheel(Deriving):
    """One file of the lock, by content."""

    name: WheelName
    """Normalised distribution name."""
    version: VersionText
    filename: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$")]
    sha256: Sha256
    size: int | None = None
    """Bytes, where the index tells it."""
    index: ImageName = "pypi"
    """Name of an index in matrix.yaml; `pypi` is the default of the client."""

    @property
    def is_wheel(self) -> bool:
        """False for a source distribution, which the image build has to build."""
        return self.filename.endswith(".whl")

    @property
    def _exact(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    # A matrix has the same few hundred wheels in thousands of locks: what is asked of them again and again is kept.

    @cached_property
    def line(self) -> str:
        """The line in lock.txt."""
        return f"{self._exact}  # {self.filename} {'-' if self.size is None else self.size} {self.index}"

    @cached_property
    def laid(self) -> tuple[Place, Need]:
        """Where it lies in an image, whatever else is in the lock, and what an installer reads."""
        return place_of(self.name, self.size, self.filename), (self._exact, self.index)


class LockedSource(Value):
    """What a source is compiled from: a tag, and the commit that it named when the cell was locked."""

    ref: GitRef
    commit: Commit


class Lock(Deriving):
    """Everything that decides what is installed in a cell."""

    schema_version: int = 1
    cell: PlainText
    python: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")]
    """`3.11`."""
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+-manylinux_[0-9]{1,2}_[0-9]{1,3}$")]
    """The platform given to the resolver, `x86_64-manylinux_2_36`."""
    requirements: tuple[PlainText, ...]
    """What was asked for; a lock is stale when the recipe asks for something else."""
    constraints: tuple[PlainText, ...] = ()
    """Limits on packages that others ask for, as in the recipe."""
    base: Slug
    """Name of the base in matrix.yaml."""
    base_digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest of a base image from a registry; a bootstrapped base is known by its recipe."""
    as_of: Date | None = None
    """Only files uploaded before this date were considered (ISO date)."""
    nightlies: dict[WheelName, Annotated[str, StringConstraints(pattern=r"^[0-9]{8}$")]] = {}
    """Distribution -> build date (`20261118`) of what was resolved from a nightly index."""
    sources: dict[WheelName, LockedSource] = {}
    """Distribution -> commit of the tag that it is compiled from, where the recipe names no whole commit."""
    wheels: tuple[LockedWheel, ...]

    @cached_property
    def ordered(self) -> tuple[LockedWheel, ...]:
        """The wheels by name, as they stand in lock.txt."""
        return tuple(sorted(self.wheels, key=attrgetter("name")))

    def wheel(self, name: str) -> LockedWheel | None:
        """Return the entry of a distribution, by normalised name."""
        return next((wheel for wheel in self.wheels if wheel.name == name), None)


@dataclass(frozen=True, kw_only=True)
class LockedCell:
    """A cell with its lock, if it has one."""

    cell: Cell
    lock: Lock | None = None
    unresolved: str | None = None
    """Why there is no lock, as `assay lock` wrote it down."""
