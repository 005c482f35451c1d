"""Of an index the manifest for a platform is taken; an image of another platform is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from assay.adapters.registry.fake import FakeRegistry
from assay.errors import RegistryError
from assay.evidence.oci import CONFIG, INDEX, MANIFEST, Descriptor, Manifest
from assay.evidence.reference import Reference, Repository
from assay.foundation.platforms import Platform
from assay.pipeline.image_platforms import for_platform

WHERE = Repository.parse("localhost:5000/a/b")


def _image(registry: FakeRegistry, architecture: str) -> Manifest:
    config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
    digest = registry.put_blob(WHERE, config)
    described = Descriptor(media_type=CONFIG, digest=digest, size=len(config))
    text = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": described.to_json(), "layers": []})
    made = Manifest.parse(text.encode())
    registry.put_manifest(WHERE, made.digest, made)
    return made


def _index(registry: FakeRegistry, *architectures: str, tag: str = "1") -> dict[str, str]:
    made = {name: _image(registry, name) for name in architectures}
    entries = [replace(one.descriptor, platform=f"linux/{name}").to_json() for name, one in made.items()]
    first = next(iter(made.values())).descriptor
    attestation = replace(first, platform="unknown/unknown").to_json()
    text = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, attestation]})
    registry.put_manifest(WHERE, tag, Manifest.parse(text.encode()))
    return {name: one.digest for name, one in made.items()}


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


def _ask(registry: FakeRegistry, platform: Platform) -> str:
    return for_platform(registry, Reference.parse("localhost:5000/a/b:1"), platform).digest


def test_an_index_gives_the_manifest_of_the_platform(registry: FakeRegistry) -> None:
    digests = _index(registry, "amd64", "arm64")

    assert {name: _ask(registry, Platform.of(name)) for name in ("amd64", "arm64")} == digests


def test_an_index_without_the_platform_names_those_it_has(registry: FakeRegistry) -> None:
    _index(registry, "amd64", "s390x")

    with pytest.raises(RegistryError, match="b:1 has no image for linux/arm64") as refused:
        _ask(registry, Platform.ARM64)

    assert "it has linux/amd64, linux/s390x" == refused.value.hint


def test_an_image_of_another_platform_is_refused(registry: FakeRegistry) -> None:
    made = _image(registry, "amd64")
    registry.put_manifest(WHERE, "1", made)

    assert made.digest == _ask(registry, Platform.AMD64)
    with pytest.raises(RegistryError, match="b:1 is an image for linux/amd64, not for linux/arm64"):
        _ask(registry, Platform.ARM64)
