"""Evidence: statements about one image digest, as exact bytes, and how they are attached to it.

A statement is in-toto's (https://in-toto.io/Statement/v1). Unsigned it is attached as it is and is called recorded;
signed it travels in a Sigstore bundle (cosign's BUNDLE_SPEC.md) and is called attested. Nothing is serialised twice:
what was signed are the bytes that are kept.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError

from assay.errors import EvidenceError, StoreError
from assay.evidence.bundles import BLOB_LIMIT, BUNDLE, ITEM_LIMIT, PAYLOAD, bundle_hint, make_bundle, open_bundle
from assay.evidence.oci import Descriptor, Manifest, artifact
from assay.evidence.policy import PolicyJudgement
from assay.evidence.record import AnyRecord, KeptRecord, ProbeRecord, Record, dump, parse
from assay.evidence.sbom import CYCLONEDX, cyclonedx
from assay.foundation.digest import DIGEST, sha256_of
from assay.foundation.foreign import ForeignError, read_json
from assay.foundation.outcome import Outcome
from assay.matrix.lock import Lock
from assay.matrix.policy import Level, Requirement

__all__ = [
    "BLOB_LIMIT",
    "BUNDLE",
    "PAYLOAD",
    "ArtifactKind",
    "EvidenceVerdict",
    "Package",
    "Statement",
    "audit_report",
    "bill_of_materials",
    "bundle_hint",
    "count_values",
    "evidence_tag",
    "evidence_tag_prefix",
    "make_bundle",
    "open_bundle",
    "package",
    "record_of",
    "record_statement",
    "revocation",
    "statements_of",
    "test_result",
    "unpack",
    "verdict",
    "verdict_of",
    "void",
    "voided",
]

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROMISE: Final = re.compile(r"sm_[0-9]{2,3}[a-z]?-[a-z][a-z0-9]{0,39}")
"""Target and level, as verdicts name them."""
DIGEST_NOTE: Final = "assay.statement"
"""Annotation of the artifact: digest of the statement's bytes, so that nobody attaches the same twice."""
PACKED: Final = "+gzip"
"""Ending of the media type of a packed blob, as layers have it; cosign 3 unpacks it by itself (measured)."""
PACK_FROM: Final = 2048
"""Bytes from which a blob is packed: below, a plain one is worth more to whoever looks at it by hand."""


class ArtifactKind(StrEnum):
    """The predicate types that assay attaches."""

    TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
    RECORD = "urn:assay:record:v1"
    """The exact bytes of a record."""
    AUDIT_REPORT = "urn:assay:audit-report:v1"
    SBOM = CYCLONEDX
    VERDICT = "urn:assay:verdict:v1"
    """Which level the publisher found met, by which records."""
    REVOCATION = "urn:assay:revocation:v1"
    VOID = "urn:assay:void:v1"
    """Names tags of evidence that a registry half wrote, and that were never acknowledged to anyone."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The exact bytes of a statement, and what they say."""

    raw: bytes
    subjects: tuple[str, ...]
    """Digests, `sha256:...`."""
    names: tuple[str, ...]
    """What the subjects are called: the repository that the publisher speaks of; empty where none is named."""
    predicate_type: str
    predicate: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes) -> Statement:
        """Read a statement.

        Raises:
            EvidenceError: the bytes are not an in-toto statement.
        """
        try:
            value = read_json(raw, limit=BLOB_LIMIT, items=ITEM_LIMIT)
            subjects = tuple("sha256:" + entry["digest"]["sha256"] for entry in value["subject"])
            names = tuple(str(entry["name"]) for entry in value["subject"] if "name" in entry)
            kind, predicate_type, predicate = value["_type"], value["predicateType"], value["predicate"]
        except ForeignError as error:
            raise EvidenceError(f"{sha256_of(raw)} is not an in-toto statement: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"{sha256_of(raw)} is not an in-toto statement") from error
        if kind != STATEMENT or not isinstance(predicate_type, str) or not isinstance(predicate, dict) or not subjects:
            raise EvidenceError(f"{sha256_of(raw)} is not an in-toto statement of version 1")
        if not all(DIGEST.fullmatch(subject) for subject in subjects):
            raise EvidenceError(f"{sha256_of(raw)} names a subject without a sha256 digest")
        return cls(raw=raw, subjects=subjects, names=names, predicate_type=predicate_type, predicate=predicate)

    @classmethod
    def make(cls, kind: ArtifactKind, *, name: str, digest: str, predicate: Mapping[str, Any]) -> Statement:
        """Return a statement about one digest; equal values give equal bytes."""
        value = {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": str(kind),
            "predicate": predicate,
        }
        return cls.parse(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())

    @property
    def digest(self) -> str:
        """Digest of the exact bytes."""
        return sha256_of(self.raw)


def count_values(text: bytes) -> int:
    """Return about how many values a JSON text has: never fewer, some more where its strings hold such signs."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


# What is said


def record_statement(text: bytes, *, name: str, digest: str) -> Statement:
    """Return the statement that holds a record: the text of its file, and the digest of that."""
    predicate = {"digest": sha256_of(text), "text": text.decode()}
    return Statement.make(ArtifactKind.RECORD, name=name, digest=digest, predicate=predicate)


def record_of(statement: Statement) -> tuple[AnyRecord, bytes]:
    """Return the record in a statement, and its exact text.

    Raises:
        EvidenceError: the statement holds no record, or its text is not what its digest says.
    """
    text, said = statement.predicate.get("text"), statement.predicate.get("digest")
    if statement.predicate_type != ArtifactKind.RECORD or not isinstance(text, str):
        raise EvidenceError(f"{statement.digest} holds no record")
    if len(text) > BLOB_LIMIT or count_values(text.encode()) > ITEM_LIMIT:
        raise EvidenceError(f"the record in {statement.digest[:19]} is larger than any that assay writes")
    if sha256_of(text.encode()) != said:
        raise EvidenceError(f"the record in {statement.digest[:19]} was edited: its text does not hash to {said}")
    try:
        return parse(text.encode(), source=f"the record in {statement.digest[:19]}"), text.encode()
    except StoreError as error:
        raise EvidenceError(error.message) from error


def test_result(record: ProbeRecord, text: bytes, *, name: str, digest: str, requirement: Requirement) -> Statement:
    """Return the test-result statement of a record: which features passed, by what they were tested.

    Source: in-toto attestation framework, spec/predicates/test-result.md. `result` speaks of all tests that ran, the
    verdict of what the policy asked for; a feature that did not run stands in no list.
    """
    by = {outcome: sorted(f for f, r in record.features.items() if r.outcome is outcome) for outcome in Outcome}
    failed = sorted(by[Outcome.BROKEN] + by[Outcome.WRONG])
    warned = sorted(by[Outcome.DEGRADED] + by[Outcome.UNSUPPORTED] + by[Outcome.INCONCLUSIVE])
    configuration: list[dict[str, Any]] = [
        {"name": "probe-suite", "digest": {"sha256": record.suite_digest.removeprefix("sha256:")}},
        {"name": "record", "digest": {"sha256": sha256_of(text).removeprefix("sha256:")}},
    ]
    if record.lock_digest:
        configuration.append({"name": "lock", "digest": {"sha256": record.lock_digest.removeprefix("sha256:")}})
    configuration.append(
        {
            "name": "device",
            "annotations": {
                "targets": ",".join(sorted({device.target for device in record.devices})),
                "devices": ", ".join(device.name for device in record.devices),
                "required": ",".join(requirement.features),
            },
        }
    )
    predicate = {
        "result": "FAILED" if failed else "WARNED" if warned else "PASSED",
        "configuration": configuration,
        "passedTests": by[Outcome.WORKS],
        "warnedTests": warned,
        "failedTests": failed,
    }
    return Statement.make(ArtifactKind.TEST_RESULT, name=name, digest=digest, predicate=predicate)


def bill_of_materials(lock: Lock, *, name: str, digest: str) -> Statement:
    """Return the lock as a CycloneDX statement."""
    return Statement.make(ArtifactKind.SBOM, name=name, digest=digest, predicate=cyclonedx(lock))


def audit_report(report: bytes, *, name: str, digest: str) -> Statement:
    """Return the audit's own document as a statement, exact bytes kept.

    It is long (some 170 KB for a serving image) and packs 1:10, hence gzip in base64.
    """
    packed = base64.b64encode(gzip.compress(report, mtime=0)).decode()
    predicate = {"digest": sha256_of(report), "encoding": "gzip+base64", "data": packed}
    return Statement.make(ArtifactKind.AUDIT_REPORT, name=name, digest=digest, predicate=predicate)


@dataclass(frozen=True, kw_only=True)
class EvidenceVerdict:
    """What a publisher found: this level is met, by these records."""

    repositories: tuple[str, ...]
    """Where it was published, as the publisher says."""
    level: str
    policy: Level
    """The level as it was then, cut down to this image and target."""
    image: str
    cell: str
    target: str
    suite: str | None
    records: tuple[str, ...]
    """Digests of the records that counted."""


def verdict(
    judgement: PolicyJudgement,
    level: Level,
    *,
    cell: str,
    suite: str | None,
    name: str,
    records: Iterable[bytes],
) -> Statement:
    """Return the statement that a level is met; it holds the policy, so that anyone can judge again.

    Args:
        records: the exact bytes of the records that counted.
    """
    images = {judgement.image: {judgement.target: judgement.requirement}} if level.images else {}
    predicate = {
        "level": judgement.level,
        "policy": level.model_copy(update={"images": images}).model_dump(mode="json"),
        "image": judgement.image,
        "cell": cell,
        "target": judgement.target,
        # Where nothing ran, a newer suite changes nothing.
        "suite": suite if judgement.probes else None,
        "records": sorted(map(sha256_of, records)),
        "features": {line.feature: str(line.outcome) for line in judgement.features},
    }
    return Statement.make(ArtifactKind.VERDICT, name=name, digest=judgement.digest, predicate=predicate)


def verdict_of(statement: Statement) -> EvidenceVerdict:
    """Return the verdict in a statement.

    Raises:
        EvidenceError: the statement holds none that can be read.
    """
    said = statement.predicate
    try:
        found = EvidenceVerdict(
            repositories=statement.names,
            level=str(said["level"]),
            policy=Level.model_validate(said["policy"]),
            image=str(said["image"]),
            cell=str(said["cell"]),
            target=str(said["target"]),
            suite=None if said["suite"] is None else str(said["suite"]),
            records=tuple(str(entry) for entry in said["records"]),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise EvidenceError(
            f"the verdict {statement.digest[:19]} cannot be read: {where}: {first['msg'][:120]}"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"the verdict {statement.digest[:19]} cannot be read") from error
    if not PROMISE.fullmatch(f"{found.target}-{found.level}"):
        raise EvidenceError(f"the verdict {statement.digest[:19]} names no level or target that a tag can promise")
    return found


def revocation(*, name: str, digest: str, reason: str, when: datetime) -> Statement:
    """Return the statement that a digest is not to be used any more, and why."""
    predicate = {"reason": reason, "when": when.isoformat()}
    return Statement.make(ArtifactKind.REVOCATION, name=name, digest=digest, predicate=predicate)


def void(*, name: str, digest: str, tags: Sequence[str]) -> Statement:
    """Return the statement that tags of evidence were half written and name nothing that was ever acknowledged."""
    return Statement.make(ArtifactKind.VOID, name=name, digest=digest, predicate={"tags": sorted(tags)})


def voided(statement: Statement) -> frozenset[str]:
    """Return the tags that a statement lists as half written."""
    tags = statement.predicate.get("tags") if statement.predicate_type == ArtifactKind.VOID else None
    return frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()


def statements_of(
    judgements: Iterable[PolicyJudgement],
    level: Level,
    *,
    cell: str,
    suite: str | None,
    name: str,
    lock: Lock | None,
    report: bytes | None,
    kept: Sequence[KeptRecord] = (),
) -> list[Statement]:
    """Return everything that is attached to a digest that met a level, each statement once.

    Args:
        kept: records as their files hold them: the bytes of a file are attached as they are.
    """
    found: list[Statement] = []
    for judgement in judgements:
        digest = judgement.digest
        texts = [_text(record, kept) for record in judgement.records]
        for probe, text in zip(judgement.probes, texts, strict=False):
            found.append(record_statement(text, name=name, digest=digest))
            found.append(test_result(probe, text, name=name, digest=digest, requirement=judgement.requirement))
        if judgement.audit:
            found.append(record_statement(texts[-1], name=name, digest=digest))
        if report is not None:
            found.append(audit_report(report, name=name, digest=digest))
        if lock is not None:
            found.append(bill_of_materials(lock, name=name, digest=digest))
        found.append(verdict(judgement, level, cell=cell, suite=suite, name=name, records=texts))
    return list({statement.raw: statement for statement in found}.values())


def _text(record: Record, kept: Iterable[KeptRecord]) -> bytes:
    return next((one.raw for one in kept if one.record is record), None) or dump(record)


# How it travels


@dataclass(frozen=True, kw_only=True)
class Package:
    """An artifact manifest and its one blob."""

    manifest: Manifest
    blob: bytes
    tag: str
    """The tag that it holds for itself where the registry keeps no list of referrers."""


def package(statement: Statement, subject: Descriptor, *, bundle: bytes | None, created: datetime) -> Package:
    """Return the artifact that attaches a statement (signed, if a bundle is given) to its subject."""
    blob = statement.raw if bundle is None else bundle
    kind = PAYLOAD if bundle is None else BUNDLE
    ending = "intoto.json" if bundle is None else "sigstore.json"
    packed = len(blob) >= PACK_FROM
    if packed:
        blob, ending = gzip.compress(blob, mtime=0), f"{ending}.gz"
    digest = sha256_of(blob)
    annotations = {
        "org.opencontainers.image.created": created.isoformat().replace("+00:00", "Z"),
        DIGEST_NOTE: statement.digest,
    }
    if bundle is None:
        annotations["in-toto.io/predicate-type"] = statement.predicate_type
    else:
        annotations["dev.sigstore.bundle.content"] = "dsse-envelope"
        annotations["dev.sigstore.bundle.predicateType"] = statement.predicate_type
    layer = Descriptor(
        media_type=kind + PACKED if packed else kind,
        digest=digest,
        size=len(blob),
        annotations={"org.opencontainers.image.title": f"{digest.replace(':', '-')}.{ending}"},
    )
    manifest = artifact(artifact_type=kind, layer=layer, subject=subject, annotations=annotations)
    return Package(manifest=manifest, blob=blob, tag=evidence_tag(subject.digest, manifest.digest))


def unpack(manifest: Manifest, blob: bytes, *, subject: str, limit: int = BLOB_LIMIT) -> tuple[Statement, bytes | None]:
    """Return the statement of an artifact, and the bundle that signs it if there is one.

    Args:
        limit: bytes that it may have unpacked.

    Raises:
        EvidenceError: the artifact or its statement is about another digest, or holds no statement.
    """
    if manifest.subject is None or manifest.subject.digest != subject:
        raise EvidenceError(f"the artifact {manifest.digest[:19]} is not about {subject[:19]}")
    if manifest.layers[0].media_type.endswith(PACKED):
        blob = _unpacked(blob, manifest.digest, min(limit, BLOB_LIMIT))
    bundle = blob if manifest.artifact_type == BUNDLE else None
    statement = Statement.parse(blob if bundle is None else open_bundle(bundle)[0])
    if subject not in statement.subjects:
        raise EvidenceError(
            f"the statement {statement.digest[:19]} is about {statement.subjects[0][:19]}, not about {subject[:19]}, "
            "to which it is attached"
        )
    return statement, bundle


def _unpacked(blob: bytes, manifest: str, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        found = stream.decompress(blob, limit)
    except zlib.error as error:
        raise EvidenceError(f"the evidence {manifest[:19]} is not the gzip that it says it is") from error
    if not stream.eof:
        raise EvidenceError(f"the evidence {manifest[:19]} is cut short, or has more than {limit} bytes unpacked")
    return found


def evidence_tag_prefix(subject: str) -> str:
    """Return what the tags of all evidence of a digest begin with."""
    return subject.replace(":", "-") + ".assay-"


def evidence_tag(subject: str, manifest: str) -> str:
    """Return the tag that one piece of evidence holds for itself.

    The index under the fallback tag is one document that many write, and no registry of today lets them take turns (of
    eight writers, seven were lost). A tag of one's own can be lost to nobody, keeps the registry's garbage collection
    away, and lets the index be made anew at any time.
    """
    return evidence_tag_prefix(subject) + manifest.removeprefix("sha256:")[:40]
