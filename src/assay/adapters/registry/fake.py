"""A registry in memory, as unkind as docker-registry 2.8 was measured to be.

It has no referrers API, ignores conditions on tags, forgets every tag of a deleted manifest, refuses manifests whose
blobs it lacks, and takes subjects that do not exist. `fail` lets a test break any call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from assay.errors import ManifestMismatch, RegistryContent, RegistryError, TagImmutable
from assay.evidence.oci import Descriptor, Manifest, fallback_tag
from assay.evidence.reference import Repository
from assay.foundation.digest import DIGEST, sha256_of
from assay.ports.registry import Chunks, Traffic

__all__ = ["FakeRegistry"]


@dataclass
class _Contents:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class FakeRegistry:
    """Satisfies `assay.ports.registry.Registry`; one object is all registries there are."""

    def __init__(
        self, *, native_referrers: bool = False, can_delete: bool = True, can_mount: bool = True, immutable: str = ""
    ) -> None:
        self.traffic = Traffic()
        self.native_referrers = native_referrers
        self.can_delete = can_delete
        self.can_mount = can_mount
        self.immutable = immutable
        """A pattern of tags that never move; nothing: all do."""
        self.fail: Callable[[str, str], None] = lambda _method, _what: None
        """Called before every call with its name and what it is about; may raise."""
        self.calls: list[tuple[str, str]] = []
        self._contents: dict[Repository, _Contents] = {}

    def _of(self, repository: Repository) -> _Contents:
        return self._contents.setdefault(repository, _Contents())

    def _enter(self, method: str, what: str) -> None:
        self.traffic.requests += 1
        self.calls.append((method, what))
        self.fail(method, what)

    def resolve(self, repository: Repository, key: str) -> Descriptor | None:
        """See the port."""
        self._enter("resolve", repository.tagged(key))
        found = self._find(repository, key)
        return found.descriptor if found else None

    def _find(self, repository: Repository, key: str) -> Manifest | None:
        contents = self._of(repository)
        return contents.manifests.get(key if DIGEST.fullmatch(key) else contents.tags.get(key, ""))

    def manifest(self, repository: Repository, key: str) -> Manifest | None:
        """See the port."""
        self._enter("manifest", repository.tagged(key))
        found = self._find(repository, key)
        if found is None:
            return None
        self.traffic.received += len(found.raw)
        return Manifest.parse(found.raw, found.media_type, expected=key if DIGEST.fullmatch(key) else None)

    def put_manifest(self, repository: Repository, key: str, manifest: Manifest) -> bool:
        """See the port."""
        self._enter("put_manifest", repository.tagged(key))
        if DIGEST.fullmatch(key) and key != manifest.digest:
            raise ManifestMismatch(f"{repository}: bytes of {manifest.digest} cannot be put as {key}")
        self.traffic.sent += len(manifest.raw)
        contents = self._of(repository)
        missing = [blob.digest for blob in manifest.blobs if blob.digest not in contents.blobs]
        missing += [entry.digest for entry in manifest.manifests if entry.digest not in contents.manifests]
        if missing:
            raise RegistryError(f"{repository}: MANIFEST_BLOB_UNKNOWN {missing[0]}")
        contents.manifests[manifest.digest] = manifest
        if not DIGEST.fullmatch(key):
            if contents.tags.get(key, manifest.digest) != manifest.digest and re.fullmatch(self.immutable, key):
                raise TagImmutable(f"{repository.tagged(key)} is configured as immutable")
            contents.tags[key] = manifest.digest
        return self.native_referrers and manifest.subject is not None

    def delete_manifest(self, repository: Repository, digest: str) -> None:
        """See the port."""
        self._enter("delete_manifest", repository.at(digest))
        if not self.can_delete:
            raise RegistryError(f"{repository}: UNSUPPORTED the operation is unsupported")
        contents = self._of(repository)
        contents.manifests.pop(digest, None)
        contents.tags = {tag: named for tag, named in contents.tags.items() if named != digest}

    def has_blob(self, repository: Repository, digest: str) -> bool:
        """See the port."""
        self._enter("has_blob", repository.at(digest))
        return digest in self._of(repository).blobs

    def blob(self, repository: Repository, blob: Descriptor, *, limit: int) -> bytes | None:
        """See the port."""
        self._enter("blob", repository.at(blob.digest))
        data = self._of(repository).blobs.get(blob.digest)
        if data is None:
            return None
        if max(blob.size, len(data)) > limit:
            raise RegistryContent(f"{repository.at(blob.digest)} has more than the {limit} bytes that are read")
        self.traffic.received += len(data)
        if sha256_of(data) != blob.digest:
            raise ManifestMismatch(f"{repository}: the registry sent bytes of {sha256_of(data)} for {blob.digest}")
        return data

    def put_blob(self, repository: Repository, data: bytes) -> str:
        """See the port."""
        digest = sha256_of(data)
        self._enter("put_blob", repository.at(digest))
        if digest not in self._of(repository).blobs:
            self.traffic.sent += len(data)
            self._of(repository).blobs[digest] = data
        return digest

    def upload(self, repository: Repository, blob: Descriptor, chunks: Chunks) -> None:
        """See the port."""
        if self.has_blob(repository, blob.digest):
            return
        data = b"".join(chunks())
        if sha256_of(data) != blob.digest or len(data) != blob.size:
            raise ManifestMismatch(f"{blob.digest}: what was read to be uploaded has other bytes")
        self.put_blob(repository, data)

    def mount(self, repository: Repository, digest: str, source: Repository) -> bool:
        """See the port."""
        self._enter("mount", repository.at(digest))
        if source.host != repository.host or not self.can_mount:
            return False
        data = self._of(source).blobs.get(digest)
        if data is None:
            return digest in self._of(repository).blobs
        self._of(repository).blobs[digest] = data
        return True

    def tags(self, repository: Repository) -> list[str]:
        """See the port."""
        self._enter("tags", str(repository))
        return sorted(self._of(repository).tags)

    def repositories(self, host: str) -> list[Repository]:
        """See the port."""
        self._enter("repositories", host)
        return sorted(one for one, held in self._contents.items() if one.host == host and held.manifests)

    def referrers(self, repository: Repository, digest: str) -> tuple[list[Descriptor], bool]:
        """See the port."""
        self._enter("referrers", repository.at(digest))
        if self.native_referrers:
            manifests = self._of(repository).manifests.values()
            return [one.referrer for one in manifests if one.subject and one.subject.digest == digest], True
        index = self._find(repository, fallback_tag(digest))
        return (list(index.manifests) if index else []), False

    def tamper(self, repository: Repository, digest: str, data: bytes) -> None:
        """Swap the bytes of a blob, as someone with access to the registry's disk can."""
        self._of(repository).blobs[digest] = data
