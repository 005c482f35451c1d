"""What assay publishes is an ordinary image with ordinary evidence: other programs read it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from platform_tools import FAMILY, MEMBERS, publish_platform
from publish_tools import NOW, SUITE, both, candidate, gear, key_pair, policy, publish
from registry_tools import put_image, real_registry

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.host.process import run
from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry, connect
from assay.adapters.signing.cosign import CosignSigner, CosignVerifier
from assay.adapters.signing.dsse import KeyVerifier
from assay.evidence.judging import Verification
from assay.evidence.oci import Manifest
from assay.evidence.policy import Why
from assay.evidence.record import dump
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import ArtifactKind, Statement, record_of
from assay.foundation.platforms import Platform
from assay.pipeline.publishing.candidate import Promise, stage
from assay.pipeline.publishing.joining import join
from assay.pipeline.verify import verify

pytestmark = pytest.mark.registry

ALIAS = "sm120-verified"
COSIGN = ["--insecure-ignore-tlog=true", "--allow-http-registry"]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program} on PATH")


def has_cosign_3() -> bool:
    """Whether there is a cosign that signs a given statement and reads bundles without Sigstore's public roots."""
    if shutil.which("cosign") is None:
        return False
    return "--statement" in run(["cosign", "attest-blob", "--help"], check=False, merge=True, timeout=60).text


needs_cosign = pytest.mark.skipif(not has_cosign_3(), reason="needs cosign 3 on PATH")


@dataclass(frozen=True)
class Published:
    host: str
    image: Manifest
    registry: HttpRegistry
    public: Path
    folder: Path

    @property
    def release(self) -> Repository:
        return Repository(host=self.host, path="team/demo")

    @property
    def alias(self) -> str:
        return self.release.tagged(ALIAS)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("interop")
    with real_registry(folder / "registry") as host:
        registry = connect(credentials=Anonymous())
        image = put_image(registry, Repository(host=host, path="team/staging/demo"), "key")
        key = key_pair(folder)
        publish(candidate(), policy(host), both, gear(registry, folder, key=key))
        yield Published(host, image, registry, key[1], folder)


@needs("skopeo")
def test_skopeo_reads_and_copies_it(published: Published) -> None:
    told = json.loads(run(["skopeo", "inspect", "--tls-verify=false", f"docker://{published.alias}"]).stdout)
    target = published.folder / "copy"
    run(
        [
            "skopeo",
            "copy",
            "--insecure-policy",
            "--src-tls-verify=false",
            f"docker://{published.alias}",
            f"dir:{target}",
        ]
    )

    assert published.image.digest == told["Digest"]
    assert published.image.raw == (target / "manifest.json").read_bytes()


@needs("oras")
def test_oras_lists_the_evidence(published: Published) -> None:
    told = json.loads(run(["oras", "discover", "--plain-http", "--format", "json", published.alias]).stdout)
    # Before oras 1.3 the list had another name.
    listed = told.get("referrers") or told["manifests"]
    found = {entry["annotations"]["dev.sigstore.bundle.predicateType"] for entry in listed}

    assert {str(kind) for kind in ArtifactKind if kind not in (ArtifactKind.REVOCATION, ArtifactKind.VOID)} == found


@needs_cosign
@pytest.mark.parametrize(
    "kind", [kind for kind in ArtifactKind if kind not in (ArtifactKind.REVOCATION, ArtifactKind.VOID)]
)
def test_cosign_verifies_each_statement(published: Published, kind: ArtifactKind) -> None:
    reference = published.release.at(published.image.digest)
    told = run(
        ["cosign", "verify-attestation", "--key", published.public, *COSIGN, "--type", str(kind), reference],
        timeout=60,
    ).text
    statements = [Statement.parse(base64.b64decode(json.loads(line)["payload"])) for line in told.splitlines()]

    assert statements
    assert {str(kind)} == {statement.predicate_type for statement in statements}
    if kind is ArtifactKind.RECORD:
        assert {dump(record) for record in both(published.image.digest)} == {record_of(one)[1] for one in statements}


@needs_cosign
def test_cosign_refuses_another_key(published: Published) -> None:
    stranger = key_pair(published.folder, "stranger")[1]
    done = run(
        [
            "cosign",
            "verify-attestation",
            "--key",
            stranger,
            *COSIGN,
            "--type",
            str(ArtifactKind.VERDICT),
            published.release.at(published.image.digest),
        ],
        timeout=60,
        check=False,
    )

    assert done.returncode != 0


@needs_cosign
def test_cosign_signs_and_assay_verifies(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    run(["cosign", "generate-key-pair"], cwd=tmp_path, timeout=60)
    signer = CosignSigner(str(tmp_path / "cosign.key"))
    verifier = KeyVerifier([tmp_path / "cosign.pub"])
    tools = gear(published.registry, tmp_path, signer=signer, verifier=verifier)
    publish(candidate(), policy(published.host), both, tools)
    seen = verify(
        Reference.parse(published.alias),
        registry=published.registry,
        verifier=verifier,
        level=None,
        target=None,
        policy=None,
        suite=SUITE,
        now=NOW,
    )

    assert seen.ok
    assert [name.split()[0] for name in seen.signers] == ["cosign.pub"]


IDENTITY, ISSUER = "publisher@issuer.test", "https://issuer.test"


class CertificateSigner:
    """Signs through cosign as Fulcio has it: a short-lived certificate with an identity, from an authority of our own.

    What is missing of the real thing are the public logs: nothing here can be written into them.
    """

    name = "a certificate"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0
        now = datetime.now(UTC)
        authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])

        def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder(subject_name=subject, issuer_name=name, public_key=key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(minutes=5))
                .not_valid_after(now + timedelta(minutes=30))
            )

        def usage(*, leaf: bool) -> x509.KeyUsage:
            return x509.KeyUsage(leaf, False, False, False, False, not leaf, not leaf, False, False)

        root = (
            certificate(name, authority)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(leaf=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
            .sign(authority, hashes.SHA256())
        )
        # The issuer's place in Fulcio's certificates, a UTF8String (fulcio, docs/oid-info.md).
        issuer = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), bytes([12, len(ISSUER)]) + ISSUER.encode()
        )
        leaf = (
            certificate(x509.Name([]), own)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(IDENTITY)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(usage(leaf=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
            .add_extension(issuer, critical=False)
            .sign(authority, hashes.SHA256())
        )
        for file, made in (("root.pem", root), ("leaf.pem", leaf)):
            (folder / file).write_bytes(made.public_bytes(Encoding.PEM))
        (folder / "own.pem").write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._cosign("import-key-pair", "--yes", "--key", "own.pem", "--output-key-prefix", "own")
        fulcio = f"url={ISSUER},certificate-chain=root.pem"
        nothing = [f"--no-default-{service}" for service in ("fulcio", "rekor", "ctfe", "tsa")]
        self._cosign("trusted-root", "create", *nothing, "--fulcio", fulcio, "--out", "trusted.json")

    @property
    def trust(self) -> list[str]:
        """What a verifier needs besides the identity."""
        return ["--trusted-root", str(self.folder / "trusted.json"), "--insecure-ignore-sct", "--insecure-ignore-tlog"]

    def _cosign(self, *argv: str) -> None:
        run(["cosign", *argv], cwd=self.folder, env={"COSIGN_PASSWORD": ""}, timeout=60)

    def sign(self, statement: bytes) -> bytes:
        self.asked += 1
        (self.folder / "statement.json").write_bytes(statement)
        local = ["--use-signing-config=false", "--tlog-upload=false", "--key", "own.key"]
        chain = ["--certificate", "leaf.pem", "--certificate-chain", "root.pem"]
        files = ["--statement", "statement.json", "--bundle", "bundle.json"]
        self._cosign("attest-blob", "--yes", *files, *local, *chain)
        return (self.folder / "bundle.json").read_bytes()


@needs_cosign
def test_an_identity_signs_and_assay_verifies(published: Published, tmp_path: Path) -> None:
    """Keyless but for the public logs: the identity in the certificate is what counts, for cosign and for assay."""
    signer = CertificateSigner(tmp_path)
    own = CosignVerifier(KeyVerifier([]), identity=IDENTITY, issuer=ISSUER, arguments=signer.trust)
    other = CosignVerifier(KeyVerifier([]), identity="else@issuer.test", issuer=ISSUER, arguments=signer.trust)
    logged = CosignVerifier(KeyVerifier([]), identity=IDENTITY, issuer=ISSUER, arguments=signer.trust[:3])
    put_image(published.registry, Repository(host=published.host, path="keyless/staging/demo"), "key")
    tools = gear(published.registry, tmp_path, signer=signer, verifier=own)
    for _ in range(2):
        publish(candidate(), policy(published.host, team="keyless"), both, tools)
    reference = Reference.parse(f"{published.host}/keyless/demo:{ALIAS}")

    def look(verifier: CosignVerifier) -> Verification:
        return verify(
            reference,
            registry=published.registry,
            verifier=verifier,
            level=None,
            target=None,
            policy=None,
            suite=SUITE,
            now=NOW,
        )

    seen, strange, unlogged = look(own), look(other), look(logged)
    who = ["--certificate-identity", IDENTITY, "--certificate-oidc-issuer", ISSUER, str(reference)]
    told = run(
        [
            "cosign",
            "verify-attestation",
            *signer.trust,
            "--allow-http-registry",
            "--type",
            str(ArtifactKind.VERDICT),
            *who,
        ],
        timeout=60,
    ).text

    assert seen.ok
    assert (f"{IDENTITY} ({ISSUER})",) == seen.signers
    assert len(seen.pieces) == signer.asked == 6
    assert "payload" in told
    assert not strange.ok
    assert {Why.UNSIGNED, Why.NO_RECORD} == {reason.why for reason in strange.reasons}
    # Without the log's word cosign refuses, and what it says is told.
    assert not unlogged.ok
    assert Why.EVIDENCE in {reason.why for reason in unlogged.reasons}


@pytest.mark.engine
def test_docker_pulls_it_by_digest(published: Published) -> None:
    engine = DockerEngine()
    reference = published.release.at(published.image.digest)
    try:
        found = engine.pull(reference)

        assert reference in found.repo_digests
    finally:
        engine.remove_image(reference, force=True)


@pytest.mark.engine
def test_an_image_of_the_engine_is_pushed_to_staging_and_published(published: Published, tmp_path: Path) -> None:
    """From the engine to a name: the digest of the push is the digest that is published."""
    engine = DockerEngine()
    local = f"assay-test/published:{os.getpid()}"
    source = published.release.at(published.image.digest)
    engine.pull(source)
    engine.tag(source, local)
    rules = policy(published.host, team="engine")
    what = candidate(local=local, staging_tag="content-key")
    try:
        subject = stage(what, rules, registry=published.registry, engine=engine)
        publish(what, rules, both, gear(published.registry, tmp_path))
        named = published.registry.resolve(Repository(host=published.host, path="engine/demo"), ALIAS)
    finally:
        for name in (local, source, f"{published.host}/engine/staging/demo:content-key"):
            engine.remove_image(name, force=True)

    assert named is not None
    assert subject.digest == named.digest


@needs("skopeo")
def test_two_platforms_under_one_tag_are_an_index_that_skopeo_reads(published: Published, tmp_path: Path) -> None:
    digests = {
        platform: publish_platform(published.registry, tmp_path, published.host, platform) for platform in Platform
    }
    promise = Promise(policy=policy(published.host), level="verified", suite=SUITE)
    tag = join(MEMBERS, promise, gear(published.registry, tmp_path))

    assert tag == f"{FAMILY}-multi"
    for platform, digest in digests.items():
        command = ["skopeo", "--override-arch", platform.architecture, "inspect", "--tls-verify=false", "--raw"]
        seen = run([*command, f"docker://{published.release}:{tag}"], timeout=60).text
        assert digest in seen
        config = run([*command[:-1], "--config", f"docker://{published.release}:{tag}"], timeout=60).text
        assert json.loads(config)["architecture"] == platform.architecture
