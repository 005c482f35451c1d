"""Verifies a reference from the registry alone: its digest, its evidence, the signatures, the policy, the age."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from assay.errors import RegistryError
from assay.evidence.judging import Demand, Verification, judge_evidence
from assay.evidence.oci import INDEXES
from assay.evidence.policy import JudgementDocument, Reason
from assay.evidence.reference import Reference, Repository
from assay.evidence.tagnames import ALIAS
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.policy import Policy
from assay.pipeline.collect import collect
from assay.pipeline.image_platforms import for_platform
from assay.ports.registry import Registry
from assay.ports.signing import Verifier

__all__ = ["VerifyDocument", "document", "verify"]


class EvidencePiece(Value):
    """One statement that the registry has about the image."""

    kind: str
    """Its predicate type."""
    statement: str
    """Digest of its exact bytes."""
    manifest: str
    """Digest of the artifact that attaches it."""
    signed: bool
    signer: str | None
    """Who signed it; None if nobody known did."""


class VerifyDocument(Value):
    """Whether an image is what its tag promises."""

    version: Literal[1] = 1
    reference: str
    digest: str
    ok: bool
    standing: Literal["attested", "recorded", "none"]
    """`attested`: all evidence is signed by someone known; `recorded`: there is evidence; `none`: there is none."""
    signers: tuple[str, ...]
    pull: str
    """The command that pulls exactly what was verified."""
    notes: tuple[str, ...]
    """What stands against nothing."""
    reasons: tuple[Reason, ...]
    """What stands against the digest, whatever the level and GPU."""
    judgements: tuple[JudgementDocument, ...]
    """One for each level and GPU."""
    evidence: tuple[EvidencePiece, ...]


def verify(
    reference: Reference,
    *,
    registry: Registry,
    verifier: Verifier,
    level: str | None,
    target: str | None,
    policy: Policy | None,
    suite: str | None,
    now: datetime,
    signed: bool = False,
    published_as: Repository | None = None,
    platform: Platform | None = None,
    otherwise: Platform | None = None,
) -> Verification:
    """Verify what a reference names now; `Demand` says what the other parameters ask.

    Args:
        platform: verify the image for this platform, where the reference names an index.
        otherwise: the platform of an index that has no evidence of its own, where none is asked for.

    Raises:
        RegistryError: the registry failed, or there is nothing under that name, or nothing for the platform.
    """
    subject = registry.resolve(reference.repository, reference.key)
    if subject is None:
        raise _not_there(registry, reference)
    collected = collect(registry, reference.repository, subject.digest, verifier)
    if platform is None and subject.media_type in INDEXES and not collected.pieces:
        platform = otherwise
    if platform is not None:
        whole = subject.digest
        subject = for_platform(registry, reference, platform)
        if subject.digest != whole:
            # The tag names all platforms; what was published has its own name, and its own evidence.
            reference = Reference(repository=reference.repository, digest=subject.digest)
            collected = collect(registry, reference.repository, subject.digest, verifier)
    asked = Demand(
        level=level,
        target=target,
        published_as=published_as,
        policy=policy,
        suite=suite,
        now=now,
        trusted=verifier.trusts_anyone,
        signed=signed,
        platform=platform,
    )
    return judge_evidence(reference, subject, collected, asked)


def _not_there(registry: Registry, reference: Reference) -> RegistryError:
    there = [tag for tag in registry.tags(reference.repository) if not tag.startswith("sha256-")]
    # Aliases first: they are what people ask for.
    there.sort(key=lambda tag: ALIAS.fullmatch(tag) is None)
    known = f"it has: {', '.join(there[:6])}{', ...' if len(there) > 6 else ''}" if there else None
    return RegistryError(
        f"there is no {reference}", hint=known or "check the name, and that you may read the repository"
    )


def document(seen: Verification) -> VerifyDocument:
    """Return a verification as the JSON document of `assay verify`, for programs that gate on it."""
    pieces = (
        EvidencePiece(
            kind=piece.statement.predicate_type,
            statement=piece.statement.digest,
            manifest=piece.manifest,
            signed=piece.bundle is not None,
            signer=piece.signer,
        )
        for piece in seen.pieces
    )
    return VerifyDocument(
        reference=str(seen.reference),
        digest=seen.subject.digest,
        ok=seen.ok,
        standing="attested" if seen.attested else "recorded" if seen.pieces else "none",
        signers=seen.signers,
        pull=seen.pull,
        notes=seen.notes,
        reasons=seen.reasons,
        judgements=tuple(one.document() for one in seen.judgements),
        evidence=tuple(pieces),
    )
