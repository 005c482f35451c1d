"""Verifies a reference from the registry alone: its digest, its evidence, the signatures, the policy, the age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from assay.errors import RegistryError
from assay.evidence.judging import BindingQuestion, Piece, Yardstick, judge_evidence
from assay.evidence.oci import Descriptor
from assay.evidence.policy import PolicyJudgement, Reason
from assay.evidence.reference import Reference, Repository
from assay.evidence.tagnames import ALIAS
from assay.matrix.policy import Policy
from assay.pipeline.collect import collect
from assay.ports.registry import Registry
from assay.ports.signing import Verifier

__all__ = ["Verification", "document", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What can be said of a reference."""

    reference: Reference
    subject: Descriptor
    judgements: tuple[PolicyJudgement, ...]
    """One for each level and target that was looked at."""
    pieces: tuple[Piece, ...]
    """All evidence that could be read."""
    reasons: tuple[Reason, ...]
    """What stands against the digest as a whole."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and stands against nothing."""

    @property
    def ok(self) -> bool:
        """Whether every promise that was looked at is kept."""
        return bool(self.judgements) and not self.reasons and all(judgement.ok for judgement in self.judgements)

    @property
    def signers(self) -> tuple[str, ...]:
        """Who attests the evidence; empty if it is only recorded."""
        return tuple(sorted({piece.signer for piece in self.pieces if piece.signer}))

    @property
    def attested(self) -> bool:
        """Whether every piece of evidence is signed by someone known; otherwise it is only recorded."""
        return bool(self.pieces) and all(piece.signer for piece in self.pieces)

    @property
    def pull(self) -> str:
        """The command that pulls exactly what was verified."""
        return f"docker pull {self.reference.repository.at(self.subject.digest)}"


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
) -> Verification:
    """Verify what a reference names now.

    Args:
        level: only this level; None means what a tag promises by its name, or, of a digest, every level with a verdict.
        target: only this architecture; None means what an alias promises by its name, or all with a verdict.
        policy: judge by this policy's level of the same name; None judges by what the publisher's verdict names.
        suite: digest of the probe suite that counts; None takes the publisher's.
        signed: only what someone known to the verifier signed counts, whatever the levels ask for.
        published_as: the repository that the evidence must speak of; None means the one that is asked.

    Raises:
        RegistryError: the registry failed, or there is nothing under that name.
    """
    subject = registry.resolve(reference.repository, reference.key)
    if subject is None:
        raise _not_there(registry, reference)
    collected = collect(registry, reference.repository, subject.digest, verifier)
    found = judge_evidence(
        collected,
        subject.digest,
        asked=BindingQuestion(
            repository=reference.repository,
            level=level,
            target=target,
            tag=reference.tag,
            published_as=published_as,
        ),
        by=Yardstick(policy=policy, suite=suite, now=now, trusted=verifier.trusts_anyone, signed=signed),
    )
    return Verification(
        reference=reference,
        subject=subject,
        judgements=found.judgements,
        pieces=collected.pieces,
        reasons=found.reasons,
        notes=found.notes,
    )


def _not_there(registry: Registry, reference: Reference) -> RegistryError:
    there = [tag for tag in registry.tags(reference.repository) if not tag.startswith("sha256-")]
    # Aliases first: they are what people ask for.
    there.sort(key=lambda tag: ALIAS.fullmatch(tag) is None)
    known = f"it has: {', '.join(there[:6])}{', ...' if len(there) > 6 else ''}" if there else None
    return RegistryError(
        f"there is no {reference}", hint=known or "is the name right, and may you read that repository?"
    )


def document(seen: Verification) -> dict[str, Any]:
    """Return a verification as the JSON document of `assay verify` (version 1), for programs that gate on it."""
    return {
        "version": 1,
        "reference": str(seen.reference),
        "digest": seen.subject.digest,
        "ok": seen.ok,
        "standing": "attested" if seen.attested else "recorded" if seen.pieces else "none",
        "signers": list(seen.signers),
        "pull": seen.pull,
        "notes": list(seen.notes),
        "reasons": [reason.document() for reason in seen.reasons],
        "judgements": [one.document() for one in seen.judgements],
        "evidence": [
            {
                "kind": piece.statement.predicate_type,
                "statement": piece.statement.digest,
                "manifest": piece.manifest,
                "signed": piece.bundle is not None,
                "signer": piece.signer,
            }
            for piece in seen.pieces
        ],
    }
