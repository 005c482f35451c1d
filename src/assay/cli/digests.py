"""Digests of images in registries, through the mirrors that the host settings name."""

from __future__ import annotations

from assay.adapters.host import settings
from assay.evidence.reference import Reference
from assay.foundation.platforms import Platform

__all__ = ["digest_for_platform", "digest_of_image"]


def digest_of_image(reference: str, *, patient: bool = True) -> str:
    """Return the digest that a registry, or a mirror that the host settings name, gives for a reference.

    Args:
        reference: an image.
        patient: ask again, for half a minute, a registry that does not answer.

    Raises:
        RegistryError: the registry could not be asked or does not have it.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.registry.client import resolve_digest

    return resolve_digest(str(Reference.parse(reference).mirrored(settings.mirrors())), patient=patient)


def digest_for_platform(reference: str, platform: Platform) -> str:
    """Return the digest of a reference's image for a platform.

    Raises:
        RegistryError: the registry could not be asked, or does not have it for this platform.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.registry.client import connect
    from assay.pipeline.image_platforms import for_platform

    return for_platform(connect(), Reference.parse(reference).mirrored(settings.mirrors()), platform).digest
