"""The adapters that more than one command hands to flows."""

from __future__ import annotations

from collections.abc import Sequence

from assay.model.matrix import Index

__all__ = ["digest_of_image", "index_versions"]


def index_versions(distribution: str, index: Index) -> Sequence[str]:
    """Return the versions that an index has of a distribution.

    Raises:
        PackageIndexError: the index could not be asked.
    """
    from assay.adapters.simple_index import versions  # noqa: PLC0415 - only nightlies need it

    return versions(distribution, index)


def digest_of_image(reference: str) -> str:
    """Return the digest that a registry gives for a reference.

    Raises:
        RegistryError: the registry could not be asked or does not have it.
    """
    from assay.adapters.registry import resolve_digest  # noqa: PLC0415 - only registry bases need it

    return resolve_digest(reference)
