"""Verifies a reference from the registry alone: its digest, its evidence, the signatures, the policy, the age."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from assay.errors import EvidenceError, RegistryError
from assay.evidence import Kind, Verdict, record_of, verdict_of
from assay.flows.attach import Collected, Piece, collect
from assay.model.policy import Level, Policy, Signatures, alias_of
from assay.oci import Descriptor
from assay.policy import Judgement, Reason, Why, judge
from assay.ports.registry import Registry
from assay.ports.signing import Verifier
from assay.record import Record
from assay.reference import Reference

__all__ = ["ALIAS", "Verification", "document", "judge_pieces", "judgement_document", "verify"]

ALIAS: Final = re.compile(r"sm([0-9]{2,3}[a-z]?)-([a-z][a-z0-9]*)")
"""A moving tag: target and level."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What can be said of a reference."""

    reference: Reference
    subject: Descriptor
    judgements: tuple[Judgement, ...]
    """One for each level and target that was looked at."""
    pieces: tuple[Piece, ...]
    """All evidence that could be read."""
    reasons: tuple[Reason, ...]
    """What stands against the digest as a whole."""

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
) -> Verification:
    """Verify what a reference names now.

    Args:
        level: only this level; None means what an alias promises by its name, or every level with a verdict.
        target: only this architecture; None likewise.
        policy: judge by this policy's level of the same name; None judges by what the publisher's verdict names.
        suite: digest of the probe suite that counts; None takes the publisher's.

    Raises:
        RegistryError: the registry failed, or there is nothing under that name.
    """
    subject = registry.resolve(reference.repository, reference.key)
    if subject is None:
        raise RegistryError(f"there is no {reference}", hint="is the name right, and may you read that repository?")
    collected = collect(registry, reference.repository, subject.digest, verifier)
    promised = ALIAS.fullmatch(reference.tag or "")
    if promised and not reference.digest:
        target = target or f"sm_{promised[1]}"
        level = level or promised[2]
    judgements, reasons = judge_pieces(
        collected,
        subject.digest,
        verifier=verifier,
        level=level,
        target=target,
        policy=policy,
        suite=suite,
        now=now,
    )
    return Verification(
        reference=reference, subject=subject, judgements=judgements, pieces=collected.pieces, reasons=reasons
    )


def judge_pieces(
    collected: Collected,
    digest: str,
    *,
    verifier: Verifier,
    level: str | None,
    target: str | None,
    policy: Policy | None,
    suite: str | None,
    now: datetime,
) -> tuple[tuple[Judgement, ...], tuple[Reason, ...]]:
    """Judge a digest by its evidence; return a judgement per level and target, and what stands against it at all."""
    reasons = list(collected.problems)
    # Whoever says that something must not be used is believed without a signature: the error is on the safe side.
    reasons += _revocations(collected.pieces)
    usable = list(collected.pieces)
    records, verdicts, problems = _read(usable)
    wanted = _wanted(verdicts, level, target)
    required = verifier.trusts_anyone if policy is None else False
    if required or any(_level(verdict, policy).signatures is Signatures.REQUIRED for verdict in wanted):
        usable = [piece for piece in collected.pieces if piece.signer]
        records, verdicts, problems = _read(usable)
        wanted = _wanted(verdicts, level, target)
        if not wanted and (dropped := len(collected.pieces) - len(usable)):
            strangers = sum(piece.bundle is not None and piece.signer is None for piece in collected.pieces)
            message = (
                f"signatures are asked for, and {dropped} of {len(collected.pieces)} statements have none that counts "
                f"({strangers} signed by unknown keys, {dropped - strangers} not signed)"
            )
            reasons.append(Reason(why=Why.UNSIGNED, message=message))
    reasons += problems
    if not wanted:
        what = " ".join(filter(None, [level, f"on {target}" if target else None])) or "anything"
        others = ", ".join(f"{alias_of(one.target, one.level)}" for one in verdicts)
        also = f"; it has been published as {others}" if others else ""
        message = f"no evidence says that {digest[:19]} was found {what}{also}"
        reasons.append(Reason(why=Why.NO_RECORD, message=message))
    judgements = {
        (verdict.level, verdict.target): judge(
            name=verdict.level,
            level=_level(verdict, policy),
            image=verdict.image,
            target=verdict.target,
            digest=digest,
            records=records,
            suite=suite or verdict.suite,
            now=now,
        )
        for verdict in wanted
    }
    return tuple(judgements[key] for key in sorted(judgements)), tuple(dict.fromkeys(reasons))


def _wanted(verdicts: Sequence[Verdict], level: str | None, target: str | None) -> list[Verdict]:
    return [one for one in verdicts if level in (None, one.level) and target in (None, one.target)]


def _level(verdict: Verdict, policy: Policy | None) -> Level:
    if policy is None:
        return verdict.policy
    # A level that the policy does not know promises nothing here.
    return policy.levels.get(verdict.level, Level.model_construct(images={}))


def _revocations(pieces: Iterable[Piece]) -> list[Reason]:
    return [
        Reason(
            why=Why.REVOKED,
            message=f"revoked at {said.get('when', '?')}: {said.get('reason', '?')}",
        )
        for piece in pieces
        if piece.statement.predicate_type == Kind.REVOCATION and (said := piece.statement.predicate) is not None
    ]


def _read(pieces: Sequence[Piece]) -> tuple[list[Record], list[Verdict], list[Reason]]:
    records: list[Record] = []
    verdicts: list[Verdict] = []
    problems: list[Reason] = []
    for piece in pieces:
        try:
            if piece.statement.predicate_type == Kind.RECORD:
                records.append(record_of(piece.statement)[0])
            elif piece.statement.predicate_type == Kind.VERDICT:
                verdicts.append(verdict_of(piece.statement))
        except EvidenceError as error:
            problems.append(Reason(why=Why.EVIDENCE, message=error.message))
    return records, verdicts, problems


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
        "reasons": [{"why": str(reason.why), "message": reason.message} for reason in seen.reasons],
        "judgements": [judgement_document(one) for one in seen.judgements],
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


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as it stands in JSON documents."""
    newest = judgement.probes[-1] if judgement.probes else None
    return {
        "level": judgement.level,
        "basis": str(judgement.basis),
        "image": judgement.image,
        "target": judgement.target,
        "ok": judgement.ok,
        "features": [
            {
                "feature": line.feature,
                "outcome": str(line.outcome),
                "wanted": [str(outcome) for outcome in line.wanted],
                "ok": line.ok,
                "reason": line.reason,
                "measured": line.measured.isoformat() if line.measured else None,
            }
            for line in judgement.features
        ],
        "devices": sorted({device.name for record in judgement.probes for device in record.devices}),
        "measured": newest.created.isoformat() if newest else None,
        "audit": str(judgement.audit.verdict) if judgement.audit else None,
        "reasons": [{"why": str(reason.why), "message": reason.message} for reason in judgement.reasons],
    }
