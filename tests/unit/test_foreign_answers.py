"""Answers of model servers and configurations of images that nest deeply or hold no JSON are refused by name."""

from __future__ import annotations

import json

import pytest

from assay.errors import RegistryContent
from assay.evidence.oci import CONFIG, MANIFEST, Descriptor, Manifest
from assay.foundation.digest import sha256_of
from assay.pipeline.api_answers import Wrong, document_of, parsed
from assay.pipeline.assembly.destinations import image_info
from assay.ports.api import Reply

BAD = (b"[" * 200_000, b'{"a":' * 100_000, b'{"a": "\\ud800"}', b"9" * 5000, b"\xff{", b"")


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:8]))
def test_an_answer_of_a_model_server_that_cannot_be_read_is_wrong(body: bytes) -> None:
    with pytest.raises(Wrong, match="is not JSON"):
        document_of(Reply(status=200, body=body))
    with pytest.raises(Wrong, match="is not JSON"):
        parsed(body.decode(errors="replace"))


@pytest.mark.parametrize("config", BAD, ids=lambda config: repr(config[:8]))
def test_a_configuration_of_an_image_that_cannot_be_read_is_refused(config: bytes) -> None:
    described = Descriptor(media_type=CONFIG, digest=sha256_of(config), size=len(config))
    said = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described.to_json(), "layers": []}
    manifest = Manifest.parse(json.dumps(said).encode(), MANIFEST)

    with pytest.raises(RegistryContent):
        image_info(manifest, config, "registry.example/team/demo:x")
