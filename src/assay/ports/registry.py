"""An OCI registry: manifests as exact bytes, blobs, tags, referrers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from assay.evidence.oci import Descriptor, Manifest
from assay.evidence.reference import Repository

__all__ = ["Chunks", "Registry", "Traffic"]

Chunks = Callable[[], Iterable[bytes]]
"""Return the bytes of a blob from its start; called again if an upload restarts."""


@dataclass(kw_only=True)
class Traffic:
    """Bytes of HTTP bodies that went over the wire."""

    sent: int = 0
    received: int = 0
    requests: int = 0

    @property
    def total(self) -> int:
        """Both ways."""
        return self.sent + self.received


class Registry(Protocol):
    """What assay needs of registries; one object speaks to all of them, the repository names the host.

    All methods raise `RegistryError` when the registry refuses, fails or answers nonsense, and `ManifestMismatch`
    when bytes and digest do not belong together. What is not there is None, False or empty where that is an answer.
    """

    @property
    def traffic(self) -> Traffic:
        """What went over the wire so far."""

    def resolve(self, repository: Repository, key: str) -> Descriptor | None:
        """Return what a tag or digest names now, or None."""

    def manifest(self, repository: Repository, key: str) -> Manifest | None:
        """Return a manifest by tag or digest, checked against the digest; None if it is missing."""

    def put_manifest(self, repository: Repository, key: str, manifest: Manifest) -> bool:
        """Put exact bytes under a tag or their digest; True if the registry keeps the list of referrers itself."""

    def delete_manifest(self, repository: Repository, digest: str) -> None:
        """Delete a manifest, and with it every tag that names it."""

    def has_blob(self, repository: Repository, digest: str) -> bool:
        """Whether the repository has a blob."""

    def blob(self, repository: Repository, blob: Descriptor, *, limit: int) -> bytes | None:
        """Return a blob, its bytes checked, or None if it is not there; `limit` bounds its size in bytes."""

    def put_blob(self, repository: Repository, data: bytes) -> str:
        """Put a blob and return its digest; nothing large is sent that is there already."""

    def upload(self, repository: Repository, blob: Descriptor, chunks: Chunks) -> None:
        """Put a large blob piece by piece; nothing is sent that is there already."""

    def mount(self, repository: Repository, digest: str, source: Repository) -> bool:
        """Make a blob of another repository of the same registry known in this one; False if it would not."""

    def tags(self, repository: Repository) -> list[str]:
        """Return all tags, sorted; empty if there is no such repository."""

    def repositories(self, host: str) -> list[Repository]:
        """Return all repositories that a registry names, sorted; many name none to anyone, which is an error here."""

    def referrers(self, repository: Repository, digest: str) -> tuple[list[Descriptor], bool]:
        """Return what refers to a digest, and whether the registry itself keeps that list.

        Without the API, it is the index under the fallback tag (distribution-spec, "Unavailable Referrers API").
        """
