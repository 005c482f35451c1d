"""What publishing writes, byte for byte: digests of all artefacts of fixed publications, kept from version 0.1."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from publish_tools import NOW, audit, both, candidate, gear, policy, probe, publish
from registry_tools import put_image

from assay.adapters.registry.fake import FakeRegistry
from assay.evidence.record import AnyRecord
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import make_bundle, open_bundle
from assay.foundation.digest import sha256_of
from assay.pipeline.revoke import revoke

HOST = "registry.test"
STAGING = Repository(host=HOST, path="team/staging/demo")
RELEASE = Repository(host=HOST, path="team/demo")
KEPT = Path(__file__).parents[1] / "data" / "published.json"


class FixedSigner:
    """Signs with a digest, so that the same statement gives the same bundle; knows its own signatures."""

    name = "fixed"
    trusts_anyone = True

    def sign(self, statement: bytes) -> bytes:
        return make_bundle(statement, [("key", sha256_of(statement).encode())], hint="fixed")

    def signer(self, bundle: bytes) -> str | None:
        payload, signatures = open_bundle(bundle)
        return self.name if signatures == (sha256_of(payload).encode(),) else None


def published(registry: FakeRegistry, subject: str) -> dict[str, Any]:
    """Return all that the release repository holds: what each tag names, and each referrer with its blobs."""
    tags = {}
    for tag in registry.tags(RELEASE):
        found = registry.resolve(RELEASE, tag)
        assert found is not None
        tags[tag] = found.digest
    pieces = {}
    for entry in registry.referrers(RELEASE, subject)[0]:
        manifest = registry.manifest(RELEASE, entry.digest)
        assert manifest is not None
        pieces[entry.digest] = [layer.digest for layer in manifest.layers]
    return {"tags": tags, "evidence": pieces}


def two_cards(digest: str) -> list[AnyRecord]:
    hopper = probe(
        digest, capability="9.0", created=NOW - timedelta(hours=2), run="run2", features={"cuda-graphs": "works"}
    )
    return [*both(digest), hopper, audit(digest, created=NOW - timedelta(hours=3), run="run3")]


def publications(folder: Path) -> dict[str, dict[str, Any]]:
    """Publish in the ways there are; return what each leaves in its registry."""
    found: dict[str, dict[str, Any]] = {}
    signer = FixedSigner()
    ways: tuple[tuple[str, dict[str, Any], bool], ...] = (
        ("recorded", {}, False),
        ("attested", {"signer": signer, "verifier": signer}, False),
        ("native", {"signer": signer, "verifier": signer}, True),
    )
    for name, changes, native in ways:
        registry = FakeRegistry(native_referrers=native)
        image = put_image(registry, STAGING, "key")
        tools = gear(registry, folder / name, **changes)
        publish(candidate(), policy(HOST), both, tools)
        found[name] = published(registry, image.digest)
        publish(candidate(), policy(HOST), both, tools, level="audited")
        publish(candidate(targets=("sm_120", "sm_90")), policy(HOST), two_cards, tools)
        found[f"{name}, two levels and cards"] = published(registry, image.digest)
        second = put_image(registry, STAGING, "key", content=b"second")
        publish(candidate(revision=2, lock=None), policy(HOST), both, tools, report=None)
        revoke(Reference.parse(f"{RELEASE}:sm120-verified"), reason="bad", to=None, policy=None, ports=tools)
        found[f"{name}, revoked"] = published(registry, second.digest)
    return found


def test_the_same_publication_writes_the_same_bytes(tmp_path: Path) -> None:
    kept: dict[str, dict[str, Any]] = json.loads(KEPT.read_text())
    found = publications(tmp_path)

    assert kept.keys() == found.keys()
    for name, artefacts in kept.items():
        assert artefacts == found[name], name
