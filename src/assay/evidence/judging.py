"""Judge the evidence of a digest: read it, select the relevant pieces, apply the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from assay.errors import EvidenceError
from assay.evidence.oci import Descriptor
from assay.evidence.policy import PolicyJudgement, Reason, Why, judge
from assay.evidence.record import AnyRecord
from assay.evidence.reference import Reference, Repository, is_loopback
from assay.evidence.statements import ArtifactKind, EvidenceVerdict, Statement, record_of, verdict_of
from assay.evidence.tagnames import ALIAS, is_cell_tag, names_cell
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.matrix.policy import Level, Policy, Signatures, alias_of, keeps_its_word, level_of

__all__ = ["Collected", "Demand", "Piece", "Verification", "judge_evidence"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One statement as the registry has it."""

    statement: Statement
    manifest: str
    """Digest of the artifact that attaches it."""
    bundle: bytes | None
    """What signs it; None for a statement that is only recorded."""
    signer: str | None
    """Who of the known signed it."""
    record: AnyRecord | None = None
    """The record that it holds."""
    record_digest: str | None = None
    """Digest of the record's exact text."""
    verdict: EvidenceVerdict | None = None
    """The verdict that it holds."""
    problem: Reason | None = None
    """Why the record or verdict in it cannot be read."""

    @classmethod
    def read(cls, statement: Statement, *, manifest: str, bundle: bytes | None, signer: str | None) -> Piece:
        """Return a piece with its parsed statement."""
        piece = cls(statement=statement, manifest=manifest, bundle=bundle, signer=signer)
        try:
            if statement.predicate_type == ArtifactKind.RECORD:
                record, text = record_of(statement)
                return replace(piece, record=record, record_digest=sha256_of(text))
            if statement.predicate_type == ArtifactKind.VERDICT:
                return replace(piece, verdict=verdict_of(statement))
        except EvidenceError as error:
            return replace(piece, problem=Reason(why=Why.EVIDENCE, message=error.message))
        return piece


@dataclass(frozen=True, kw_only=True)
class Collected:
    """All evidence of a digest."""

    native: bool
    """The registry keeps the list of referrers itself."""
    broken: tuple[str, ...]
    """Tags of evidence that cannot be read."""
    pieces: tuple[Piece, ...]
    problems: tuple[Reason, ...]
    """Evidence that is damaged, gone, or about something else."""
    left_alone: int = 0
    """Artifacts that others attached and that were not read, or say nothing that assay knows."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a reference has to meet, and what its evidence is judged by."""

    level: str | None = None
    """None asks for what a tag promises by its name, or, of a digest, every level with a verdict."""
    target: str | None = None
    """None asks for what an alias promises by its name, or all with a verdict."""
    published_as: Repository | None = None
    """The repository that the evidence must speak of; None: where it is read, or what that mirrors."""
    policy: Policy | None = None
    """Judge by this policy's level of the same name; None judges by what the publisher's verdict holds."""
    suite: str | None = None
    """Digest of the probe suite that counts; None takes the publisher's."""
    now: datetime
    trusted: bool
    """Some key or identity is known, so that evidence can be attested."""
    platform: Platform | None = None
    """Of the image that is verified; records of another say nothing about it. None where it is not known."""
    signed: bool = False
    """Only signed evidence counts, whatever the levels ask for."""

    def by(self, verdict: EvidenceVerdict) -> Level:
        """Return the level that a verdict is judged by."""
        if self.policy is None:
            return verdict.policy
        # A level that the policy does not have promises nothing here.
        return self.policy.levels.get(verdict.level, Level.model_construct(images={}))


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of the verification of a reference."""

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
    verdicts: tuple[EvidenceVerdict, ...] = ()
    """The publisher's verdicts that answer what was asked."""

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


def judge_evidence(reference: Reference, subject: Descriptor, collected: Collected, asked: Demand) -> Verification:
    """Judge what a reference names by its evidence."""
    pieces = collected.pieces
    # Whoever says that something must not be used is believed without a signature: the error is on the safe side.
    reasons = [*collected.problems, *_revocations(pieces)]
    wanted = _answering(_verdicts(pieces), reference, asked)
    required = asked.signed or (asked.policy is None and asked.trusted)
    if required or any(asked.by(verdict).signatures is Signatures.REQUIRED for verdict in wanted):
        pieces = tuple(piece for piece in pieces if piece.signer)
        wanted = _answering(_verdicts(pieces), reference, asked)
        if not wanted and len(pieces) < len(collected.pieces):
            reasons.append(_unsigned(collected.pieces))
    reasons += [piece.problem for piece in pieces if piece.problem]
    if not wanted:
        reasons.append(_nothing_said(subject.digest, _verdicts(pieces), reference, asked))
    wanted, strange, notes = _bind(wanted, reference, asked)
    reasons += strange
    records = {piece.record_digest: piece.record for piece in pieces if piece.record_digest and piece.record}
    groups: dict[tuple[str, str], list[EvidenceVerdict]] = {}
    for verdict in wanted:
        groups.setdefault((verdict.level, verdict.target), []).append(verdict)
    judgements = tuple(_newest(groups[key], records, subject.digest, asked) for key in sorted(groups))
    if collected.left_alone:
        notes.append(f"{collected.left_alone} artifacts that others attached were left alone")
    return Verification(
        reference=reference,
        subject=subject,
        judgements=judgements,
        pieces=collected.pieces,
        reasons=tuple(dict.fromkeys(reasons)),
        notes=tuple(notes),
        verdicts=tuple(wanted),
    )


def _promised(
    verdicts: Sequence[EvidenceVerdict], reference: Reference, asked: Demand
) -> tuple[str | None, str | None]:
    """Return the level and target that are asked for, or else promised by a tag's name."""
    if reference.tag is None:
        return asked.level, asked.target
    alias = ALIAS.fullmatch(reference.tag)
    level = alias[2] if alias else level_of(reference.tag, (one.level for one in verdicts))
    return asked.level or level, asked.target or (f"sm_{alias[1]}" if alias else None)


def _answering(verdicts: Sequence[EvidenceVerdict], reference: Reference, asked: Demand) -> list[EvidenceVerdict]:
    """Return the verdicts of the level and target that are asked for."""
    level, target = _promised(verdicts, reference, asked)
    return [one for one in verdicts if level in (None, one.level) and target in (None, one.target)]


def _verdicts(pieces: Iterable[Piece]) -> list[EvidenceVerdict]:
    return [piece.verdict for piece in pieces if piece.verdict]


def _bind(
    verdicts: Sequence[EvidenceVerdict], reference: Reference, asked: Demand
) -> tuple[list[EvidenceVerdict], list[Reason], list[str]]:
    """Return the verdicts that speak of this repository and, for a tag that names a cell, of that cell.

    Where verdicts are there and none does, all are returned with the reason that stands against them; last comes what
    is worth saying.
    """
    kept = list(verdicts)
    reasons: list[Reason] = []
    notes: list[str] = []
    tag, here = reference.tag, reference.repository
    if tag is not None and is_cell_tag(tag) and kept:
        same = [one for one in kept if names_cell(tag, one.cell, one.level, any_level=asked.level is not None)]
        if not same:
            cells = ", ".join(sorted({one.cell for one in kept})[:5])
            message = f"the tag {tag} is the name of a cell, and what it names was verified as another: {cells}"
            reasons.append(Reason(why=Why.OTHER_CELL, message=message))
        kept = same or kept
    if kept:
        home = [one for one in kept if any(_same_place(name, reference, asked) for name in one.repositories)]
        names = sorted({name for one in home or kept for name in one.repositories})
        if not home:
            message = (
                f"the evidence speaks of {', '.join(names[:3]) or 'no repository'}, not of {here}; if that "
                "is where it was published, and this is a copy, say so: --published-as HOST/PATH"
            )
            reasons.append(Reason(why=Why.OTHER_REPOSITORY, message=message))
        elif not any(_same_host(name, here) for name in names):
            notes.append(f"published as {names[0]}, read from {here}")
        kept = home or kept
    return kept, reasons, notes


def _same_place(name: str, reference: Reference, asked: Demand) -> bool:
    """Whether a statement's repository is the one that is asked, or may be what that mirrors: its path ends alike."""
    if asked.published_as is not None:
        return name == str(asked.published_as)
    path = name.partition("/")[2]
    return bool(path) and f"/{reference.repository.path}".endswith(f"/{path}")


def _same_host(name: str, repository: Repository) -> bool:
    host = name.partition("/")[0]
    return host == repository.host or (is_loopback(host) and is_loopback(repository.host))


def _revocations(pieces: Iterable[Piece]) -> list[Reason]:
    """Return a reason for each revocation."""
    said = (one.statement.predicate for one in pieces if one.statement.predicate_type == ArtifactKind.REVOCATION)
    return [
        Reason(
            why=Why.REVOKED,
            message=f"revoked at {str(one.get('when', '?'))[:40]}: {str(one.get('reason', '?'))[:1000]}",
        )
        for one in said
    ]


def _unsigned(pieces: Sequence[Piece]) -> Reason:
    dropped = sum(piece.signer is None for piece in pieces)
    strangers = sum(piece.bundle is not None and piece.signer is None for piece in pieces)
    message = (
        f"signatures are asked for, and {dropped} of {len(pieces)} statements have none that counts "
        f"({strangers} signed by unknown keys, {dropped - strangers} not signed)"
    )
    return Reason(why=Why.UNSIGNED, message=message)


def _nothing_said(digest: str, verdicts: Sequence[EvidenceVerdict], reference: Reference, asked: Demand) -> Reason:
    level, target = _promised(verdicts, reference, asked)
    what = " ".join(filter(None, [level, f"on {target}" if target else None])) or "anything"
    others = ", ".join(dict.fromkeys(alias_of(one.target, one.level) for one in verdicts))
    also = f"; it has been published as {others}" if others else ""
    return Reason(why=Why.NO_RECORD, message=f"no evidence says that {digest[:19]} was found {what}{also}")


def _newest(
    verdicts: Sequence[EvidenceVerdict], records: Mapping[str, AnyRecord], digest: str, asked: Demand
) -> PolicyJudgement:
    """Judge by the verdict that rests on the newest record: an image is probed and published again as suites change.

    Two verdicts over the same records (the policy was changed between them) are two promises; one that is kept counts.
    """
    beginning = datetime.min.replace(tzinfo=UTC)

    def newest(verdict: EvidenceVerdict) -> datetime:
        return max((records[one].created for one in verdict.records if one in records), default=beginning)

    latest = max(newest(verdict) for verdict in verdicts)
    judgements = [_judge(verdict, records, digest, asked) for verdict in verdicts if newest(verdict) == latest]
    return next((one for one in judgements if one.ok), judgements[0])


def _judge(verdict: EvidenceVerdict, records: Mapping[str, AnyRecord], digest: str, asked: Demand) -> PolicyJudgement:
    found = judge(
        name=verdict.level,
        level=asked.by(verdict),
        image=verdict.image,
        target=verdict.target,
        digest=digest,
        records=records.values(),
        suite=asked.suite or verdict.suite,
        now=asked.now,
        platform=asked.platform,
    )
    reasons = list(found.reasons)
    if not keeps_its_word(verdict.level, found.basis):
        message = f"it is called {verdict.level}, and rests on an audit alone: nothing ran"
        reasons.append(Reason(why=Why.NO_PROMISE, message=message))
    gone = [one for one in verdict.records if one not in records]
    if gone:
        message = (
            f"{len(gone)} of the {len(verdict.records)} records that the verdict is based on are missing: "
            + ", ".join(one[:19] for one in gone[:5])
        )
        reasons.append(Reason(why=Why.EVIDENCE, message=message))
    return replace(found, reasons=tuple(reasons))
