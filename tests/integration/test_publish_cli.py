"""The commands themselves, on a copy of the project and a real registry: exit codes, documents, nothing leaked."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from publish_tools import key_pair
from python_image import write_server_image
from registry_tools import put_image, real_registry
from schema_tools import answers

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.probe_suite import digest_of_suite, load_suite
from assay.adapters.files.records import FileStore
from assay.adapters.host.process import run
from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry, connect
from assay.cli import main
from assay.errors import EvidenceError
from assay.evidence.oci import Manifest, artifact, fallback_tag, index_of
from assay.evidence.record import AuditRecord, BuildRecord, BuildStatus, Device, FeatureResult, ProbeRecord, now
from assay.evidence.reference import Repository
from assay.evidence.statements import open_bundle
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix import lockfile

pytestmark = pytest.mark.registry

IMAGE = "vllm-blackwell"
CELL = "vllm-blackwell-cu128-torch2.8.0-vllm0.11.0"
POLICY = """
policy:
  repositories:
    staging: {host}/staging/{{image}}
    release: {host}/release/{{image}}
  levels:
    verified:
      max_age_days: 90
      audit: warn
      signatures: {signatures}
      images:
        vllm-blackwell:
          sm_120: &works
            works: [torch-device, cuda-graphs]
            may_be_unsupported: [marlin]
          sm_90: *works
    audited:
      basis: audit
      audit: warn
  keys: {keys}
"""


@dataclass
class Site:
    folder: Path
    host: str
    registry: HttpRegistry
    capsys: pytest.CaptureFixture[str]
    image: Manifest

    def run(self, *argv: str) -> tuple[int, Any, str]:
        """Run a command line; return its code, its JSON document (or text), and what it told people."""
        code = main([*argv, "--project", str(self.folder)])
        out, err = self.capsys.readouterr()
        if "json" not in argv:
            return code, out, err
        document = json.loads(out)
        answers(document, *argv)
        return code, document, err

    def tag(self, name: str) -> str | None:
        found = self.registry.resolve(Repository(host=self.host, path=f"release/{IMAGE}"), name)
        return found.digest if found else None

    def policy(self, *, signatures: str = "optional", keys: str = "[]") -> None:
        path = self.folder / "matrix.yaml"
        text = path.read_text().partition("# What must be recorded of an image")[0].partition("\npolicy:")[0]
        path.write_text(text + POLICY.format(host=self.host, signatures=signatures, keys=keys))

    def beside(self) -> Path:
        """Return a second checkout, as on another machine: the same files, nothing of build_logs."""
        other = self.folder.with_name("with-the-card")
        shutil.copytree(self.folder, other, ignore=shutil.ignore_patterns("build_logs"))
        return other

    def fetch(self, other: Path) -> None:
        """Copy the records and documents of another checkout here, as the documentation says."""
        for name in ("records", "documents"):
            if (other / "build_logs" / name).is_dir():
                shutil.copytree(other / "build_logs" / name, self.folder / "build_logs" / name, dirs_exist_ok=True)

    def record(
        self, capability: str = "12.0", digest: str | None = None, suite: str | None = None, **features: str
    ) -> Path:
        """Keep an audit and, with features, a probe of the image."""
        store = FileStore(self.folder / "build_logs")
        moment = now() - timedelta(minutes=1)
        common: dict[str, Any] = {
            "created": moment,
            "run": "run1",
            "cell": CELL,
            "image": IMAGE,
            "image_digest": self.image.digest,
        }
        report = store.put_document(b'{"findings": []}\n')
        store.append(AuditRecord(**common, subject="image", verdict=Verdict.OK, targets=("sm_120",), report=report))
        if not features:
            return store.root
        own = digest_of_suite(load_suite(self.folder))
        assert own is not None
        return store.append(
            ProbeRecord(
                **{**common, "image_digest": digest or self.image.digest},
                suite_digest=suite or own,
                executor="docker",
                devices=(Device(name="NVIDIA GeForce RTX 5090", capability=capability, memory_bytes=32 << 30),),
                packages={},
                features={
                    name.replace("_", "-"): FeatureResult(outcome=Outcome(word)) for name, word in features.items()
                },
            )
        )


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry keeps what it has."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def host(disk: Path) -> Iterator[str]:
    with real_registry(disk) as found:
        yield found


@pytest.fixture
def site(
    root: Path, tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(root / "matrix.yaml", folder)
    for name in ("images", "templates"):
        shutil.copytree(root / name, folder / name)
    registry = connect(credentials=Anonymous())
    image = put_image(registry, Repository(host=host, path=f"staging/{IMAGE}"), CELL, content=str(tmp_path).encode())
    made = Site(folder, host, registry, capsys, image)
    made.policy()
    yield made
    release = Repository(host=host, path=f"release/{IMAGE}")
    for tag in registry.tags(release):
        if found := registry.resolve(release, tag):
            registry.delete_manifest(release, found.digest)


WORKS = {"torch_device": "works", "cuda_graphs": "works", "marlin": "unsupported"}


def test_nothing_measured_nothing_named(site: Site) -> None:
    code, document, said = site.run("publish", CELL, "--format", "json")

    assert code == 6
    assert document["cells"][0]["published"] is False
    assert "no probe ran on" in said
    assert site.tag("sm120-verified") is None


def test_a_registry_that_is_down_is_told_once_and_every_cell_is_named(site: Site) -> None:
    site.host = "127.0.0.1:1"
    site.policy()
    other = "vllm-blackwell-cu130-torch2.13.0-vllm0.32.0"
    code, _, said = site.run("publish", CELL, other, "--dry-run")

    assert 5 == code
    assert f"failed: {CELL}: " in said
    assert 1 == said.count("no registry answers at 127.0.0.1:1")
    assert f"failed: {CELL}: no registry" in said
    assert f"failed: {other}: the same" in said


def test_from_records_to_a_pull_command(site: Site) -> None:
    site.record(**WORKS)
    dry = site.run("publish", CELL, "--dry-run", "--format", "json")
    assert site.tag(CELL) is None
    code, document, _ = site.run("publish", CELL, "--format", "json")
    verified = site.run("verify", f"{site.host}/release/{IMAGE}:sm120-verified", "--format", "json")
    text = site.run("verify", f"{site.host}/release/{IMAGE}:{CELL}")

    assert (0, 0, 0, 0) == (dry[0], code, verified[0], text[0])
    assert [move["tag"] for move in dry[1]["cells"][0]["moves"]] == [CELL, "sm120-verified"]
    assert document["cells"][0]["published"] is True
    assert site.image.digest == site.tag(CELL) == site.tag("sm120-verified") == verified[1]["digest"]
    assert verified[1]["standing"] == "recorded"
    assert f"docker pull {site.host}/release/{IMAGE}@{site.image.digest}" in text[1]
    assert "recorded, but without a known signer" in text[2]


def test_an_edited_record_is_refused(site: Site) -> None:
    path = site.record(torch_device="works", cuda_graphs="wrong", marlin="works")
    path.write_bytes(path.read_bytes().replace(b'"wrong"', b'"works"'))
    code, document, said = site.run("publish", CELL, "--format", "json")

    assert code == 6
    assert "were edited after they were written" in said
    assert document["cells"][0]["refused"]
    assert site.tag(CELL) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"capability": "9.0"}, "was measured on NVIDIA GeForce RTX 5090 (sm_90), not on sm_120"),
        ({"digest": "sha256:" + "d" * 64}, "is about sha256:dddddddddddd, not about"),
        ({"suite": "sha256:" + "e" * 64}, "was made by the probe suite sha256:eeeeeeeeeeee; now it is"),
        ({"cuda_graphs": "degraded"}, "cuda-graphs must be works, and is degraded"),
    ],
)
def test_reference_to_other_content_is_refused(site: Site, changes: dict[str, str], expected: str) -> None:
    site.record(**{**WORKS, **changes})
    code, _, said = site.run("publish", CELL, "--target", "sm_120")

    assert code == 6
    assert expected in said
    assert site.tag(CELL) is None


def test_evidence_swapped_or_replayed_in_the_registry_is_refused(site: Site, disk: Path, tmp_path: Path) -> None:
    """By whoever may push to the release repository, or gets at its disk; each time with the reason."""
    secret, public = key_pair(tmp_path, "publisher")
    shutil.copy(public, site.folder)
    site.policy(signatures="required", keys="[publisher.pub]")
    site.record(**WORKS)
    assert site.run("publish", CELL, "--sign-key", str(secret))[0] == 0
    release = Repository(host=site.host, path=f"release/{IMAGE}")
    gate = ("verify", "--key", str(public), "--format", "json")
    listed, _ = site.registry.referrers(release, site.image.digest)
    pieces = [manifest for entry in listed if (manifest := site.registry.manifest(release, entry.digest)) is not None]

    # The genuine, signed evidence of this image hung on another one.
    victim = put_image(site.registry, release, "victim", content=b"never probed")
    replays = []
    for piece in pieces:
        assert piece.artifact_type is not None
        replay = artifact(
            artifact_type=piece.artifact_type,
            layer=piece.layers[0],
            subject=victim.descriptor,
            annotations=piece.annotations,
        )
        site.registry.put_manifest(release, replay.digest, replay)
        replays.append(replay.referrer)
    site.registry.put_manifest(release, fallback_tag(victim.digest), index_of(replays))
    replayed = site.run(*gate, release.tagged("victim"))

    # The signed statement that all works, put where another one was; then a byte of one changed on the disk.
    blob, other = (next(disk.rglob(f"blobs/sha256/*/{piece.layers[0].digest[7:]}/data")) for piece in pieces[:2])
    original = blob.read_bytes()
    codes = []
    for swapped in (other.read_bytes(), original[:-9] + bytes([original[-9] ^ 1]) + original[-8:]):
        blob.write_bytes(swapped)
        codes.append(site.run(*gate, release.tagged(CELL)))
    blob.write_bytes(original)
    whole = site.run(*gate, release.tagged(CELL))

    assert (6, 6, 6, 0) == (replayed[0], *(code for code, _, _ in codes), whole[0])
    for _, document, _ in [replayed, *codes]:
        assert "evidence" in {reason["why"] for reason in document["reasons"]}
    assert "not about" in json.dumps(replayed[1]["reasons"])
    assert "the registry sent bytes of" in json.dumps(codes[0][1]["reasons"])


def test_signed_and_gated_by_a_key(site: Site, tmp_path: Path) -> None:
    secret, public = key_pair(tmp_path, "publisher")
    shutil.copy(public, site.folder / "publisher.pub")
    site.policy(signatures="required", keys="[publisher.pub]")
    site.record(**WORKS)
    reference = f"{site.host}/release/{IMAGE}:sm120-verified"
    unsigned = site.run("publish", CELL)
    signed = site.run("publish", CELL, "--sign-key", str(secret))
    good = site.run("verify", reference, "--key", str(public), "--format", "json")
    bad = site.run("verify", reference, "--key", str(key_pair(tmp_path, "stranger")[1]), "--format", "json")
    own = site.run("verify", reference, "--own-policy", "--format", "json")

    (site.folder / "probes").mkdir()
    (site.folder / "probes" / "harness.py").write_text("a newer suite")
    newer = site.run("verify", reference, "--own-policy", "--format", "json")

    assert newer[0] == 6
    assert {reason["why"] for one in newer[1]["judgements"] for reason in one["reasons"]} == {"old-suite"}
    assert (6, 0, 0, 6, 0) == (unsigned[0], signed[0], good[0], bad[0], own[0])
    assert good[1]["standing"] == "attested"
    assert good[1]["signers"][0].startswith("publisher.pub")
    assert "unsigned" in {reason["why"] for reason in bad[1]["reasons"]}
    assert "PRIVATE" not in signed[2]


def test_the_record_of_another_machine_with_the_card(site: Site) -> None:
    """What a machine that has only the checkout and the registry measured, of the digest, on sm_90.

    The recipe is for sm_120 alone; the policy speaks of sm_90 too.
    """
    there = site.beside()
    reference = f"{site.host}/staging/{IMAGE}@{site.image.digest}"
    # As `assay probe REFERENCE` writes them: the cell is the reference, the image is not known.
    common: dict[str, Any] = {"created": now(), "run": "there", "cell": reference, "image_digest": site.image.digest}
    store, suite = FileStore(there / "build_logs"), digest_of_suite(load_suite(there))
    assert suite is not None
    store.append(AuditRecord(**common, image="", subject="image", verdict=Verdict.OK, targets=("sm_90", "sm_120")))
    store.append(
        ProbeRecord(
            **common,
            image="",
            suite_digest=suite,
            executor="docker",
            devices=(Device(name="NVIDIA H100 80GB HBM3", capability="9.0", memory_bytes=80 << 30),),
            packages={},
            features={name: FeatureResult(outcome=Outcome.WORKS) for name in ("torch-device", "cuda-graphs", "marlin")},
        )
    )
    before = site.run("publish", CELL)
    site.fetch(there)
    wrong = site.run("publish", CELL, "--target", "sm_120")
    code, document, said = site.run("publish", CELL, "--format", "json")

    assert (6, 6, 0) == (before[0], wrong[0], code)
    assert "was measured on NVIDIA H100 80GB HBM3 (sm_90), not on sm_120" in wrong[2]
    assert "not for sm_120" in said
    assert [CELL, "sm90-verified"] == [move["tag"] for move in document["cells"][0]["moves"]]
    assert site.image.digest == site.tag("sm90-verified")
    assert site.tag("sm120-verified") is None
    assert site.run("verify", f"{site.host}/release/{IMAGE}:sm90-verified")[0] == 0
    assert site.run("verify", f"{site.host}/release/{IMAGE}:{CELL}", "--target", "sm_120")[0] == 6


@pytest.mark.engine
def test_a_machine_without_the_card_proves_nothing(site: Site, tmp_path: Path) -> None:
    """The real harness in a real container of what staging has; there is no GPU, and its record says so."""
    engine = DockerEngine()
    (local,) = engine.load(write_server_image(tmp_path, version="0.5.14"))
    staged = f"{site.host}/staging/{IMAGE}:{CELL}"
    engine.tag(local, staged)
    digest = engine.push(staged)
    engine.remove_image(staged)
    there = site.beside()
    reference = f"{site.host}/staging/{IMAGE}@{digest}"
    try:
        engine.pull(reference)
        main(["probe", reference, "--gpus", "0", "--feature", "torch-device", "--project", str(there)])
    finally:
        for name in (reference, local):
            engine.remove_image(name, force=True)
    site.capsys.readouterr()
    site.fetch(there)
    (record,) = FileStore(site.folder / "build_logs").records(kind="probe")
    code, _, said = site.run("publish", CELL)

    assert isinstance(record, ProbeRecord)
    assert (digest, "docker", ()) == (record.image_digest, record.executor, record.devices)
    assert {Outcome.NOT_RUN} == {result.outcome for result in record.features.values()}
    assert code == 6
    assert "was measured on no GPU, not on sm_120" in said
    assert site.tag("sm120-verified") is None


def test_an_audit_alone(site: Site) -> None:
    site.record()

    assert site.run("publish", CELL, "--level", "audited")[0] == 0
    assert site.tag(f"{CELL}-audited") == site.tag("sm120-audited") == site.image.digest
    assert site.tag("sm120-verified") is None


def test_bill_of_materials_lists_the_built_wheels(site: Site) -> None:
    path = site.folder / "images" / IMAGE / "cells" / CELL / "lock.txt"
    lock = lockfile.parse(path.read_text(), file=str(path))
    FileStore(site.folder / "build_logs").append(
        BuildRecord(
            created=now(),
            run="run0",
            cell=CELL,
            image=IMAGE,
            status=BuildStatus.BUILT,
            content_key="sha256:" + "c" * 64,
            lock_digest=lockfile.lock_digest(lock),
        )
    )
    site.registry.put_manifest(Repository(host=site.host, path=f"staging/{IMAGE}"), "c" * 64, site.image)
    site.record(**WORKS)
    built = site.run("publish", CELL)
    seen = site.run("verify", f"{site.host}/release/{IMAGE}:{CELL}", "--format", "json")
    path.write_text(path.read_text().replace("--hash=sha256:0", "--hash=sha256:1"))
    changed = site.run("publish", CELL)

    assert (0, 6) == (built[0], changed[0])
    assert "https://cyclonedx.org/bom" in {piece["kind"] for piece in seen[1]["evidence"]}
    assert "the lock of" in changed[2]
    assert "changed since it was built" in changed[2]


def test_recommend_and_revoke(site: Site) -> None:
    site.record(**WORKS)
    site.run("publish", CELL)
    repository = f"{site.host}/release/{IMAGE}"
    need = ("recommend", "--target", "sm_120", "--have", repository, "--format", "json", "--need")
    found = site.run(*need, "cuda-graphs,torch-device")
    anywhere = site.run("recommend", "--target", "sm_120", "--have", site.host, "--format", "json")
    lacking = site.run(*need, "marlin")
    other = site.run("recommend", "--target", "sm_89", "--have", repository, "--format", "json")
    no_reason = site.run("publish", "--revoke", f"{repository}:sm120-verified")
    words = ("publish", "--revoke", f"{repository}:sm120-verified", "--reason", "bad", "--format", "json")
    dry = site.run(*words, "--dry-run")
    still = site.run("verify", f"{repository}:sm120-verified")
    revoked = site.run(*words)
    after = site.run("verify", f"{repository}:sm120-verified", "--format", "json")
    then = site.run(*need, "cuda-graphs")

    assert (0, 3, 3, 2, 0, 6, 3) == tuple(one[0] for one in (found, lacking, other, no_reason, revoked, after, then))
    assert (0, True, 0) == (dry[0], dry[1]["dry_run"], still[0])
    assert "a dry run: nothing was written" in dry[2]
    assert found[1]["offers"][0]["digest"] == site.image.digest
    assert found[1]["offers"][0]["levels"] == ["verified"]
    assert found[1]["offers"] == [{**one, "lacks": []} for one in anywhere[1]["offers"]]
    assert lacking[1]["offers"][0]["lacks"] == ["marlin"]
    assert revoked[1]["aliases"] == {"sm120-verified": None}
    assert {"revoked"} <= {reason["why"] for reason in after[1]["reasons"]}
    assert then[1]["offers"][0]["standing"] == "refused"


PASSWORD, KEY_PASSWORD = "s3cret-word", "an0ther-secret"
# bcrypt of the password, as `htpasswd -B` writes it.
HTPASSWD = "me:$2b$04$VzftenK1aEYr0s6DtJOzreIGtgtqjnNku6UN2uB8HwF6zgXjc3QxG\n"
SECRETS = tuple(
    secret.encode() for secret in (PASSWORD, KEY_PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode())
)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """Yield bytes and what is packed in them: gzip, and the statement in a bundle."""
    yield data
    with suppress(OSError, EOFError, zlib.error):
        data = gzip.decompress(data)
        yield data
    with suppress(EvidenceError):
        yield open_bundle(data)[0]


def _told(found: set[bytes], done: threading.Event) -> None:
    """Collect the command line of every process until done."""
    while not done.wait(0.003):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                found.add(path.read_bytes())


@pytest.mark.parametrize(
    "sign", ["key", pytest.param("cosign", marks=pytest.mark.skipif(not shutil.which("cosign"), reason="needs cosign"))]
)
def test_no_secret_is_shown(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """An account from a credential helper, a key with a password: nowhere in what is printed, kept or pushed."""
    with real_registry(tmp_path / "registry", htpasswd=HTPASSWD) as host:
        tools = tmp_path / "tools"
        tools.mkdir()
        helper = tools / "docker-credential-vault"
        helper.write_text(f'#!/bin/sh\nsleep 0.1; echo \'{{"Username": "me", "Secret": "{PASSWORD}"}}\'\n')
        helper.chmod(0o755)
        config = tmp_path / "docker"
        config.mkdir()
        (config / "config.json").write_text(json.dumps({"credHelpers": {host: "vault"}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(config))
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        for variable in ("ASSAY_KEY_PASSWORD", "COSIGN_PASSWORD"):
            monkeypatch.setenv(variable, KEY_PASSWORD)
        registry = connect()
        put_image(registry, Repository(host=host, path=f"staging/{IMAGE}"), CELL, content=str(tmp_path).encode())
        site.host = host
        if sign == "cosign":
            run(["cosign", "generate-key-pair"], cwd=tmp_path, timeout=60)
            options = ["--cosign-key", str(tmp_path / "cosign.key")]
            shutil.copy(tmp_path / "cosign.pub", site.folder / "publisher.pub")
        else:
            secret, public = key_pair(tmp_path, "publisher", password=KEY_PASSWORD)
            options = ["--sign-key", str(secret)]
            shutil.copy(public, site.folder)
        site.policy(signatures="required", keys="[publisher.pub]")
        site.record(**WORKS)
        listed: set[bytes] = set()
        done = threading.Event()
        watcher = threading.Thread(target=_told, args=(listed, done))
        watcher.start()
        try:
            command = [sys.executable, "-X", "dev", "-m", "assay", "publish", CELL, *options]
            ran = subprocess.run([*command, "--project", str(site.folder)], capture_output=True, check=False)
        finally:
            done.set()
            watcher.join()
    places = {
        "printed": [ran.stdout, ran.stderr],
        "kept": [path.read_bytes() for path in (site.folder / "build_logs").rglob("*") if path.is_file()],
        "pushed": [
            part
            for path in (tmp_path / "registry" / "data").rglob("*")
            if path.is_file()
            for part in _unpacked(path.read_bytes())
        ],
        "logged by the registry": [(tmp_path / "registry" / "registry.log").read_bytes()],
        "listed": list(listed),
    }

    assert ran.returncode == 0, ran.stderr.decode()
    assert any(b"docker-credential-vault" in line for line in listed)
    assert any(b"urn:assay:record:v1" in part for part in places["pushed"])
    assert {} == {
        place: secret for place, texts in places.items() for text in texts for secret in SECRETS if secret in text
    }


def test_missing_object_is_unknown(site: Site) -> None:
    assert site.run("verify", f"{site.host}/release/nothing:x")[0] == 5
    other = site.run("publish", "vllm-blackwell-cu130-torch2.13.0-vllm0.32.0")
    outside = site.run("publish", "vllm-openai-nightly")
    assert (6, 6) == (other[0], outside[0])
    assert "was not built here" in other[2]
    assert "is made elsewhere" in outside[2]
    assert site.run("verify", "Not A Reference")[0] == 2
    assert site.run("publish", CELL, "--level", "gold")[0] == 2
    assert site.run("publish", CELL, "--target", "sm_75")[0] == 2
    assert site.run("publish", CELL, "--cosign-keyless")[0] == 2
    assert site.run("verify", f"{site.host}/release/{IMAGE}:x", "--identity", "me@issuer.test")[0] == 2
