"""For tests and benchmarks of publishing: a policy, records of an image, and what is needed to publish it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from assay.adapters.files.journal import FileJournal
from assay.adapters.signing.dsse import KeySigner, KeyVerifier
from assay.evidence.judging import Verification
from assay.evidence.record import AnyRecord, AuditRecord, Device, FeatureResult, KeptRecord, ProbeRecord, dump
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.policy import Policy
from assay.pipeline.publishing.candidate import Candidate, Promise, stage
from assay.pipeline.publishing.execution import execute
from assay.pipeline.publishing.proposal import Proposal, judge_subject, propose
from assay.pipeline.publishing.tags import PublishPorts
from assay.ports.registry import Registry

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SUITE = "sha256:" + "5" * 64
CELL = "demo-cu128-torch2.8.0"
LOCK = Lock(
    cell=CELL,
    python="3.11",
    platform="x86_64-manylinux_2_36",
    requirements=("torch==2.8.0",),
    base="debian",
    wheels=(LockedWheel(name="torch", version="2.8.0+cu128", filename="torch-2.8.0+cu128.whl", sha256="ab" * 32),),
)


def policy(host: str, *, team: str = "team", **changes: Any) -> Policy:
    levels = {
        "verified": {
            "max_age_days": 30,
            "audit": "warn",
            "images": {"demo": {"sm_120": {"works": ["cuda-graphs"]}, "sm_90": {"works": ["cuda-graphs"]}}},
        },
        "audited": {"basis": "audit", "audit": "warn"},
    }
    return Policy.model_validate(
        {
            "repositories": {"staging": f"{host}/{team}/staging/{{image}}", "release": f"{host}/{team}/{{image}}"},
            "levels": levels,
            **changes,
        }
    )


def probe(digest: str, **changes: Any) -> ProbeRecord:
    features = changes.pop("features", {"cuda-graphs": "works", "marlin": "broken"})
    return ProbeRecord(
        **{
            "created": NOW - timedelta(days=1),
            "run": "run1",
            "cell": CELL,
            "image": "demo",
            "image_digest": digest,
            "suite_digest": SUITE,
            "executor": "docker",
            "devices": (Device(name="RTX 5090", capability=changes.pop("capability", "12.0"), memory_bytes=32 << 30),),
            "packages": {"torch": "2.8.0"},
            "features": {name: FeatureResult(outcome=Outcome(outcome)) for name, outcome in features.items()},
            **changes,
        }
    )


def audit(digest: str, **changes: Any) -> AuditRecord:
    return AuditRecord(
        **{
            "created": NOW - timedelta(days=1),
            "run": "run1",
            "cell": CELL,
            "image": "demo",
            "image_digest": digest,
            "subject": "image",
            "verdict": Verdict.OK,
            "targets": ("sm_90", "sm_120"),
            **changes,
        }
    )


def candidate(**changes: Any) -> Candidate:
    return Candidate(
        **{
            "cell": CELL,
            "tag": CELL,
            "image": "demo",
            "targets": ("sm_120",),
            "staging_tag": "key",
            "lock": LOCK,
            **changes,
        }
    )


def key_pair(folder: Path, name: str = "key", *, password: str | None = None) -> tuple[Path, Path]:
    """Write a new ECDSA P-256 key pair; return the private and the public file."""
    lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private = ec.generate_private_key(ec.SECP256R1())
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return secret, public


def gear(registry: Registry, folder: Path, *, key: tuple[Path, Path] | None = None, **changes: Any) -> PublishPorts:
    return PublishPorts(
        **{
            "registry": registry,
            "reader": registry,
            "journal": FileJournal(folder),
            "signer": KeySigner(key[0]) if key else None,
            "verifier": KeyVerifier([key[1]] if key else []),
            "clock": lambda: NOW,
            **changes,
        }
    )


def proposed(
    what: Candidate,
    rules: Policy,
    records: Callable[[str], Sequence[AnyRecord]],
    tools: PublishPorts,
    *,
    level: str = "verified",
    suite: str | None = SUITE,
    report: bytes | None = b'{"findings": []}\n',
) -> Proposal:
    """Propose what lies in staging; `records` makes them for a digest."""
    promise = Promise(policy=rules, level=level, suite=suite)
    subject = stage(what, rules, registry=tools.registry, engine=None)
    kept = [KeptRecord(record=one, raw=dump(one), name="record.json", intact=True) for one in records(subject.digest)]
    judged = judge_subject(subject, kept, promise, document=lambda _: None, now=tools.clock())
    return propose(replace(judged, report=report), tools)


def publish(
    what: Candidate, rules: Policy, records: Callable[[str], Sequence[AnyRecord]], tools: PublishPorts, **changes: Any
) -> Verification:
    """Publish what lies in staging, from the look to the tags."""
    return execute(proposed(what, rules, records, tools, **changes), tools)


def both(digest: str) -> list[ProbeRecord | AuditRecord]:
    """The records that the policy above asks for."""
    return [probe(digest), audit(digest)]
