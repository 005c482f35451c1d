"""The package index: which files a project has, and where they are."""

from __future__ import annotations

from typing import Protocol

from assay.model.base import Value

__all__ = ["IndexFile", "PackageIndex"]


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


class PackageIndex(Protocol):
    """Where wheels come from."""

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        """Return the files of a project, in the index's order; an empty tuple if the index does not know it.

        `index` is the name of an index in matrix.yaml.

        Raises:
            PackageIndexError: the index does not answer or answers nonsense.
        """
        ...
