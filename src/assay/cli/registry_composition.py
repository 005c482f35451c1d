"""The composition root of registries: the client, and digests through the mirrors that the host settings name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.foundation.platforms import Platform
    from assay.ports.registry import Registry

__all__ = ["digest_for_platform", "digest_of_image", "reading_client", "registry_client"]


def registry_client(insecure: Sequence[str] = (), *, seconds: float | None = None) -> Registry:
    """Return what speaks to registries, with the credentials that `docker login` keeps.

    Args:
        insecure: registries that may be spoken to without TLS.
        seconds: how long it may be busy in all; None: as long as pushing images may take.
    """
    from assay.adapters.registry.client import connect

    return connect(insecure=insecure) if seconds is None else connect(insecure=insecure, seconds=seconds)


def reading_client(insecure: Sequence[str], config: Path) -> Registry:
    """Return what speaks to registries with the credentials of a Docker configuration.

    Args:
        insecure: registries that may be spoken to without TLS.
        config: the configuration, a file or its folder.
    """
    from assay.adapters.registry.auth import DockerConfig
    from assay.adapters.registry.client import connect

    return connect(insecure=insecure, credentials=DockerConfig(config))


def digest_of_image(reference: str, *, patient: bool = True) -> str:
    """Return the digest that a registry, or a mirror that the host settings name, gives for a reference.

    Args:
        reference: an image.
        patient: ask again, for half a minute, a registry that does not answer.

    Raises:
        RegistryError: the registry could not be asked or does not have it.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.host import settings
    from assay.adapters.registry.client import resolve_digest
    from assay.evidence.reference import Reference

    return resolve_digest(str(Reference.parse(reference).mirrored(settings.mirrors())), patient=patient)


def digest_for_platform(reference: str, platform: Platform) -> str:
    """Return the digest of a reference's image for a platform.

    Raises:
        RegistryError: the registry could not be asked, or does not have it for this platform.
        UsageError: the setting for registry mirrors is malformed.
    """
    from assay.adapters.host import settings
    from assay.adapters.registry.client import connect
    from assay.evidence.reference import Reference
    from assay.pipeline.image_platforms import for_platform

    return for_platform(connect(), Reference.parse(reference).mirrored(settings.mirrors()), platform).digest
