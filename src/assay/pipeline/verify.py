"""Verifies a reference from the registry alone: its digest, its evidence, the signatures, the policy, the age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from assay.errors import EvidenceError, RegistryError
from assay.evidence.oci import Descriptor
from assay.evidence.policy import PolicyJudgement, Reason, Why, judge
from assay.evidence.record import Record
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import ArtifactKind, EvidenceVerdict, record_of, verdict_of
from assay.foundation.digest import sha256_of
from assay.matrix.policy import Level, Policy, Signatures, alias_of, keeps_its_word, level_of
from assay.pipeline.attach import Collected, Piece, collect
from assay.pipeline.binding import ALIAS, BindingQuestion, bind
from assay.ports.registry import Registry
from assay.ports.signing import Verifier

__all__ = [
    "ALIAS",
    "BindingQuestion",
    "Judged",
    "Verification",
    "document",
    "judge_pieces",
    "judgement_document",
    "verify",
]


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
        there = [tag for tag in registry.tags(reference.repository) if not tag.startswith("sha256-")]
        # Aliases first: they are what people ask for.
        there.sort(key=lambda tag: ALIAS.fullmatch(tag) is None)
        known = f"it has: {', '.join(there[:6])}{', ...' if len(there) > 6 else ''}" if there else None
        raise RegistryError(
            f"there is no {reference}", hint=known or "is the name right, and may you read that repository?"
        )
    collected = collect(registry, reference.repository, subject.digest, verifier)
    found = judge_pieces(
        collected,
        subject.digest,
        asked=BindingQuestion(
            repository=reference.repository,
            level=level,
            target=target,
            tag=reference.tag,
            published_as=published_as,
        ),
        verifier=verifier,
        policy=policy,
        suite=suite,
        now=now,
        signed=signed,
    )
    return Verification(
        reference=reference,
        subject=subject,
        judgements=found.judgements,
        pieces=collected.pieces,
        reasons=found.reasons,
        notes=found.notes,
    )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What evidence says of a digest."""

    judgements: tuple[PolicyJudgement, ...]
    """One per level and target."""
    reasons: tuple[Reason, ...]
    """What stands against the digest at all."""
    notes: tuple[str, ...]
    verdicts: tuple[EvidenceVerdict, ...]
    """Those that were asked for and that hold for this repository and tag."""


def judge_pieces(
    collected: Collected,
    digest: str,
    *,
    asked: BindingQuestion,
    verifier: Verifier,
    policy: Policy | None,
    suite: str | None,
    now: datetime,
    signed: bool = False,
) -> Judged:
    """Judge a digest by its evidence."""
    reasons = list(collected.problems)
    # Whoever says that something must not be used is believed without a signature: the error is on the safe side.
    reasons += _revocations(collected.pieces)
    read = _read(collected.pieces)
    wanted = _wanted(read.verdicts, asked)
    required = signed or (policy is None and verifier.trusts_anyone)
    if required or any(_level(verdict, policy).signatures is Signatures.REQUIRED for verdict in wanted):
        usable = [piece for piece in collected.pieces if piece.signer]
        read = _read(usable)
        wanted = _wanted(read.verdicts, asked)
        if not wanted and len(usable) < len(collected.pieces):
            reasons.append(_unsigned(collected.pieces))
    reasons += read.problems
    if not wanted:
        reasons.append(_nothing_said(digest, read.verdicts, asked))
    wanted, strange, notes = bind(wanted, asked)
    reasons += strange
    groups: dict[tuple[str, str], list[EvidenceVerdict]] = {}
    for verdict in wanted:
        groups.setdefault((verdict.level, verdict.target), []).append(verdict)
    judgements = tuple(
        _newest(groups[key], read, digest, policy=policy, suite=suite, now=now) for key in sorted(groups)
    )
    if collected.left_alone:
        notes.append(f"{collected.left_alone} artifacts that others attached were left alone")
    return Judged(
        judgements=judgements, reasons=tuple(dict.fromkeys(reasons)), notes=tuple(notes), verdicts=tuple(wanted)
    )


def _unsigned(pieces: Sequence[Piece]) -> Reason:
    dropped = sum(piece.signer is None for piece in pieces)
    strangers = sum(piece.bundle is not None and piece.signer is None for piece in pieces)
    message = (
        f"signatures are asked for, and {dropped} of {len(pieces)} statements have none that counts "
        f"({strangers} signed by unknown keys, {dropped - strangers} not signed)"
    )
    return Reason(why=Why.UNSIGNED, message=message)


def _nothing_said(digest: str, verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> Reason:
    level, target = _promised(verdicts, asked)
    what = " ".join(filter(None, [level, f"on {target}" if target else None])) or "anything"
    others = ", ".join(dict.fromkeys(alias_of(one.target, one.level) for one in verdicts))
    also = f"; it has been published as {others}" if others else ""
    return Reason(why=Why.NO_RECORD, message=f"no evidence says that {digest[:19]} was found {what}{also}")


def _newest(
    verdicts: Sequence[EvidenceVerdict],
    read: _Read,
    digest: str,
    *,
    policy: Policy | None,
    suite: str | None,
    now: datetime,
) -> PolicyJudgement:
    """Judge by the verdict that rests on the newest record: an image is probed and published again as suites change.

    Two verdicts over the same records (the policy was changed between them) are two promises; one that is kept counts.
    """
    beginning = datetime.min.replace(tzinfo=UTC)

    def newest(verdict: EvidenceVerdict) -> datetime:
        return max((read.records[one].created for one in verdict.records if one in read.records), default=beginning)

    latest = max(newest(verdict) for verdict in verdicts)
    judgements = [
        _judge(verdict, read, digest, policy=policy, suite=suite, now=now)
        for verdict in verdicts
        if newest(verdict) == latest
    ]
    return next((one for one in judgements if one.ok), judgements[0])


def _judge(
    verdict: EvidenceVerdict, read: _Read, digest: str, *, policy: Policy | None, suite: str | None, now: datetime
) -> PolicyJudgement:
    found = judge(
        name=verdict.level,
        level=_level(verdict, policy),
        image=verdict.image,
        target=verdict.target,
        digest=digest,
        records=read.records.values(),
        suite=suite or verdict.suite,
        now=now,
    )
    reasons = list(found.reasons)
    if not keeps_its_word(verdict.level, found.basis):
        message = f"it is called {verdict.level}, and rests on an audit alone: nothing ran"
        reasons.append(Reason(why=Why.NO_PROMISE, message=message))
    gone = [one for one in verdict.records if one not in read.records]
    if gone:
        message = (
            f"{len(gone)} of the {len(verdict.records)} records that the verdict rests on cannot be had: "
            + ", ".join(one[:19] for one in gone[:5])
        )
        reasons.append(Reason(why=Why.EVIDENCE, message=message))
    return replace(found, reasons=tuple(reasons))


def _promised(verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> tuple[str | None, str | None]:
    """Return the level and target that are asked for, or else promised by a tag's name."""
    if asked.tag is None:
        return asked.level, asked.target
    alias = ALIAS.fullmatch(asked.tag)
    level = alias[2] if alias else level_of(asked.tag, (one.level for one in verdicts))
    return asked.level or level, asked.target or (f"sm_{alias[1]}" if alias else None)


def _wanted(verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> list[EvidenceVerdict]:
    level, target = _promised(verdicts, asked)
    return [one for one in verdicts if level in (None, one.level) and target in (None, one.target)]


def _level(verdict: EvidenceVerdict, policy: Policy | None) -> Level:
    if policy is None:
        return verdict.policy
    # A level that the policy does not know promises nothing here.
    return policy.levels.get(verdict.level, Level.model_construct(images={}))


def _revocations(pieces: Iterable[Piece]) -> list[Reason]:
    return [
        Reason(
            why=Why.REVOKED,
            message=f"revoked at {str(said.get('when', '?'))[:40]}: {str(said.get('reason', '?'))[:1000]}",
        )
        for piece in pieces
        if piece.statement.predicate_type == ArtifactKind.REVOCATION and (said := piece.statement.predicate) is not None
    ]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What statements say."""

    records: Mapping[str, Record]
    """By the digest of the exact text."""
    verdicts: tuple[EvidenceVerdict, ...]
    problems: tuple[Reason, ...]


def _read(pieces: Sequence[Piece]) -> _Read:
    records: dict[str, Record] = {}
    verdicts: list[EvidenceVerdict] = []
    problems: list[Reason] = []
    for piece in pieces:
        try:
            if piece.statement.predicate_type == ArtifactKind.RECORD:
                record, text = record_of(piece.statement)
                records[sha256_of(text)] = record
            elif piece.statement.predicate_type == ArtifactKind.VERDICT:
                verdicts.append(verdict_of(piece.statement))
        except EvidenceError as error:
            problems.append(Reason(why=Why.EVIDENCE, message=error.message))
    return _Read(records=records, verdicts=tuple(verdicts), problems=tuple(problems))


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


def judgement_document(judgement: PolicyJudgement) -> dict[str, Any]:
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
        "audit": str(judgement.audit.on(judgement.target)) if judgement.audit else None,
        "reasons": [{"why": str(reason.why), "message": reason.message} for reason in judgement.reasons],
    }
