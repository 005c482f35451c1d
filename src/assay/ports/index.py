"""The package index: which files a project has, and where they are."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

from assay.foundation.strict import Value

__all__ = ["IndexFile", "PackageIndex", "origin_of"]


def origin_of(address: str) -> str:
    """Return an address without what is secret or changes in it: no user, no query, no fragment."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"


class IndexFile(Value):
    """One file of a project on an index."""

    project: str
    """Normalised distribution name."""
    filename: str
    url: str
    """`https:`, `http:` or `file:`."""
    sha256: str | None = None
    size: int | None = None
    requires_python: str | None = None
    yanked: bool = False
    metadata: bool = False
    """Whether METADATA lies beside the file as `<url>.metadata` (PEP 658)."""
    uploaded: str | None = None
    """The day of the upload, `2026-11-20`, where the index says it (PEP 700)."""
    announced_by: str | None = None
    """Address of the index whose list has the file and its sha256; None for a file that was named by its address."""

    @property
    def origin(self) -> str:
        """Who vouches for the sha256 until the bytes were read."""
        return origin_of(self.announced_by or self.url)


class PackageIndex(Protocol):
    """Where wheels come from."""

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        """Return the files of a project, in the index's order; an empty tuple if the index lacks it.

        `index` is the name of an index in matrix.yaml.

        Raises:
            PackageIndexError: the index does not answer or answers nonsense.
        """
        ...

    def origins(self, index: str | None = None) -> frozenset[str]:
        """Return the origins that files of an index can have; without a name, those of all indexes that are asked."""
        ...
