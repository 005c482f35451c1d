"""Evidence is bound to the name it is found under, and nobody who may push can take it away or stand in the way."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from publish_tools import CELL, NOW, audit, both, candidate, gear, key_pair, policy, probe, publish
from registry_tools import put_image

from assay.adapters.registry.fake import FakeRegistry
from assay.adapters.signing.dsse import KeySigner, KeyVerifier
from assay.evidence.judging import Verification
from assay.evidence.oci import EMPTY_BYTES, MANIFEST, Descriptor, Manifest, artifact, fallback_tag, index_of
from assay.evidence.policy import Why
from assay.evidence.record import dump
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import (
    DIGEST_NOTE,
    PAYLOAD,
    ArtifactKind,
    Statement,
    evidence_tag,
    evidence_tag_prefix,
    record_statement,
    void,
)
from assay.foundation.digest import sha256_of
from assay.pipeline.attach import attach
from assay.pipeline.collect import PIECES, STRANGERS, collect
from assay.pipeline.recommend import from_registry
from assay.pipeline.revoke import revoke
from assay.pipeline.verify import verify

HOST = "registry.test"
STAGING = Repository.parse(f"{HOST}/team/staging/demo")
RELEASE = Repository.parse(f"{HOST}/team/demo")
ALIAS = "sm120-verified"
OTHER = "demo-cu126-torch2.5.0"


class Place:
    """A registry, a publisher with a key, and a person who knows that key."""

    def __init__(self, folder: Path) -> None:
        self.registry = FakeRegistry()
        self.rules = policy(HOST)
        self.key = key_pair(folder)
        self.tools = gear(self.registry, folder / "journal", key=self.key)
        self.verifier = KeyVerifier([self.key[1]])

    def publish(self, content: bytes = b"one", *, cell: str = CELL, **changes: Any) -> str:
        put_image(self.registry, STAGING, "key", content=content)
        records = changes.pop("records", both)
        seen = publish(candidate(tag=cell, cell=cell), self.rules, records, self.tools, **changes)
        return seen.subject.digest

    def look(self, text: str, **changes: Any) -> Verification:
        values = {"level": None, "target": None, "policy": None, "suite": None, "now": NOW, "signed": True, **changes}
        return verify(Reference.parse(text), registry=self.registry, verifier=self.verifier, **values)

    def manifest(self, key: str, repository: Repository = RELEASE) -> Manifest:
        found = self.registry.manifest(repository, key)
        assert found is not None
        return found

    def attach(
        self, digest: str, *statements: Statement, signed: bool = True, repository: Repository = RELEASE
    ) -> None:
        attach(
            self.registry,
            repository,
            self.manifest(digest, repository).descriptor,
            statements,
            signer=KeySigner(self.key[0]) if signed else None,
            verifier=self.verifier,
            created=NOW,
        )

    def revoke(self) -> None:
        revoke(Reference.parse(f"{RELEASE}:{CELL}"), reason="bad", to=None, policy=self.rules, ports=self.tools)

    def foreign(
        self, digest: str, *, size: int | None = None, blob: bytes = b"x", tagged: bool = True, **notes: str
    ) -> Manifest:
        """Attach something that is not assay's."""
        self.registry.put_blob(RELEASE, blob)
        self.registry.put_blob(RELEASE, EMPTY_BYTES)
        layer = Descriptor(media_type=PAYLOAD, digest=sha256_of(blob), size=size or len(blob))
        subject = self.manifest(digest).descriptor
        made = artifact(artifact_type=PAYLOAD, layer=layer, subject=subject, annotations=notes)
        self.registry.put_manifest(RELEASE, evidence_tag(digest, made.digest) if tagged else made.digest, made)
        return made

    def list_too(self, digest: str, *entries: Descriptor) -> None:
        listed, _ = self.registry.referrers(RELEASE, digest)
        self.registry._of(RELEASE).manifests |= {one.digest: _Anything(one.digest) for one in entries}  # type: ignore[misc]
        index = index_of([*listed, *entries])
        contents = self.registry._of(RELEASE)
        contents.manifests[index.digest] = index
        contents.tags[fallback_tag(digest)] = index.digest


class _Anything:
    """What a registry has under a digest and is not a manifest."""

    def __init__(self, digest: str) -> None:
        self.digest, self.raw, self.media_type, self.subject = digest, b"this is no JSON", MANIFEST, None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def whys(seen: Verification) -> set[Why]:
    return {reason.why for reason in [*seen.reasons, *(r for one in seen.judgements for r in one.reasons)]}


# What a name promises


def test_the_tag_of_another_cell_is_refused(place: Place) -> None:
    place.publish()
    other = place.publish(b"two", cell=OTHER)
    place.registry.put_manifest(RELEASE, CELL, place.manifest(other))
    place.registry.put_manifest(RELEASE, f"{OTHER}-r2", place.manifest(other))
    place.registry.put_manifest(RELEASE, f"{CELL}-r2", place.manifest(other))
    place.registry.put_manifest(RELEASE, "prod", place.manifest(other))

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.OTHER_CELL}
    assert whys(place.look(f"{RELEASE}:{CELL}-r2")) == {Why.OTHER_CELL}
    assert whys(place.look(f"{RELEASE}:{CELL}@{other}")) == {Why.OTHER_CELL}
    assert place.look(f"{RELEASE}:{OTHER}").ok
    assert place.look(f"{RELEASE}:{OTHER}-r2").ok
    assert place.look(f"{RELEASE}:prod").ok
    assert place.look(RELEASE.at(other)).ok


def test_recommend_shows_no_tag_of_another_cell(place: Place) -> None:
    other = place.publish(b"two", cell=OTHER)
    place.registry.put_manifest(RELEASE, CELL, place.manifest(other))
    (offer,) = from_registry(RELEASE, "sm_120", registry=place.registry, verifier=place.verifier, now=NOW)

    assert CELL not in offer.tags
    assert OTHER in offer.tags


def test_a_tag_beside_a_digest_promises_too(place: Place) -> None:
    digest = place.publish(level="audited")

    assert whys(place.look(f"{RELEASE}:{ALIAS}@{digest}")) == {Why.NO_RECORD}
    assert place.look(f"{RELEASE}:sm120-audited@{digest}").ok
    assert place.look(f"{RELEASE}@{digest}").ok


@pytest.mark.parametrize(
    ("where", "ok", "said"),
    [
        (f"{HOST}/team/other", False, ""),
        (f"{HOST}/other/demo", False, ""),
        (f"{HOST}/xteam/demo", False, ""),
        ("mirror.example/team/demo", True, "read from mirror.example/team/demo"),
        ("mirror.example/cache/team/demo", True, "read from mirror.example/cache/team/demo"),
        (f"{HOST}/cache/team/demo", True, ""),
    ],
)
def test_evidence_in_another_repository(place: Place, where: str, ok: bool, said: str) -> None:
    place.publish()
    copy = Repository.parse(where)
    place.registry._contents[copy] = place.registry._contents[RELEASE]
    seen = place.look(f"{copy}:{ALIAS}")

    assert seen.ok == ok
    assert whys(seen) == (set() if ok else {Why.OTHER_REPOSITORY})
    assert said in "; ".join(seen.notes)
    assert place.look(f"{copy}:{ALIAS}", published_as=RELEASE).ok
    assert not place.look(f"{copy}:{ALIAS}", published_as=Repository.parse("a.example/b")).ok


def test_verified_rests_on_no_audit(place: Place) -> None:
    digest = put_image(place.registry, RELEASE, ALIAS).digest
    text = dump(audit(digest))
    said = {
        "level": "verified",
        "policy": {"basis": "audit", "audit": "fail"},
        "image": "demo",
        "cell": "c",
        "target": "sm_120",
        "suite": None,
        "records": [sha256_of(text)],
    }
    promise = Statement.make(ArtifactKind.VERDICT, name=str(RELEASE), digest=digest, predicate=said)
    place.attach(digest, record_statement(text, name=str(RELEASE), digest=digest), promise)

    assert whys(place.look(f"{RELEASE}:{ALIAS}")) == {Why.NO_PROMISE}


def _with_policy(place: Place, digest: str, **changes: Any) -> Statement:
    pieces = collect(place.registry, RELEASE, digest, place.verifier).pieces
    (promise,) = [one.statement for one in pieces if one.statement.predicate_type == ArtifactKind.VERDICT]
    value = json.loads(promise.raw)
    value["predicate"] |= changes.pop("predicate", {})
    value["predicate"]["policy"] |= changes
    return replace(promise, raw=json.dumps(value).encode())


@pytest.mark.parametrize("age", [1e300, float("inf"), float("nan"), -1, "x"])
def test_an_impossible_age_is_a_reason(place: Place, age: Any) -> None:
    digest = place.publish()
    place.attach(digest, _with_policy(place, digest, max_age_days=age))

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.EVIDENCE}


@pytest.mark.parametrize("level", ["cu128-torch2.8.0", "", "x" * 100, "VERIFIED", "\x1b[2J"])
def test_a_verdict_names_a_level_that_a_tag_can_promise(place: Place, level: str) -> None:
    digest = place.publish()
    place.attach(digest, _with_policy(place, digest, predicate={"level": level}))

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.EVIDENCE}


@pytest.mark.parametrize("created", ["2026-11-19T12:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"])
def test_a_record_of_no_time_is_a_reason(place: Place, created: str) -> None:
    digest = place.publish()
    value = json.loads(dump(probe(digest))) | {"created": created}
    place.attach(digest, record_statement(json.dumps(value).encode(), name=str(RELEASE), digest=digest))
    (offer,) = from_registry(RELEASE, "sm_120", registry=place.registry, verifier=place.verifier, now=NOW)

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.EVIDENCE}
    assert offer.standing == "refused"


def test_an_audit_from_the_future_hides_nothing(place: Place) -> None:
    digest = place.publish()
    ahead = audit(digest, created=NOW + timedelta(days=3650))
    today = audit(digest, created=NOW, verdict="fail")
    place.attach(digest, *(record_statement(dump(one), name=str(RELEASE), digest=digest) for one in (ahead, today)))

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.AUDIT}


# What may not be taken away


@pytest.mark.parametrize("signed", [True, False])
def test_a_revocation_is_not_overwritten(place: Place, signed: bool) -> None:
    digest = place.publish()
    place.revoke()
    pieces = collect(place.registry, RELEASE, digest, place.verifier).pieces
    (bad,) = [one for one in pieces if one.statement.predicate_type == ArtifactKind.REVOCATION]
    kept = [place.manifest(one.manifest) for one in pieces if one is not bad]
    place.registry.put_manifest(RELEASE, evidence_tag(digest, bad.manifest), kept[0])
    place.registry.put_manifest(RELEASE, fallback_tag(digest), index_of(one.referrer for one in kept))
    seen = place.look(f"{RELEASE}:{CELL}", signed=signed)

    assert whys(seen) == {Why.EVIDENCE}
    assert "was replaced" in str(seen.reasons[0])
    # Publishing again is no excuse for it.
    with pytest.raises(Exception, match="was replaced"):
        place.publish()


def test_whoever_holds_no_key_cannot_excuse_it(place: Place) -> None:
    digest = place.publish()
    (first, *_) = collect(place.registry, RELEASE, digest, place.verifier).pieces
    tag = evidence_tag(digest, first.manifest)
    listed, _ = place.registry.referrers(RELEASE, digest)
    place.registry.put_manifest(RELEASE, tag, place.manifest(CELL))
    place.registry.put_manifest(
        RELEASE, fallback_tag(digest), index_of(e for e in listed if e.digest != first.manifest)
    )
    excuse = void(name=str(RELEASE), digest=digest, tags=[tag])
    place.attach(digest, excuse, signed=False)

    assert any("was replaced" in str(one) for one in place.look(f"{RELEASE}:{CELL}").reasons)
    place.attach(digest, excuse)
    assert not any("was replaced" in str(one) for one in place.look(f"{RELEASE}:{CELL}").reasons)


def test_a_list_that_calls_a_revocation_something_else_hides_nothing(place: Place) -> None:
    digest = place.publish()
    place.revoke()
    listed, _ = place.registry.referrers(RELEASE, digest)
    lying = [replace(one, artifact_type="text/plain", annotations={}) for one in listed]
    place.registry.put_manifest(RELEASE, fallback_tag(digest), index_of(lying))

    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.REVOKED}


def test_alias_never_returns_to_an_unsigned_digest(place: Place, tmp_path: Path) -> None:
    unsigned = gear(place.registry, tmp_path / "journal")
    put_image(place.registry, STAGING, "key", content=b"forged")
    publish(candidate(tag=OTHER, cell=OTHER), place.rules, both, unsigned)
    digest = place.publish(b"good")
    told = revoke(Reference.parse(f"{RELEASE}:{CELL}"), reason="bad", to=None, policy=place.rules, ports=place.tools)

    assert told == (digest, {ALIAS: None})


# What others attach


def test_attachments_of_others_are_ignored(place: Place) -> None:
    digest = place.publish()
    place.foreign(digest, size=40 << 20)
    place.foreign(digest, blob=gzip.compress(bytes(64 << 20)))
    place.foreign(digest, blob=b"[" * 1_000_000)
    raw = Descriptor(media_type=MANIFEST, digest=sha256_of(b"this is no JSON"), size=15, artifact_type=PAYLOAD)
    place.list_too(digest, raw)
    seen = place.look(f"{RELEASE}:{CELL}")
    (offer,) = from_registry(RELEASE, "sm_120", registry=place.registry, verifier=place.verifier, now=NOW)

    assert seen.ok
    assert "4 artifacts that others attached were left alone" in seen.notes
    assert offer.standing == "attested"
    place.revoke()
    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.REVOKED}


def test_how_much_is_read_of_others_is_bounded(place: Place) -> None:
    digest = place.publish()
    many = [
        Descriptor(media_type=MANIFEST, digest=f"sha256:{number:064x}", size=5, artifact_type=PAYLOAD)
        for number in range(3000)
    ]
    place.list_too(digest, *many)
    place.registry.calls.clear()
    seen = place.look(f"{RELEASE}:{CELL}")

    assert seen.ok
    assert "3000 artifacts" in "".join(seen.notes)
    assert len(place.registry.calls) < STRANGERS + 50


def test_unread_evidence_counts_as_a_possible_revocation(place: Place) -> None:
    digest = place.publish()
    many = [
        Descriptor(
            media_type=MANIFEST,
            digest=f"sha256:{number:064x}",
            size=5,
            artifact_type=PAYLOAD,
            annotations={DIGEST_NOTE: "sha256:" + "0" * 64},
        )
        for number in range(3000)
    ]
    place.list_too(digest, *many)
    place.registry.calls.clear()
    seen = place.look(f"{RELEASE}:{CELL}")

    assert Why.EVIDENCE in whys(seen)
    assert len(place.registry.calls) < PIECES + 50
    assert len(seen.reasons) < 20
    place.revoke()


def test_tags_of_evidence_are_counted(place: Place) -> None:
    digest = place.publish()
    for number in range(PIECES + 1):
        place.registry._of(RELEASE).tags[f"{evidence_tag_prefix(digest)}{number:040x}"] = digest
    place.registry.calls.clear()

    assert Why.EVIDENCE in whys(place.look(f"{RELEASE}:{CELL}"))
    assert len(place.registry.calls) < PIECES + 50


def test_all_evidence_together_has_one_budget(place: Place) -> None:
    digest = place.publish()
    subject = place.manifest(digest).descriptor
    raw = Statement.make(ArtifactKind.SBOM, name="x", digest=digest, predicate={}).raw
    for number in range(12):
        text = raw + b" " * (4 << 20) + b"\n" * number
        blob = gzip.compress(text, 9)
        place.registry.put_blob(RELEASE, blob)
        layer = Descriptor(media_type=f"{PAYLOAD}+gzip", digest=sha256_of(blob), size=len(blob))
        notes = {DIGEST_NOTE: sha256_of(text)}
        made = artifact(artifact_type=PAYLOAD, layer=layer, subject=subject, annotations=notes)
        place.registry.put_manifest(RELEASE, evidence_tag(digest, made.digest), made)
    collected = collect(place.registry, RELEASE, digest, place.verifier)

    assert whys(place.look(f"{RELEASE}:{CELL}")) >= {Why.EVIDENCE}
    assert sum(len(one.statement.raw) for one in collected.pieces) <= 32 << 20


@pytest.mark.parametrize("letters", [200, 295])
def test_a_list_that_others_made_too_long_is_rebuilt(place: Place, letters: int) -> None:
    """The second one is all that a manifest may have, so that nothing can be added to it."""
    digest = place.publish()
    many = [
        Descriptor(media_type=MANIFEST, digest=f"sha256:{number:064x}", size=5, artifact_type="x" * letters)
        for number in range(9_000)
    ]
    place.list_too(digest, *many)
    place.revoke()
    listed, _ = place.registry.referrers(RELEASE, digest)

    assert len(listed) == 7
    assert whys(place.look(f"{RELEASE}:{CELL}")) == {Why.REVOKED}
