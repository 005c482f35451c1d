"""An image as a manifest, a configuration and layers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assay.errors import UsageError
from assay.evidence.oci import CONFIG, MANIFEST, Descriptor, Manifest
from assay.foundation.digest import sha256_of
from assay.matrix.image_steps import ImageSteps
from assay.ports.layers import AssemblyBase, StoredLayer

__all__ = ["MOST_LAYERS", "Assembled", "Layer", "image_of"]

MOST_LAYERS: Final = 120
"""Layers of an image: overlayfs mounts 127."""
INHERITED: Final = (
    "Cmd", "Entrypoint", "ExposedPorts", "Healthcheck", "Shell", "StopSignal", "User", "Volumes", "WorkingDir",
)  # fmt: skip
"""Settings of a base that its images have unless they say otherwise."""
_CREATED: Final = "1980-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of an image, and the instruction that made it."""

    stored: StoredLayer
    created_by: str
    new: bool
    """It was made by this call, not found."""


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """An image as bytes and digests; its layers are in the store."""

    manifest: Manifest
    config: bytes
    layers: tuple[Layer, ...]


def image_of(steps: ImageSteps, base: AssemblyBase, layers: Sequence[Layer], labels: Mapping[str, str]) -> Assembled:
    """Return the image of some layers.

    Args:
        steps: of its Dockerfile, which configure it.
        base: gives the settings that the Dockerfile does not.
        layers: lowest first, with those of the base.
        labels: laid over those of the Dockerfile.

    Raises:
        UsageError: it has more layers than engines mount.
    """
    if len(layers) > MOST_LAYERS:
        raise UsageError(
            f"the image would have {len(layers)} layers, but engines mount at most {MOST_LAYERS}",
            hint="raise --largest-layer, or reduce the number of large wheels in the lock",
        )
    below = base.config.get("config") or {}
    env = dict(pair.partition("=")[::2] for pair in below.get("Env") or ())
    env |= steps.final.environment
    config: dict[str, Any] = {
        **{key: below[key] for key in INHERITED if below.get(key)},
        **steps.final.config,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": dict(sorted({**(below.get("Labels") or {}), **steps.final.config["Labels"], **labels}.items())),
    }
    if "Entrypoint" in steps.final.config and "Cmd" not in steps.final.config:
        # As in a build: an entry point of an image's own takes the base's command away.
        config.pop("Cmd", None)
    document = {
        "architecture": base.config.get("architecture", "amd64"),
        "os": "linux",
        "created": _CREATED,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.stored.layer.diff_id for layer in layers]},
        "history": [{"created": _CREATED, "created_by": layer.created_by} for layer in layers],
    }
    raw = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Descriptor(media_type=CONFIG, digest=sha256_of(raw), size=len(raw)).to_json(),
        "layers": [
            Descriptor(
                media_type=layer.stored.media_type, digest=layer.stored.layer.digest, size=layer.stored.layer.size
            ).to_json()
            for layer in layers
        ],
    }
    bytes_ = json.dumps(manifest, separators=(",", ":")).encode()
    return Assembled(manifest=Manifest.parse(bytes_, MANIFEST), config=raw, layers=tuple(layers))
