"""Manifests are exact bytes; whatever a registry sends, only our own errors come out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ManifestMismatch, RegistryError
from assay.evidence.oci import (
    DOCKER_MANIFEST,
    EMPTY,
    INDEX,
    MANIFEST,
    Descriptor,
    Manifest,
    artifact,
    fallback_tag,
    index_of,
)
from assay.foundation.digest import sha256_of

LAYER = Descriptor(media_type="a/b", digest=sha256_of(b"x"), size=1)
KEYS = ["mediaType", "config", "layers", "manifests", "subject", "digest", "size", "annotations", "artifactType"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([MANIFEST, INDEX, LAYER.digest]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


def test_the_bytes_decide() -> None:
    raw = index_of([LAYER]).raw

    assert Manifest.parse(raw, INDEX, expected=sha256_of(raw)).raw == raw
    with pytest.raises(ManifestMismatch):
        Manifest.parse(raw + b" ", INDEX, expected=sha256_of(raw))


def test_equal_entries_give_equal_bytes_in_any_order() -> None:
    other = Descriptor(media_type="a/b", digest=sha256_of(b"y"), size=1)

    assert index_of([LAYER, other]).raw == index_of([other, LAYER, other]).raw


def test_a_referrer_repeats_type_and_annotations() -> None:
    made = artifact(artifact_type="t/x", layer=LAYER, subject=LAYER, annotations={"b": "2", "a": "1"})

    assert (made.referrer.artifact_type, made.referrer.annotations) == ("t/x", {"a": "1", "b": "2"})
    assert made.blobs == (EMPTY, LAYER)
    assert made.subject == LAYER


def test_without_an_artifact_type_the_configs_counts() -> None:
    value = {"mediaType": DOCKER_MANIFEST, "config": LAYER.to_json(), "layers": [LAYER.to_json(), LAYER.to_json()]}
    found = Manifest.parse(json.dumps(value).encode(), DOCKER_MANIFEST)

    assert found.referrer.artifact_type == "a/b"
    assert found.blobs == (LAYER,)
    assert found.image_bytes == 2


@pytest.mark.parametrize("kind", ["", "application/vnd.docker.distribution.manifest.v1+prettyjws", "text/html"])
def test_other_types_are_reported(kind: str) -> None:
    with pytest.raises(RegistryError, match="cannot read"):
        Manifest.parse(b"{}", kind)


@given(
    st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from([MANIFEST, INDEX, ""])
)
def test_nothing_else_is_raised(raw: bytes, kind: str) -> None:
    try:
        found = Manifest.parse(raw, kind)
    except RegistryError:
        return

    assert found.raw == raw
    assert found.digest == sha256_of(raw)


def test_the_fallback_tag_is_a_tag() -> None:
    assert fallback_tag("sha256:" + "a" * 64) == "sha256-" + "a" * 64
