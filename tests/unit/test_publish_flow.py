"""A tag is verified or it is not: the publish flow on the registry in memory."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from publish_tools import NOW, audit, both, candidate, gear, key_pair, policy, probe, proposed, publish
from registry_tools import put_image

from assay.adapters.files.journal import FileJournal
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import PolicyRefused, RegistryBroken, RegistryError, TagImmutable, UsageError
from assay.evidence.judging import Verification
from assay.evidence.oci import Manifest, fallback_tag, index_of
from assay.evidence.policy import Why
from assay.evidence.record import dump
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import ArtifactKind
from assay.matrix.policy import Policy, Signatures
from assay.pipeline.collect import collect
from assay.pipeline.revoke import revoke
from assay.pipeline.verify import verify

HOST = "registry.test"
STAGING = Repository(host=HOST, path="team/staging/demo")
RELEASE = Repository(host=HOST, path="team/demo")
ALIAS = "sm120-verified"
TAG = candidate().tag


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def image(registry: FakeRegistry) -> Manifest:
    return put_image(registry, STAGING, "key")


def tag(registry: FakeRegistry, name: str) -> str | None:
    found = registry.resolve(RELEASE, name)
    return found.digest if found else None


def look(registry: FakeRegistry, tmp_path: Path, text: str, **changes: object) -> Verification:
    values = {"level": None, "target": None, "policy": None, "suite": None, "now": NOW, **changes}
    verifier = values.pop("verifier", gear(registry, tmp_path).verifier)
    return verify(
        Reference.parse(text),
        registry=registry,
        verifier=verifier,  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )


def whys(seen: Verification) -> set[Why]:
    return {reason.why for reason in [*seen.reasons, *(r for one in seen.judgements for r in one.reasons)]}


def test_verified_image_gets_its_tags(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path)
    publish(candidate(), policy(HOST), both, tools)
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}")

    assert image.digest == tag(registry, TAG) == tag(registry, ALIAS)
    assert seen.ok
    assert seen.signers == ()
    assert seen.pull == f"docker pull {RELEASE}@{image.digest}"
    assert [kind for kind in ArtifactKind if kind not in (ArtifactKind.REVOCATION, ArtifactKind.VOID)] == [
        kind for kind in ArtifactKind if kind in {piece.statement.predicate_type for piece in seen.pieces}
    ]
    journal = [json.loads(line) for line in (tmp_path / "publish.jsonl").read_text().splitlines()]
    assert [(TAG, "intent"), (TAG, "done"), (ALIAS, "intent"), (ALIAS, "done")] == [
        (entry["tag"], entry["phase"]) for entry in journal
    ]


def test_a_registry_that_lists_referrers_itself_gets_no_extra_tags(tmp_path: Path) -> None:
    registry = FakeRegistry(native_referrers=True)
    image = put_image(registry, STAGING, "key")
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), policy(HOST), both, tools)
    publish(candidate(), policy(HOST), both, tools)

    assert sorted([TAG, ALIAS]) == registry.tags(RELEASE)
    assert len(registry.referrers(RELEASE, image.digest)[0]) == 6
    assert look(registry, tmp_path, f"{RELEASE}:{ALIAS}").ok


def test_publishing_again_changes_nothing(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), policy(HOST), both, tools)
    before = (registry.tags(RELEASE), registry.resolve(RELEASE, fallback_tag(image.digest)))
    registry.calls.clear()
    publish(candidate(), policy(HOST), both, tools)

    assert before == (registry.tags(RELEASE), registry.resolve(RELEASE, fallback_tag(image.digest)))
    assert not [call for call in registry.calls if call[0] in ("put_manifest", "put_blob", "mount")]


def test_a_proposal_writes_nothing(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path)
    registry.calls.clear()
    proposal = proposed(candidate(), policy(HOST), lambda _: [], tools)

    assert not proposal.ok
    assert [(TAG, None, image.digest), (ALIAS, None, image.digest)] == [
        (move.tag, move.old, move.new) for move in proposal.moves
    ]
    assert {method for method, _ in registry.calls} == {"resolve"}
    assert not (tmp_path / "publish.jsonl").exists()
    assert "no probe ran on" in str(proposal.refuse())


def test_unverified_gets_nothing(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="cuda-graphs must be works, and is wrong"):
        publish(
            candidate(),
            policy(HOST),
            lambda digest: [probe(digest, features={"cuda-graphs": "wrong"}), audit(digest)],
            gear(registry, tmp_path),
        )

    assert registry.tags(RELEASE) == []


def test_an_audit_alone_gives_other_tags(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), lambda digest: [audit(digest)], gear(registry, tmp_path), level="audited")
    names = [name for name in registry.tags(RELEASE) if not name.startswith("sha256-")]

    assert sorted([f"{TAG}-audited", "sm120-audited"]) == sorted(names)
    assert look(registry, tmp_path, f"{RELEASE}:sm120-audited").ok
    assert not look(registry, tmp_path, f"{RELEASE}:sm120-audited", level="verified").ok


def test_an_immutable_tag_never_moves(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path)
    publish(candidate(), policy(HOST), both, tools)
    other = put_image(registry, STAGING, "key", content=b"built again")
    with pytest.raises(PolicyRefused, match="never moves; publish as a new revision: --revision 2"):
        publish(candidate(), policy(HOST), both, tools)

    assert image.digest == tag(registry, TAG) == tag(registry, ALIAS)
    publish(candidate(revision=2), policy(HOST), both, tools)
    assert (image.digest, other.digest, other.digest) == (
        tag(registry, TAG),
        tag(registry, f"{TAG}-r2"),
        tag(registry, ALIAS),
    )


def test_a_tag_taken_meanwhile_is_seen(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    other = put_image(registry, RELEASE, None, content=b"other")

    def race(method: str, what: str) -> None:
        if method == "put_manifest" and what.endswith(fallback_tag(image.digest)):
            registry.fail = lambda _method, _what: None
            registry.put_manifest(RELEASE, TAG, other)

    registry.fail = race
    with pytest.raises(PolicyRefused, match="in the meantime"):
        publish(candidate(), policy(HOST), both, gear(registry, tmp_path))

    assert tag(registry, TAG) == other.digest
    assert tag(registry, ALIAS) is None


def test_a_cell_may_not_look_like_a_level(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ends like the tag of a revision"):
        publish(candidate(tag="demo-r2"), policy(HOST), both, gear(registry, tmp_path))
    with pytest.raises(UsageError, match="ends in -audited"):
        publish(candidate(tag="demo-audited"), policy(HOST), both, gear(registry, tmp_path))


def test_no_mount_no_promotion(image: Manifest, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.can_mount = False

    with pytest.raises(RegistryError, match="would not mount"):
        publish(candidate(), policy(HOST), both, gear(registry, tmp_path))


def test_an_index_is_promoted_with_its_images(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    index = index_of([image.descriptor])
    registry.put_manifest(STAGING, "key", index)
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))

    assert index.digest == tag(registry, ALIAS)
    assert registry.resolve(RELEASE, image.digest) is not None


# Signatures


def signed_policy(folder: Path) -> Policy:
    rules = policy(HOST, keys=[str(folder / "key.pub")])
    level = rules.levels["verified"].model_copy(update={"signatures": Signatures.REQUIRED})
    return rules.model_copy(update={"levels": {"verified": level}})


def test_required_signatures_need_a_key(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="no key to sign with"):
        publish(candidate(), signed_policy(tmp_path), both, gear(registry, tmp_path))


def test_signed_evidence_is_attested(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), signed_policy(tmp_path), both, tools)
    stranger = gear(registry, tmp_path, key=key_pair(tmp_path, "stranger"))
    by_key = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier)
    by_stranger = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=stranger.verifier)

    assert by_key.ok
    assert [signer.split()[0] for signer in by_key.signers] == ["key.pub"]
    assert whys(by_stranger) == {Why.UNSIGNED, Why.NO_RECORD}


def test_unsigned_evidence_does_not_pass_for_signed(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier)

    assert Why.UNSIGNED in whys(seen)
    assert not seen.ok


def test_signing_later_adds_signatures(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), signed_policy(tmp_path), both, tools)

    assert look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier).ok


# What must be refused


def test_age_counts_when_verifying(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", now=NOW + timedelta(days=60))

    assert whys(seen) == {Why.TOO_OLD}


def test_another_suite_counts_when_verifying(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", suite="sha256:" + "6" * 64)

    assert whys(seen) == {Why.OLD_SUITE}


def test_a_stricter_policy_of_ones_own_counts(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    strict = policy(HOST, levels={"verified": {"images": {"demo": {"sm_120": {"works": ["marlin"]}}}}})
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", policy=strict)

    assert whys(seen) == {Why.FEATURE}


def test_whoever_names_a_key_wants_signatures(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """Also where the policy that judges would not ask for them."""
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    verifier = gear(registry, tmp_path, key=key_pair(tmp_path)).verifier
    optional = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=verifier, policy=policy(HOST))
    wanted = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=verifier, policy=policy(HOST), signed=True)

    assert optional.ok
    assert whys(wanted) == {Why.UNSIGNED, Why.NO_RECORD}


def test_the_name_of_an_alias_is_a_promise(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """An alias put by hand onto a digest that was verified on other hardware."""
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    manifest = registry.manifest(RELEASE, TAG)
    assert manifest is not None
    registry.put_manifest(RELEASE, "sm90-verified", manifest)

    assert whys(look(registry, tmp_path, f"{RELEASE}:sm90-verified")) == {Why.NO_RECORD}


def test_the_name_of_an_immutable_tag_is_a_promise_too(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """A name without a level's ending says `verified`: whoever gives it to what nothing ran in is found out."""
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path), level="audited")
    manifest = registry.manifest(RELEASE, f"{TAG}-audited")
    assert manifest is not None
    registry.put_manifest(RELEASE, TAG, manifest)

    assert look(registry, tmp_path, f"{RELEASE}:{TAG}-audited").ok
    assert look(registry, tmp_path, RELEASE.at(image.digest)).ok
    assert whys(look(registry, tmp_path, f"{RELEASE}:{TAG}")) == {Why.NO_RECORD}
    assert look(registry, tmp_path, f"{RELEASE}:{TAG}", level="audited").ok


def test_newest_probe_of_a_feature_counts(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """The same digest, published once more after the probes had changed: the first verdict has had its day."""
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    suite = "sha256:" + "6" * 64
    later = NOW + timedelta(days=60)
    tools = gear(registry, tmp_path, clock=lambda: later)
    again = probe(image.digest, created=later, run="run2", suite_digest=suite)
    publish(
        candidate(),
        policy(HOST),
        lambda digest: [*both(digest), again, audit(digest, created=later)],
        tools,
        suite=suite,
    )
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", now=later)

    assert seen.ok
    assert ["run2"] == [record.run for record in seen.judgements[0].probes]


def test_a_record_that_a_verdict_rests_on_is_missed(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """Of two records the newer one, which knows a feature that no longer works, is deleted in the registry."""
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    older = probe(image.digest, created=NOW - timedelta(days=2), features={"cuda-graphs": "works", "marlin": "works"})
    publish(candidate(), policy(HOST), lambda digest: [older, *both(digest)], tools)
    pieces = collect(registry, RELEASE, image.digest, tools.verifier).pieces
    newer = dump(probe(image.digest)).decode()
    (piece,) = [one for one in pieces if one.statement.predicate.get("text") == newer]
    listed, _ = registry.referrers(RELEASE, image.digest)
    registry.delete_manifest(RELEASE, piece.manifest)
    kept = index_of(entry for entry in listed if entry.digest != piece.manifest)
    registry.put_manifest(RELEASE, fallback_tag(image.digest), kept)
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier)

    assert whys(seen) == {Why.EVIDENCE}
    assert "1 of the 3 records that the verdict is based on" in str(seen.judgements[0].reasons[0])


def test_unknown_name_is_reported_with_the_known_ones(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    with pytest.raises(RegistryError, match="there is no") as caught:
        look(registry, tmp_path, str(RELEASE))

    assert caught.value.hint == f"it has: {ALIAS}, {TAG}"


def test_an_unpublished_digest_is_not_verified(registry: FakeRegistry, tmp_path: Path) -> None:
    put_image(registry, RELEASE, "plain")
    seen = look(registry, tmp_path, f"{RELEASE}:plain")

    assert not seen.ok
    assert whys(seen) == {Why.NO_RECORD}


@pytest.mark.parametrize("signed", [False, True])
def test_a_swapped_blob_is_refused(registry: FakeRegistry, image: Manifest, tmp_path: Path, signed: bool) -> None:
    tools = gear(registry, tmp_path, key=key_pair(tmp_path) if signed else None)
    publish(candidate(), policy(HOST), both, tools)
    piece = next(
        piece
        for piece in collect(registry, RELEASE, image.digest, tools.verifier).pieces
        if piece.statement.predicate_type == ArtifactKind.RECORD and "probe" in str(piece.statement.predicate)
    )
    manifest = registry.manifest(RELEASE, piece.manifest)
    assert manifest is not None
    blob = piece.bundle or piece.statement.raw
    registry.tamper(RELEASE, manifest.layers[0].digest, blob.replace(b"works", b"wrong") + b" ")

    assert Why.EVIDENCE in whys(look(registry, tmp_path, f"{RELEASE}:{ALIAS}"))


def test_evidence_of_another_digest_does_not_carry_over(
    registry: FakeRegistry, image: Manifest, tmp_path: Path
) -> None:
    """A replay: the genuine, signed bundle of one image attached to another."""
    from assay.evidence.oci import Descriptor, artifact
    from assay.evidence.statements import BUNDLE, DIGEST_NOTE

    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), policy(HOST), both, tools)
    victim = put_image(registry, RELEASE, "plain", content=b"never probed")
    entries = []
    for piece in collect(registry, RELEASE, image.digest, tools.verifier).pieces:
        assert piece.bundle is not None
        digest = registry.put_blob(RELEASE, piece.bundle)
        layer = Descriptor(media_type=BUNDLE, digest=digest, size=len(piece.bundle))
        notes = {DIGEST_NOTE: piece.statement.digest}
        replay = artifact(artifact_type=BUNDLE, layer=layer, subject=victim.descriptor, annotations=notes)
        registry.put_manifest(RELEASE, replay.digest, replay)
        entries.append(replay.referrer)
    registry.put_manifest(RELEASE, fallback_tag(victim.digest), index_of(entries))
    seen = look(registry, tmp_path, f"{RELEASE}:plain", verifier=tools.verifier)

    assert not seen.ok
    assert Why.EVIDENCE in whys(seen)


def test_publishing_again_restores_unreadable_evidence(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    """The registry's disk was full: a tag of evidence and the index are there, and reading them fails."""
    tools = gear(registry, tmp_path, key=key_pair(tmp_path))
    publish(candidate(), policy(HOST), both, tools)
    half = next(name for name in registry.tags(RELEASE) if ".assay-" in name)
    unreadable = {f"{RELEASE}:{half}", f"{RELEASE}@{image.digest}"}

    def fail(method: str, what: str) -> None:
        if method == "put_manifest":
            unreadable.discard(what)
            if what.endswith(fallback_tag(image.digest)):
                unreadable.discard(f"{RELEASE}@{image.digest}")
        elif method in ("manifest", "referrers") and what in unreadable:
            raise RegistryBroken("500")

    registry.fail = fail
    seen = look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier)
    assert Why.EVIDENCE in whys(seen)
    publish(candidate(), policy(HOST), both, tools)

    assert not unreadable
    assert look(registry, tmp_path, f"{RELEASE}:{ALIAS}", verifier=tools.verifier).ok


def test_an_immutable_tag_that_cannot_be_read_is_not_taken(
    registry: FakeRegistry, image: Manifest, tmp_path: Path
) -> None:
    def fail(method: str, what: str) -> None:
        if method == "resolve" and what == f"{RELEASE}:{TAG}":
            raise RegistryBroken("500")

    registry.fail = fail
    with pytest.raises(RegistryBroken):
        publish(candidate(), policy(HOST), both, gear(registry, tmp_path))
    registry.fail = lambda _method, _what: None

    assert tag(registry, TAG) is None


# Taking back


def test_revoking_moves_the_alias_back(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    tools = gear(registry, tmp_path)
    publish(candidate(), policy(HOST), both, tools)
    second = put_image(registry, STAGING, "key", content=b"second")
    publish(candidate(revision=2), policy(HOST), both, tools)
    assert second.digest == tag(registry, ALIAS)

    digest, moved = revoke(
        Reference.parse(f"{RELEASE}:{ALIAS}"), reason="wrong numbers on long prompts", to=None, policy=None, ports=tools
    )

    assert second.digest == digest
    assert moved == {ALIAS: image.digest}
    assert image.digest == tag(registry, ALIAS)
    assert second.digest == tag(registry, f"{TAG}-r2")
    assert look(registry, tmp_path, f"{RELEASE}:{ALIAS}").ok
    assert whys(look(registry, tmp_path, f"{RELEASE}:{TAG}-r2")) == {Why.REVOKED}
    with pytest.raises(PolicyRefused, match="revoked: wrong numbers"):
        publish(candidate(revision=2), policy(HOST), both, tools)
    last = list(FileJournal(tmp_path).read(str(RELEASE), ALIAS))[-1]
    assert (second.digest, image.digest, "wrong numbers on long prompts") == (last.old, last.new, last.reason)


def test_revoke_dry_run_shows_the_plan_and_changes_nothing(
    registry: FakeRegistry, image: Manifest, tmp_path: Path
) -> None:
    tools = gear(registry, tmp_path)
    publish(candidate(), policy(HOST), both, tools)
    second = put_image(registry, STAGING, "key", content=b"second")
    publish(candidate(revision=2), policy(HOST), both, tools)
    registry.calls.clear()
    told = revoke(Reference.parse(f"{RELEASE}:{ALIAS}"), reason="bad", to=None, policy=None, ports=tools, write=False)

    assert (second.digest, {ALIAS: image.digest}) == told
    assert second.digest == tag(registry, ALIAS)
    assert look(registry, tmp_path, f"{RELEASE}:{ALIAS}").ok
    assert not [call for call in registry.calls if call[0] in ("put_manifest", "put_blob")]


def test_an_index_that_never_moves_loses_no_evidence(tmp_path: Path) -> None:
    """The registry's rule covers the tag by which other programs find evidence: assay finds it all the same."""
    registry = FakeRegistry(immutable="sha256-.*")
    said: list[str] = []
    tools = gear(registry, tmp_path, say=said.append)
    first = put_image(registry, STAGING, "key")
    publish(candidate(), policy(HOST), both, tools)
    put_image(registry, STAGING, "key", content=b"second")
    publish(candidate(revision=2), policy(HOST), both, tools)
    assert not any("refuses to move it" in line for line in said)
    digest, moved = revoke(Reference.parse(f"{RELEASE}:{ALIAS}"), reason="bad", to=None, policy=None, ports=tools)
    listed, _ = registry.referrers(RELEASE, digest)
    found = collect(registry, RELEASE, digest, tools.verifier).pieces

    assert moved == {ALIAS: first.digest}
    assert whys(look(registry, tmp_path, f"{RELEASE}:{TAG}-r2")) == {Why.REVOKED}
    assert len(found) == len(listed) + 1
    assert any("refuses to move it" in line for line in said)
    assert any("1 of 7 pieces" in line for line in said)

    registry.immutable = ""
    revoke(Reference.parse(f"{RELEASE}:{TAG}-r2"), reason="bad", to=None, policy=None, ports=tools)
    assert len(registry.referrers(RELEASE, digest)[0]) == len(found)


def test_an_alias_that_never_moves_is_reported(tmp_path: Path) -> None:
    registry = FakeRegistry(immutable=".*")
    tools = gear(registry, tmp_path)
    first = put_image(registry, STAGING, "key")
    publish(candidate(), policy(HOST), both, tools)
    second = put_image(registry, STAGING, "other", content=b"second")
    with pytest.raises(TagImmutable):
        publish(candidate(revision=2, staging_tag="other"), policy(HOST), both, tools)

    assert first.digest == tag(registry, ALIAS)
    assert second.digest == tag(registry, f"{TAG}-r2")
    assert look(registry, tmp_path, f"{RELEASE}:{TAG}-r2").ok


def test_revoking_without_a_journal_finds_the_others(registry: FakeRegistry, image: Manifest, tmp_path: Path) -> None:
    publish(candidate(), policy(HOST), both, gear(registry, tmp_path / "a"))
    put_image(registry, STAGING, "key", content=b"second")
    publish(candidate(revision=2), policy(HOST), both, gear(registry, tmp_path / "b"))
    _, moved = revoke(
        Reference.parse(f"{RELEASE}:{TAG}-r2"), reason="bad", to=None, policy=None, ports=gear(registry, tmp_path / "c")
    )

    assert moved == {ALIAS: image.digest}


def test_revoking_the_only_one_leaves_an_alias_that_is_refused(
    registry: FakeRegistry, image: Manifest, tmp_path: Path
) -> None:
    tools = gear(registry, tmp_path)
    publish(candidate(), policy(HOST), both, tools)
    reference = Reference.parse(f"{RELEASE}:{ALIAS}")
    first = revoke(reference, reason="bad", to=None, policy=None, ports=tools)
    again = revoke(reference, reason="bad", to=None, policy=None, ports=tools)

    assert first == again == (image.digest, {ALIAS: None})
    assert whys(look(registry, tmp_path, f"{RELEASE}:{ALIAS}")) == {Why.REVOKED}
