"""The adapters that more than one command hands to flows."""

from __future__ import annotations

from collections.abc import Sequence

from assay.adapters.host import settings as site
from assay.evidence.reference import Reference
from assay.matrix.model import Index

__all__ = ["digest_of_image", "index_versions"]


def index_versions(distribution: str, index: Index) -> Sequence[str]:
    """Return the versions that an index has of a distribution.

    Raises:
        PackageIndexError: the index could not be asked.
    """
    from assay.adapters.index.simple import versions  # noqa: PLC0415 - only nightlies need it

    return versions(distribution, index)


def digest_of_image(reference: str, *, patient: bool = True) -> str:
    """Return the digest that a registry, or the site's mirror of it, gives for a reference.

    Args:
        reference: an image.
        patient: ask again, for half a minute, a registry that does not answer.

    Raises:
        RegistryError: the registry could not be asked or does not have it.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.registry.client import resolve_digest  # noqa: PLC0415 - only registry bases need it

    return resolve_digest(str(Reference.parse(reference).mirrored(site.mirrors())), patient=patient)
