"""Judges what the evidence of a digest says: read it, keep what answers the question, judge that by the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from assay.errors import EvidenceError
from assay.evidence.policy import PolicyJudgement, Reason, Why, judge
from assay.evidence.record import AnyRecord
from assay.evidence.reference import Repository, is_loopback
from assay.evidence.statements import ArtifactKind, EvidenceVerdict, Statement, record_of, verdict_of
from assay.evidence.tagnames import ALIAS, is_cell_tag, names_cell
from assay.foundation.digest import sha256_of
from assay.matrix.policy import Level, Policy, Signatures, alias_of, keeps_its_word, level_of

__all__ = ["BindingQuestion", "Collected", "EvidenceJudgement", "Piece", "Yardstick", "judge_evidence"]


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
        """Return a piece with what its statement says."""
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
class BindingQuestion:
    """What is asked of a digest, and where."""

    repository: Repository
    level: str | None = None
    target: str | None = None
    tag: str | None = None
    """A tag's name is a promise of level, target and cell; None promises nothing."""
    published_as: Repository | None = None
    """Where the publisher put it; None: where it is asked for, or what that mirrors."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What evidence is judged by."""

    policy: Policy | None
    """None judges by the policy that the publisher's verdict holds."""
    suite: str | None
    """Digest of the probe suite that counts; None takes the publisher's."""
    now: datetime
    trusted: bool
    """Some key or identity is known, so that evidence can be attested."""
    signed: bool = False
    """Only signed evidence counts, whatever the levels ask for."""

    def level(self, verdict: EvidenceVerdict) -> Level:
        """Return the level that a verdict is judged by."""
        if self.policy is None:
            return verdict.policy
        # A level that the policy does not have promises nothing here.
        return self.policy.levels.get(verdict.level, Level.model_construct(images={}))


@dataclass(frozen=True, kw_only=True)
class EvidenceJudgement:
    """What evidence says of a digest."""

    judgements: tuple[PolicyJudgement, ...]
    """One per level and target."""
    reasons: tuple[Reason, ...]
    """What stands against the digest at all."""
    notes: tuple[str, ...]
    verdicts: tuple[EvidenceVerdict, ...]
    """Those that were asked for and that hold for this repository and tag."""


def judge_evidence(collected: Collected, digest: str, *, asked: BindingQuestion, by: Yardstick) -> EvidenceJudgement:
    """Judge a digest by its evidence."""
    pieces = collected.pieces
    # Whoever says that something must not be used is believed without a signature: the error is on the safe side.
    reasons = [*collected.problems, *_revocations(pieces)]
    wanted = _answering(_verdicts(pieces), asked)
    required = by.signed or (by.policy is None and by.trusted)
    if required or any(by.level(verdict).signatures is Signatures.REQUIRED for verdict in wanted):
        pieces = tuple(piece for piece in pieces if piece.signer)
        wanted = _answering(_verdicts(pieces), asked)
        if not wanted and len(pieces) < len(collected.pieces):
            reasons.append(_unsigned(collected.pieces))
    reasons += [piece.problem for piece in pieces if piece.problem]
    if not wanted:
        reasons.append(_nothing_said(digest, _verdicts(pieces), asked))
    wanted, strange, notes = _bind(wanted, asked)
    reasons += strange
    records = {piece.record_digest: piece.record for piece in pieces if piece.record_digest and piece.record}
    groups: dict[tuple[str, str], list[EvidenceVerdict]] = {}
    for verdict in wanted:
        groups.setdefault((verdict.level, verdict.target), []).append(verdict)
    judgements = tuple(_newest(groups[key], records, digest, by) for key in sorted(groups))
    if collected.left_alone:
        notes.append(f"{collected.left_alone} artifacts that others attached were left alone")
    return EvidenceJudgement(
        judgements=judgements, reasons=tuple(dict.fromkeys(reasons)), notes=tuple(notes), verdicts=tuple(wanted)
    )


def _promised(verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> tuple[str | None, str | None]:
    """Return the level and target that are asked for, or else promised by a tag's name."""
    if asked.tag is None:
        return asked.level, asked.target
    alias = ALIAS.fullmatch(asked.tag)
    level = alias[2] if alias else level_of(asked.tag, (one.level for one in verdicts))
    return asked.level or level, asked.target or (f"sm_{alias[1]}" if alias else None)


def _answering(verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> list[EvidenceVerdict]:
    """Return the verdicts of the level and target that are asked for."""
    level, target = _promised(verdicts, asked)
    return [one for one in verdicts if level in (None, one.level) and target in (None, one.target)]


def _verdicts(pieces: Iterable[Piece]) -> list[EvidenceVerdict]:
    return [piece.verdict for piece in pieces if piece.verdict]


def _bind(
    verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion
) -> tuple[list[EvidenceVerdict], list[Reason], list[str]]:
    """Return the verdicts that speak of this repository and, for a tag that names a cell, of that cell.

    Where verdicts are there and none does, all are returned with the reason that stands against them; last comes what
    is worth saying.
    """
    kept = list(verdicts)
    reasons: list[Reason] = []
    notes: list[str] = []
    if asked.tag is not None and is_cell_tag(asked.tag) and kept:
        same = [one for one in kept if names_cell(asked.tag, one.cell, one.level, any_level=asked.level is not None)]
        if not same:
            cells = ", ".join(sorted({one.cell for one in kept})[:5])
            message = f"the tag {asked.tag} is the name of a cell, and what it names was verified as another: {cells}"
            reasons.append(Reason(why=Why.OTHER_CELL, message=message))
        kept = same or kept
    if kept:
        home = [one for one in kept if any(_same_place(name, asked) for name in one.repositories)]
        names = sorted({name for one in home or kept for name in one.repositories})
        if not home:
            message = (
                f"the evidence speaks of {', '.join(names[:3]) or 'no repository'}, not of {asked.repository}; if that "
                "is where it was published, and this is a copy, say so: --published-as HOST/PATH"
            )
            reasons.append(Reason(why=Why.OTHER_REPOSITORY, message=message))
        elif not any(_same_host(name, asked.repository) for name in names):
            notes.append(f"published as {names[0]}, read from {asked.repository}")
        kept = home or kept
    return kept, reasons, notes


def _same_place(name: str, asked: BindingQuestion) -> bool:
    """Whether a statement's repository is the one that is asked, or may be what that mirrors: its path ends alike."""
    if asked.published_as is not None:
        return name == str(asked.published_as)
    path = name.partition("/")[2]
    return bool(path) and f"/{asked.repository.path}".endswith(f"/{path}")


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


def _nothing_said(digest: str, verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion) -> Reason:
    level, target = _promised(verdicts, asked)
    what = " ".join(filter(None, [level, f"on {target}" if target else None])) or "anything"
    others = ", ".join(dict.fromkeys(alias_of(one.target, one.level) for one in verdicts))
    also = f"; it has been published as {others}" if others else ""
    return Reason(why=Why.NO_RECORD, message=f"no evidence says that {digest[:19]} was found {what}{also}")


def _newest(
    verdicts: Sequence[EvidenceVerdict], records: Mapping[str, AnyRecord], digest: str, by: Yardstick
) -> PolicyJudgement:
    """Judge by the verdict that rests on the newest record: an image is probed and published again as suites change.

    Two verdicts over the same records (the policy was changed between them) are two promises; one that is kept counts.
    """
    beginning = datetime.min.replace(tzinfo=UTC)

    def newest(verdict: EvidenceVerdict) -> datetime:
        return max((records[one].created for one in verdict.records if one in records), default=beginning)

    latest = max(newest(verdict) for verdict in verdicts)
    judgements = [_judge(verdict, records, digest, by) for verdict in verdicts if newest(verdict) == latest]
    return next((one for one in judgements if one.ok), judgements[0])


def _judge(verdict: EvidenceVerdict, records: Mapping[str, AnyRecord], digest: str, by: Yardstick) -> PolicyJudgement:
    found = judge(
        name=verdict.level,
        level=by.level(verdict),
        image=verdict.image,
        target=verdict.target,
        digest=digest,
        records=records.values(),
        suite=by.suite or verdict.suite,
        now=by.now,
    )
    reasons = list(found.reasons)
    if not keeps_its_word(verdict.level, found.basis):
        message = f"it is called {verdict.level}, and rests on an audit alone: nothing ran"
        reasons.append(Reason(why=Why.NO_PROMISE, message=message))
    gone = [one for one in verdict.records if one not in records]
    if gone:
        message = (
            f"{len(gone)} of the {len(verdict.records)} records that the verdict rests on cannot be had: "
            + ", ".join(one[:19] for one in gone[:5])
        )
        reasons.append(Reason(why=Why.EVIDENCE, message=message))
    return replace(found, reasons=tuple(reasons))
