"""One suite for the registry in memory and for a real one."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_tools import put_image, real_registry

from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry
from assay.adapters.registry.fake import FakeRegistry
from assay.adapters.registry.http import Transport
from assay.errors import ManifestMismatch, RegistryError
from assay.evidence.oci import EMPTY_BYTES, MANIFEST, Descriptor, Manifest, artifact, fallback_tag, index_of
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of
from assay.ports.registry import Registry


@pytest.fixture(scope="module")
def real_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.registry)])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "fake":
        return FakeRegistry()
    return HttpRegistry(Transport(credentials=Anonymous()), chunk=1 << 16)


@pytest.fixture
def repository(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> Repository:
    host = request.getfixturevalue("real_host") if isinstance(registry, HttpRegistry) else "registry.test"
    return Repository(host=host, path=f"t{abs(hash(str(tmp_path)))}/release")


@pytest.fixture
def staging(repository: Repository) -> Repository:
    return Repository(host=repository.host, path=repository.path.replace("release", "staging"))


def test_missing_object_is_an_answer(registry: Registry, repository: Repository) -> None:
    digest = sha256_of(b"nothing")

    assert registry.resolve(repository, "tag") is None
    assert registry.manifest(repository, digest) is None
    assert not registry.has_blob(repository, digest)
    assert registry.tags(repository) == []
    assert registry.referrers(repository, digest) == ([], False)
    assert registry.blob(repository, Descriptor(media_type="x", digest=digest, size=7), limit=10) is None


def test_manifests_keep_their_bytes(registry: Registry, repository: Repository) -> None:
    manifest = put_image(registry, repository, "one")
    found = registry.manifest(repository, "one")

    assert found is not None
    assert manifest.raw == found.raw
    assert manifest.descriptor == registry.resolve(repository, "one")
    assert registry.tags(repository) == ["one"]
    assert manifest == registry.manifest(repository, manifest.digest)


def test_a_manifest_can_be_there_without_a_tag(registry: Registry, repository: Repository) -> None:
    manifest = put_image(registry, repository, None)

    assert manifest.descriptor == registry.resolve(repository, manifest.digest)
    assert registry.tags(repository) == []


def test_tags_move_without_a_condition(registry: Registry, repository: Repository) -> None:
    first = put_image(registry, repository, "moving", content=b"1")
    second = put_image(registry, repository, "moving", content=b"2")
    found = registry.resolve(repository, "moving")

    assert found is not None
    assert second.digest == found.digest
    assert registry.manifest(repository, first.digest) is not None


def test_a_manifest_under_a_foreign_digest_is_refused(registry: Registry, repository: Repository) -> None:
    manifest = put_image(registry, repository, "one")

    with pytest.raises(ManifestMismatch):
        registry.put_manifest(repository, sha256_of(b"other"), manifest)


def test_a_manifest_without_its_blobs_is_refused(registry: Registry, repository: Repository) -> None:
    layer = Descriptor(media_type="x/y", digest=sha256_of(b"absent"), size=6)
    subject = Descriptor(media_type=MANIFEST, digest=sha256_of(b"s"), size=1)
    manifest = artifact(artifact_type="x/y", layer=layer, subject=subject, annotations={})

    with pytest.raises(RegistryError):
        registry.put_manifest(repository, manifest.digest, manifest)


def test_a_registry_names_its_repositories(registry: Registry, repository: Repository, staging: Repository) -> None:
    put_image(registry, staging, "candidate")
    put_image(registry, repository, "one")
    found = registry.repositories(repository.host)

    assert {repository, staging} <= set(found)
    assert found == sorted(found)


def test_promotion_mounts_and_moves_no_layer(registry: Registry, repository: Repository, staging: Repository) -> None:
    manifest = put_image(registry, staging, "candidate", content=os.urandom(200_000))
    before = registry.traffic.total
    mounted = [registry.mount(repository, blob.digest, staging) for blob in manifest.blobs]
    registry.put_manifest(repository, manifest.digest, manifest)
    moved = registry.traffic.total - before

    assert all(mounted)
    assert manifest == registry.manifest(repository, manifest.digest)
    assert moved < 3000


def test_mounting_a_missing_blob_returns_false(registry: Registry, repository: Repository, staging: Repository) -> None:
    assert not registry.mount(repository, sha256_of(os.urandom(9)), staging)


def test_deleting_takes_every_tag_along(registry: Registry, repository: Repository) -> None:
    manifest = put_image(registry, repository, "a")
    registry.put_manifest(repository, "b", manifest)
    registry.delete_manifest(repository, manifest.digest)

    assert registry.resolve(repository, "a") is None
    assert registry.tags(repository) == []


def test_large_uploads_go_in_pieces(registry: Registry, repository: Repository) -> None:
    data = os.urandom(300_000)
    blob = Descriptor(media_type="x/y", digest=sha256_of(data), size=len(data))
    registry.upload(repository, blob, lambda: (data[start : start + 1000] for start in range(0, len(data), 1000)))
    before = registry.traffic.sent
    registry.upload(repository, blob, lambda: (data,))

    assert data == registry.blob(repository, blob, limit=1 << 20)
    assert registry.traffic.sent == before


def test_an_upload_of_other_bytes_is_refused(registry: Registry, repository: Repository) -> None:
    blob = Descriptor(media_type="x/y", digest=sha256_of(b"said"), size=4)

    with pytest.raises(ManifestMismatch):
        registry.upload(repository, blob, lambda: (b"sent",))
    assert not registry.has_blob(repository, blob.digest)


def test_empty_blobs_are_blobs(registry: Registry, repository: Repository) -> None:
    digest = registry.put_blob(repository, b"")

    assert registry.has_blob(repository, digest)


def test_blobs_are_bounded(registry: Registry, repository: Repository) -> None:
    data = gzip.compress(b"x" * 1000)
    registry.put_blob(repository, data)

    with pytest.raises(RegistryError):
        registry.blob(repository, Descriptor(media_type="x", digest=sha256_of(data), size=1), limit=10)


def test_artifacts_and_the_fallback_index(registry: Registry, repository: Repository) -> None:
    image = put_image(registry, repository, "one")
    registry.put_blob(repository, EMPTY_BYTES)
    registry.put_blob(repository, b"statement")
    layer = Descriptor(media_type="text/plain", digest=sha256_of(b"statement"), size=9)
    evidence = artifact(artifact_type="text/x", layer=layer, subject=image.descriptor, annotations={"k": "v"})
    native = registry.put_manifest(repository, evidence.digest, evidence)
    registry.put_manifest(repository, fallback_tag(image.digest), index_of([evidence.referrer]))
    found, by_api = registry.referrers(repository, image.digest)

    assert not native
    assert not by_api
    assert [evidence.referrer] == found
    assert (found[0].artifact_type, found[0].annotations) == ("text/x", {"k": "v"})


def test_a_document_with_two_types_is_not_believed() -> None:
    raw = index_of([]).raw

    with pytest.raises(RegistryError, match="was sent as"):
        Manifest.parse(raw, MANIFEST)
