"""Whether and how it is published: what the records show of the subject, which tags would move, and why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from assay.errors import AssayError, PolicyRefused, UsageError
from assay.evidence.policy import JudgementDocument, PolicyJudgement, Reason, Why, judge
from assay.evidence.record import AuditRecord, KeptRecord, ProbeRecord
from assay.evidence.reference import is_loopback
from assay.foundation.strict import Value
from assay.matrix.policy import Signatures, alias_of, suffix_of
from assay.pipeline.publishing.candidate import Candidate, Promise, Subject
from assay.pipeline.publishing.tags import Move, PublishPorts, named
from assay.pipeline.revoke import revocations

__all__ = [
    "JudgedSubject",
    "Proposal",
    "ProposalDocument",
    "PublishDocument",
    "judge_subject",
    "propose",
    "unpublished",
]

PROBE_AGAIN: Final = frozenset(
    {
        Why.NO_RECORD,
        Why.OTHER_ARCHITECTURE,
        Why.OTHER_PLATFORM,
        Why.OTHER_DIGEST,
        Why.OUTSIDE_CONTAINER,
        Why.OLD_SUITE,
        Why.TOO_OLD,
        Why.FEATURE,
    }
)
"""What a new record may put right."""
AUDIT_AGAIN: Final = frozenset({Why.AUDIT, Why.TOO_OLD, Why.FROM_THE_FUTURE})


class TagMove(Value):
    """What becomes of one tag."""

    tag: str
    old: str | None
    """The digest that it names now."""
    new: str
    moving: bool
    """An alias may move; the other tags never do."""


class ProposalDocument(Value):
    """A cell that was judged, and published unless something stands against it."""

    cell: str
    ok: bool
    published: bool
    """False also with `--dry-run`."""
    digest: str
    staging: str
    """Where the image lies before it has a tag."""
    pull: str
    """Its reference by digest."""
    moves: tuple[TagMove, ...]
    judgements: tuple[JudgementDocument, ...]
    """One for each GPU."""
    reasons: tuple[Reason, ...]
    """What stands against the digest whatever the GPU."""


class RefusedCell(Value):
    """A cell that the policy refuses."""

    cell: str
    ok: Literal[False] = False
    published: Literal[False] = False
    refused: tuple[str, ...]
    """Every reason, in lines."""


class FailedCell(Value):
    """A cell whose registry failed."""

    cell: str
    ok: Literal[False] = False
    published: Literal[False] = False
    failed: tuple[str, ...]
    """The message, in lines."""


class PublishDocument(Value):
    """What was published, and what was not."""

    version: Literal[1] = 1
    level: str
    dry_run: bool
    cells: tuple[ProposalDocument | RefusedCell | FailedCell, ...]
    indexes: tuple[str, ...]
    """Tags that join the platforms of a cell."""


def unpublished(cell: str, error: AssayError) -> RefusedCell | FailedCell:
    """Return a cell that was refused, or whose registry failed, as it stands in a `PublishDocument`."""
    lines = tuple(error.message.splitlines())
    return (
        RefusedCell(cell=cell, refused=lines)
        if isinstance(error, PolicyRefused)
        else FailedCell(cell=cell, failed=lines)
    )


@dataclass(frozen=True, kw_only=True)
class JudgedSubject:
    """A subject with the level's judgement on each target."""

    subject: Subject
    promise: Promise
    judgements: tuple[PolicyJudgement, ...]
    """One for each target that the tags are to promise."""
    left_out: tuple[PolicyJudgement, ...] = ()
    """Those of targets without proof, where another target has one."""
    kept: tuple[KeptRecord, ...]
    """The records that it was judged by, with their exact bytes."""
    report: bytes | None
    """The audit's own document."""

    @property
    def complete(self) -> bool:
        """Whether every target that was asked for has its proof."""
        asked = self.subject.candidate.targets
        return all(one.ok for one in (*self.judgements, *self.left_out) if one.target in asked)


def judge_subject(
    subject: Subject,
    kept: Iterable[KeptRecord],
    promise: Promise,
    *,
    document: Callable[[str], bytes | None],
    now: datetime,
) -> JudgedSubject:
    """Judge a subject by the records at hand.

    Args:
        document: gives an audit's report by its digest.

    Raises:
        PolicyRefused: records of the subject were edited after they were written.
    """
    everything = list(kept)
    if edited := [one.name for one in everything if not one.intact and one.record.image_digest == subject.digest]:
        raise PolicyRefused(
            f"records of {subject.digest[:19]} were edited after they were written: {', '.join(edited)}",
            hint="a record is never changed; probe again, and keep the edited file elsewhere",
        )
    intact = tuple(one for one in everything if one.intact)
    report = _report(intact, subject.digest, document)
    asked, further = subject.candidate.targets, subject.candidate.if_measured
    more = [target for target in further or () if _was_measured(intact, subject.digest, target)]
    judgements = [
        judge(
            name=promise.level,
            level=promise.terms,
            image=subject.candidate.image,
            target=target,
            digest=subject.digest,
            records=[one.record for one in intact],
            suite=promise.suite,
            now=now,
            platform=subject.candidate.platform,
        )
        for target in dict.fromkeys([*asked, *more])
    ]
    proven = [one for one in judgements if one.ok] if further is not None else []
    return JudgedSubject(
        subject=subject,
        promise=promise,
        judgements=tuple(proven or judgements),
        left_out=tuple(one for one in judgements if proven and not one.ok),
        kept=intact,
        report=report,
    )


def _was_measured(kept: Iterable[KeptRecord], digest: str, target: str) -> bool:
    return any(
        isinstance(one.record, ProbeRecord)
        and one.record.image_digest == digest
        and {item.target for item in one.record.devices} == {target}
        for one in kept
    )


def _report(kept: Iterable[KeptRecord], digest: str, document: Callable[[str], bytes | None]) -> bytes | None:
    audits = [one.record for one in kept if isinstance(one.record, AuditRecord) and one.record.image_digest == digest]
    return document(audits[-1].report) if audits and audits[-1].report else None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """All moves of a publication, and all reasons against it."""

    judged: JudgedSubject
    moves: tuple[Move, ...]
    reasons: tuple[Reason, ...]
    """What stands against the digest whatever the target."""

    @property
    def ok(self) -> bool:
        """Whether the tags may be given."""
        return not self.reasons and all(judgement.ok for judgement in self.judged.judgements)

    def refuse(self) -> PolicyRefused:
        """Return the refusal with every reason."""
        subject = self.judged.subject
        lines = [f"{reason}" for reason in self.reasons]
        for judgement in self.judged.judgements:
            lines += [f"{judgement.target}: {reason}" for reason in judgement.reasons]
        return PolicyRefused(
            f"{subject.candidate.cell} ({subject.digest[:19]}) may not be called {self.judged.promise.level}:\n"
            + "\n".join(f"  {line}" for line in lines),
            hint=self._next(),
        )

    def _next(self) -> str | None:
        """Return the commands that produce missing evidence; None if only another image can help."""
        judgements, subject = self.judged.judgements, self.judged.subject
        whys = {reason.why for judgement in judgements for reason in judgement.reasons}
        targets = [judgement.target for judgement in judgements if not judgement.audit]
        audit = "".join(['assay audit --image "$I"', *(f" --target {target}" for target in targets)])
        steps = [audit] if whys & AUDIT_AGAIN and targets else []
        lacking = [one for one in judgements if not one.probes or any(r.why is Why.FEATURE for r in one.reasons)]
        probing = bool(whys & PROBE_AGAIN and lacking)
        steps += ['assay probe "$I"'] if probing else []
        if not steps:
            return None
        place = "on a machine with the card" if probing else "here"
        if probing and is_loopback(subject.staging.host):
            place += " (one that cannot reach this registry is sent the image first: docs/how-to/publish.md)"
        return (
            f'{place}: I={subject.staged}; docker pull "$I" && '
            + " && ".join(steps)
            + "; then publish again with its records"
        )

    def document(self, *, published: bool) -> ProposalDocument:
        """Return the proposal in its JSON form."""
        subject = self.judged.subject
        return ProposalDocument(
            cell=subject.candidate.cell,
            ok=self.ok,
            published=published and self.ok,
            digest=subject.digest,
            staging=subject.staged,
            pull=subject.pull,
            moves=tuple(TagMove(tag=one.tag, old=one.old, new=one.new, moving=one.moving) for one in self.moves),
            judgements=tuple(one.document() for one in self.judged.judgements),
            reasons=self.reasons,
        )


def propose(judged: JudgedSubject, ports: PublishPorts) -> Proposal:
    """Say what publishing would do; writes nothing.

    Raises:
        UsageError: a tag could be mistaken for one of another level.
        RegistryError: the registry failed.
    """
    subject, promise = judged.subject, judged.promise
    moves, taken = [], []
    for tag, target in _tags(judged):
        old = named(ports, subject.release, tag, new=subject.digest, moving=target is not None)
        move = Move(tag=tag, old=old, new=subject.digest, moving=target is not None, target=target)
        if old is not None and move.needed and not move.moving:
            message = (
                f"{subject.release.tagged(tag)} names {old[:19]} and never moves; "
                f"publish as a new revision: --revision {subject.candidate.revision + 1}"
            )
            taken.append(Reason(why=Why.OTHER_DIGEST, message=message))
        moves.append(move)
    reasons = revocations(ports, subject.release, subject.digest)
    if promise.terms.signatures is Signatures.REQUIRED and ports.signer is None:
        message = f"the level {promise.level!r} asks for signed evidence, and no key to sign with was given"
        reasons.append(Reason(why=Why.UNSIGNED, message=message))
    return Proposal(judged=judged, moves=tuple(moves), reasons=(*reasons, *taken))


def _tags(judged: JudgedSubject) -> list[tuple[str, str | None]]:
    """Return the tags of a subject: the immutable one, then an alias for each target."""
    promise = judged.promise
    own = _own_tag(judged.subject.candidate, promise)
    tags = [(own, None), *((alias_of(one.target, promise.level), one.target) for one in judged.judgements)]
    for tag, _ in tags:
        if len(tag) > 128:
            raise UsageError(f"the tag {tag} is longer than the 128 characters that a registry takes")
    return tags


def _own_tag(candidate: Candidate, promise: Promise) -> str:
    own = candidate.release_tag
    endings = {suffix_of(name) for name in promise.policy.levels} - {""}
    if re.search(r"-r[0-9]+$", candidate.tag):
        raise UsageError(f"the cell {candidate.cell} ends like the tag of a revision", hint="rename one of its values")
    if mistaken := next((ending for ending in endings if own.endswith(ending)), None):
        raise UsageError(f"the cell {candidate.cell} ends in {mistaken}, like the tags of a level", hint="rename one")
    return own + suffix_of(promise.level)
