"""Statements keep their bytes, and nothing that was changed passes."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_tools import LOCK, NOW, SUITE, audit, both, key_pair, policy, probe

from assay.adapters.files.journal import FileJournal
from assay.adapters.files.kept_records import KeptRecords
from assay.adapters.signing.dsse import KeySigner, KeyVerifier
from assay.errors import EvidenceError, ToolError
from assay.evidence.oci import MANIFEST, Descriptor, artifact
from assay.evidence.policy import judge
from assay.evidence.record import dump, file_name
from assay.evidence.sbom import cyclonedx
from assay.evidence.statements import (
    BLOB_LIMIT,
    PAYLOAD,
    ArtifactKind,
    Statement,
    audit_report,
    bill_of_materials,
    evidence_tag,
    make_bundle,
    open_bundle,
    package,
    record_of,
    record_statement,
    revocation,
    statements_of,
    test_result,
    unpack,
    verdict_of,
)
from assay.foundation.digest import sha256_of
from assay.matrix.policy import Requirement
from assay.ports.journal import Transition

test_result.__test__ = False  # type: ignore[attr-defined]  # the name is in-toto's
DIGEST = "sha256:" + "d" * 64
SUBJECT = Descriptor(media_type=MANIFEST, digest=DIGEST, size=7)


def all_statements() -> list[Statement]:
    rules = policy("r.test")
    level = rules.levels["verified"]
    judgement = judge(
        name="verified",
        level=level,
        image="demo",
        target="sm_120",
        digest=DIGEST,
        records=both(DIGEST),
        suite=SUITE,
        now=NOW,
    )
    return statements_of(
        [judgement], level, cell="c", suite=SUITE, name="r.test/team/demo", lock=LOCK, report=b'{"x": 1}\n'
    )


def test_equal_values_give_equal_bytes() -> None:
    assert [one.raw for one in all_statements()] == [one.raw for one in all_statements()]


def test_a_record_keeps_its_bytes() -> None:
    raw = dump(probe(DIGEST)).replace(b'"run1"', b'"run1"  ')
    statement = record_statement(raw, name="x", digest=DIGEST)

    assert (probe(DIGEST), raw) == record_of(statement)
    assert raw == record_of(Statement.parse(statement.raw))[1]


def test_the_audits_report_keeps_its_bytes() -> None:
    report = b'{"findings": []}\n' * 1000
    predicate = audit_report(report, name="x", digest=DIGEST).predicate

    assert report == gzip.decompress(base64.b64decode(predicate["data"]))
    assert predicate["digest"] == sha256_of(report)
    assert len(predicate["data"]) < 1000


def test_an_edited_record_is_found_out() -> None:
    statement = record_statement(dump(probe(DIGEST)), name="x", digest=DIGEST)
    edited = Statement.parse(statement.raw.replace(b"broken", b"works!"))

    with pytest.raises(EvidenceError, match="was edited"):
        record_of(edited)


def test_the_test_result_says_all_that_ran() -> None:
    record = probe(
        DIGEST, features={"a": "works", "b": "wrong", "c": "unsupported", "d": "not_run", "e": "inconclusive"}
    )
    predicate = test_result(
        record, dump(record), name="x", digest=DIGEST, requirement=Requirement(works=("a",))
    ).predicate

    assert ("FAILED", ["a"], ["c", "e"], ["b"]) == (
        predicate["result"],
        predicate["passedTests"],
        predicate["warnedTests"],
        predicate["failedTests"],
    )
    assert SUITE[7:] == predicate["configuration"][0]["digest"]["sha256"]


def test_the_verdict_holds_the_policy_for_this_image_alone() -> None:
    found = verdict_of(all_statements()[-1])

    assert ("verified", "demo", "sm_120", SUITE) == (found.level, found.image, found.target, found.suite)
    assert {"demo": {"sm_120"}} == {image: set(targets) for image, targets in found.policy.images.items()}
    assert {sha256_of(dump(record)) for record in both(DIGEST)} == set(found.records)


def test_the_bill_of_materials_is_cyclonedx() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = cyclonedx(LOCK)
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))

    assert found is None, found
    assert document["components"][0]["purl"] == "pkg:pypi/torch@2.8.0%2Bcu128?file_name=torch-2.8.0%2Bcu128.whl"
    assert bill_of_materials(LOCK, name="x", digest=DIGEST).predicate == document


@pytest.mark.parametrize("signed", [False, True])
def test_packages_open_again(tmp_path: Path, signed: bool) -> None:
    for statement in all_statements():
        bundle = KeySigner(key_pair(tmp_path)[0]).sign(statement.raw) if signed else None
        made = package(statement, SUBJECT, bundle=bundle, created=NOW)

        assert (statement, bundle) == unpack(made.manifest, made.blob, subject=DIGEST)
        assert len(evidence_tag(DIGEST, made.manifest.digest)) <= 128


def test_large_evidence_is_packed_and_small_is_plain() -> None:
    made = [
        package(record_statement(text, name="x", digest=DIGEST), SUBJECT, bundle=None, created=NOW)
        for text in (dump(both(DIGEST)[0]), dump(both(DIGEST)[0]) + b" " * 50_000)
    ]

    assert [PAYLOAD, PAYLOAD + "+gzip"] == [one.manifest.layers[0].media_type for one in made]
    assert len(made[1].blob) < 5_000
    assert {PAYLOAD} == {one.manifest.artifact_type for one in made}


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"plain", "is not the gzip"),
        (gzip.compress(b"x" * 9000)[:-9], "cut short"),
        (gzip.compress(bytes(BLOB_LIMIT + 1)), "bytes unpacked"),
    ],
)
def test_packed_evidence_that_cannot_be_unpacked_is_refused(blob: bytes, said: str) -> None:
    layer = Descriptor(media_type=PAYLOAD + "+gzip", digest=sha256_of(blob), size=len(blob))
    manifest = artifact(artifact_type=PAYLOAD, layer=layer, subject=SUBJECT, annotations={})

    with pytest.raises(EvidenceError, match=said):
        unpack(manifest, blob, subject=DIGEST)


def test_an_artifact_about_something_else_is_refused() -> None:
    statement = all_statements()[0]
    other = Descriptor(media_type=MANIFEST, digest="sha256:" + "e" * 64, size=7)
    made = package(statement, other, bundle=None, created=NOW)

    with pytest.raises(EvidenceError, match="is not about"):
        unpack(made.manifest, made.blob, subject=DIGEST)
    with pytest.raises(EvidenceError, match="to which it is attached"):
        unpack(made.manifest, made.blob, subject=other.digest)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["subject", "digest", "sha256", "_type", "predicate", "predicateType"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_malformed_leaks_another_error(raw: bytes) -> None:
    for read in (Statement.parse, open_bundle):
        with pytest.raises(EvidenceError):
            read(raw)


# Signatures


def test_a_signature_holds_for_its_key_alone(tmp_path: Path) -> None:
    secret, public = key_pair(tmp_path)
    bundle = KeySigner(secret).sign(b"{}")

    assert (KeyVerifier([public]).signer(bundle) or "").startswith("key.pub")
    assert KeyVerifier([key_pair(tmp_path, "other")[1]]).signer(bundle) is None
    assert KeyVerifier([]).signer(bundle) is None


def test_a_changed_payload_under_a_known_key_is_an_error(tmp_path: Path) -> None:
    secret, public = key_pair(tmp_path)
    signer = KeySigner(secret)
    _, signatures = open_bundle(signer.sign(b'{"a": 1}'))
    hint = json.loads(signer.sign(b""))["verificationMaterial"]["publicKey"]["hint"]
    forged = make_bundle(b'{"a": 2}', [("", signatures[0])], hint=hint)

    with pytest.raises(EvidenceError, match="does not hold"):
        KeyVerifier([public]).signer(forged)


def test_keys_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = tmp_path / "rsa.pem"
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"-----BEGIN SECRET-----")

    with pytest.raises(ToolError, match="rsa keys cannot"):
        KeySigner(path)
    with pytest.raises(ToolError, match="not a PEM private key") as caught:
        KeySigner(garbage)
    assert "BEGIN SECRET" not in str(caught.value)
    with pytest.raises(ToolError, match="not a PEM public key"):
        KeyVerifier([garbage])


@pytest.mark.timeout(30)
def test_a_key_that_never_ends_is_not_a_key() -> None:
    endless = Path("/dev/zero")

    with pytest.raises(ToolError, match="not a PEM public key"):
        KeyVerifier([endless])
    with pytest.raises(ToolError, match="not a PEM private key"):
        KeySigner(endless)


def test_an_encrypted_key_takes_its_password_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    path = tmp_path / "locked.pem"
    key = ed25519.Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")))
    with pytest.raises(ToolError, match="password"):
        KeySigner(path)
    monkeypatch.setenv("ASSAY_KEY_PASSWORD", "pw")

    assert open_bundle(KeySigner(path).sign(b"x"))[0] == b"x"


# What lies on this machine


def test_an_edited_record_file_is_found_out(tmp_path: Path) -> None:
    records, committed = tmp_path / "build_logs" / "records", tmp_path / "docs" / "records" / "sm_120"
    records.mkdir(parents=True)
    committed.mkdir(parents=True)
    record = probe(DIGEST, features={"cuda-graphs": "wrong"})
    path = records / file_name(record)
    path.write_bytes(dump(record))
    for folder in (records, committed):
        (folder / file_name(audit(DIGEST))).write_bytes(dump(audit(DIGEST)))
    (records / "broken.json").write_bytes(b"{")
    before = {one.name: one.intact for one in KeptRecords(tmp_path)}
    path.write_bytes(dump(record).replace(b'"wrong"', b'"works"'))
    after = {one.name: one.intact for one in KeptRecords(tmp_path)}

    assert [True, True] == list(before.values())
    assert after[path.name] is False
    assert sorted(after.values()) == [False, True]


def entry(**changes: Any) -> Transition:
    return Transition(
        **{
            "when": datetime(2026, 1, 1, tzinfo=UTC),
            "phase": "done",
            "repository": "r/x",
            "tag": "t",
            "old": None,
            "new": DIGEST,
            "level": "verified",
            "target": None,
            **changes,
        }
    )


def test_the_journal_outlives_a_half_written_line(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.append(entry())
    with (tmp_path / "publish.jsonl").open("ab") as file:
        file.write(b'{"when": "2026-')
    journal.append(entry(reason="second"))
    journal.append(entry(tag="other"))

    assert ["", "second"] == [one.reason for one in journal.read("r/x", "t")]
    assert [] == list(FileJournal(tmp_path / "nothing").read("r/x", "t"))


def test_a_revocation_says_why() -> None:
    statement = revocation(name="x", digest=DIGEST, reason="wrong numbers", when=NOW)

    assert (ArtifactKind.REVOCATION, "wrong numbers") == (statement.predicate_type, statement.predicate["reason"])
