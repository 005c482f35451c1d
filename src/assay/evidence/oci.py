"""OCI manifests, indexes and descriptors as exact bytes with a checked reading beside them.

A manifest is never serialised again: the same manifest after a JSON round trip has another digest (measured).
Sources: image-spec v1.1 (manifest.md, image-index.md), distribution-spec v1.1 (spec.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from assay.errors import ManifestMismatch, RegistryContent
from assay.foundation.digest import DIGEST, sha256_of
from assay.foundation.foreign import ForeignError, read_json

__all__ = [
    "ACCEPT",
    "CONFIG",
    "EMPTY",
    "EMPTY_BYTES",
    "INDEX",
    "INDEXES",
    "MANIFEST",
    "Descriptor",
    "Manifest",
    "artifact",
    "bundle",
    "fallback_tag",
    "index_of",
    "platform_of_config",
]

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES: Final = (INDEX, DOCKER_LIST)
"""Types of what names an image for each of several platforms."""
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
# All four, always: without them a registry may answer with schema1 and another digest (measured).
ACCEPT: Final = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST)
MAX_BYTES: Final = 4 << 20
"""Manifests larger than this need not be kept by a registry (distribution-spec, "Pushing Manifests")."""
MAX_ITEMS: Final = 200_000


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Names content by type, digest and size."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None
    """`linux/arm64`, in the entries of an index; None where it is not said."""

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor in the form of a manifest."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.platform:
            system, _, architecture = self.platform.partition("/")
            found["platform"] = {"architecture": architecture, "os": system}
        return found


EMPTY_BYTES: Final = b"{}"
EMPTY: Final = Descriptor(media_type=EMPTY_TYPE, digest=sha256_of(EMPTY_BYTES), size=len(EMPTY_BYTES))


def _descriptor(value: Any) -> Descriptor:
    if not isinstance(value, dict):
        raise RegistryContent("a descriptor is not an object")
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise RegistryContent(f"a descriptor has no sha256 digest: {str(digest)[:80]!r}")
    if (
        not isinstance(size, int)
        or isinstance(size, bool)
        or not 0 <= size < 1 << 63
        or not isinstance(media_type, str)
    ):
        raise RegistryContent(f"the descriptor of {digest} lacks size or mediaType")
    artifact_type = value.get("artifactType")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
        annotations=_annotations(value),
        platform=_platform(value.get("platform")),
    )


def platform_of_config(data: bytes) -> str | None:
    """Return the platform that an image's configuration names, `linux/arm64`; None if it names none."""
    try:
        return _platform(read_json(data, limit=MAX_BYTES))
    except ForeignError:
        return None


def _platform(value: Any) -> str | None:
    """Return `linux/arm64`; what tells variants of one architecture apart is left out."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("os", "architecture")):
        return None
    return f"{value['os']}/{value['architecture']}"[:80]


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    found = value.get("annotations") or {}
    return {str(key): str(text) for key, text in found.items()} if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The exact bytes of a manifest or index, and what they say."""

    raw: bytes
    media_type: str
    digest: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    """The entries of an index."""
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, expected: str | None = None) -> Manifest:
        """Read a manifest and check its bytes.

        Raises:
            ManifestMismatch: the bytes do not hash to `expected`.
            RegistryContent: the bytes are not a manifest of the four known types.
        """
        digest = sha256_of(raw)
        if expected is not None and digest != expected:
            raise ManifestMismatch(f"the registry sent bytes of {digest} for {expected}")
        try:
            value = read_json(raw, limit=MAX_BYTES, items=MAX_ITEMS)
        except ForeignError as error:
            raise RegistryContent(f"the manifest {digest} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise RegistryContent(f"the manifest {digest} is not a JSON object")
        own = value.get("mediaType")
        kind = own if isinstance(own, str) else media_type.partition(";")[0].strip()
        if kind not in ACCEPT:
            raise RegistryContent(f"the manifest {digest} has the type {kind or 'nothing'!r}, which assay cannot read")
        if own is not None and media_type and media_type.partition(";")[0].strip() not in ("", own):
            # The two readings of one document are an old attack (CVE-2021-41190); neither is believed.
            raise RegistryContent(f"the manifest {digest} says {own} but was sent as {media_type}")
        is_index = kind in INDEXES
        artifact_type = value.get("artifactType")
        return cls(
            raw=raw,
            media_type=kind,
            digest=digest,
            config=None if is_index else _descriptor(value.get("config")),
            layers=() if is_index else tuple(_descriptor(layer) for layer in _list(value, "layers")),
            manifests=tuple(_descriptor(entry) for entry in _list(value, "manifests")) if is_index else (),
            subject=_descriptor(value["subject"]) if isinstance(value.get("subject"), dict) else None,
            artifact_type=artifact_type if isinstance(artifact_type, str) else None,
            annotations=_annotations(value),
        )

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that names this manifest as a subject or in a list of blobs."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.raw))

    @property
    def referrer(self) -> Descriptor:
        """The descriptor in a list of referrers.

        It must repeat artifactType (or the config's type) and all annotations (spec.md, "Listing Referrers").
        """
        return Descriptor(
            media_type=self.media_type,
            digest=self.digest,
            size=len(self.raw),
            artifact_type=self.artifact_type or (self.config.media_type if self.config else None),
            annotations=self.annotations,
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each digest once, in order."""
        found = (self.config, *self.layers) if self.config else self.layers
        return tuple({blob.digest: blob for blob in found}.values())

    @property
    def image_bytes(self) -> int:
        """Compressed bytes of all layers."""
        return sum(layer.size for layer in self.layers)


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key, [])
    if not isinstance(found, list):
        raise RegistryContent(f"{key} of a manifest is not a list")
    return found


def _made(media_type: str, **parts: Any) -> Manifest:
    value = {"schemaVersion": 2, "mediaType": media_type, **parts}
    return Manifest.parse(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), media_type)


def artifact(*, artifact_type: str, layer: Descriptor, subject: Descriptor, annotations: Mapping[str, str]) -> Manifest:
    """Return a one-layer artifact manifest that refers to a subject (image-spec, "Guidelines for Artifact Usage")."""
    return _made(
        MANIFEST,
        artifactType=artifact_type,
        config=EMPTY.to_json(),
        layers=[layer.to_json()],
        subject={"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
        annotations=dict(sorted(annotations.items())),
    )


def bundle(*, artifact_type: str, layers: Iterable[Descriptor]) -> Manifest:
    """Return a manifest of an artifact without a subject, with a layer for each part."""
    listed = [layer.to_json() for layer in layers]
    return _made(MANIFEST, artifactType=artifact_type, config=EMPTY.to_json(), layers=listed)


def index_of(entries: Iterable[Descriptor]) -> Manifest:
    """Return an index with these entries, each digest once, in the order of their digests.

    The order makes two writers who know the same entries write the same bytes.
    """
    unique = {entry.digest: entry for entry in entries}
    return _made(INDEX, manifests=[unique[digest].to_json() for digest in sorted(unique)])


def fallback_tag(digest: str) -> str:
    """Return the tag that holds the referrers of a digest where the registry has no API for them."""
    return digest.replace(":", "-")
