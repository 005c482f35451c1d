"""The image for one platform of what a reference names: an index has one for each, a manifest is for one alone."""

from __future__ import annotations

from assay.errors import RegistryError, UsageError
from assay.evidence.oci import MAX_BYTES, Descriptor, platform_of_config
from assay.evidence.reference import Reference
from assay.foundation.platforms import Platform
from assay.ports.engine import ImageInfo
from assay.ports.registry import Registry

__all__ = ["for_platform", "platform_of"]


def platform_of(reference: str, info: ImageInfo) -> Platform:
    """Return the platform of an image.

    Raises:
        UsageError: assay does not know it.
    """
    if (found := Platform.known(info.architecture)) is not None:
        return found
    raise UsageError(f"{reference} is an image for {info.architecture}; assay audits those for {' or '.join(Platform)}")


def for_platform(registry: Registry, reference: Reference, platform: Platform) -> Descriptor:
    """Return the manifest for a platform among what a reference names.

    Raises:
        RegistryError: nothing is there, or nothing for this platform; the hint names the platforms that are.
    """
    found = registry.manifest(reference.repository, reference.key)
    if found is None:
        raise RegistryError(f"there is no {reference}", hint="check the name, and that you may read the repository")
    if found.manifests:
        mine = next((entry for entry in found.manifests if entry.platform == platform), None)
        if mine is not None:
            return mine
        # Attestations of builders stand there as `unknown/unknown`.
        there = sorted({entry.platform for entry in found.manifests if entry.platform} - {"unknown/unknown"})
        raise RegistryError(
            f"{reference} has no image for {platform}",
            hint=f"it has {', '.join(there)}" if there else "its index names no platforms",
        )
    own = _of_config(registry, reference, found.config)
    if own is not None and own != platform:
        raise RegistryError(f"{reference} is an image for {own}, not for {platform}", hint=f"name one for {platform}")
    return found.descriptor


def _of_config(registry: Registry, reference: Reference, config: Descriptor | None) -> str | None:
    """Return the platform that an image's configuration names; None if it cannot be told."""
    data = registry.blob(reference.repository, config, limit=MAX_BYTES) if config is not None else None
    return None if data is None else platform_of_config(data)
