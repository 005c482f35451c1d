"""A lock: the exact wheels of a cell. The file `lock.txt` is what pip and uv install with `--require-hashes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from assay.model.base import Value
from assay.model.text import ImageName, VersionText

__all__ = ["Lock", "LockedWheel", "Sha256"]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class LockedWheel(Value):
    """One file of the lock, by content."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$")]
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


class Lock(Value):
    """Everything that decides what is installed in a cell."""

    schema_version: int = 1
    cell: str
    python: str
    """`3.11`."""
    platform: str
    """What the resolver was told, `x86_64-manylinux_2_36`."""
    requirements: tuple[str, ...]
    """What was asked for; a lock is stale when the recipe asks for something else."""
    base: str
    """Name of the base in matrix.yaml."""
    base_digest: str | None = None
    """Digest of a base image from a registry; a bootstrapped base is known by its recipe."""
    as_of: str | None = None
    """Only files uploaded before this date were considered (ISO date)."""
    nightlies: dict[str, str] = {}
    """Distribution -> build date (`20261118`) of what was resolved from a nightly index."""
    wheels: tuple[LockedWheel, ...]

    def wheel(self, name: str) -> LockedWheel | None:
        """Return the entry of a distribution, by normalised name."""
        return next((wheel for wheel in self.wheels if wheel.name == name), None)
