"""Publishes: candidate in staging, judged, promoted, its evidence attached and read back, and only then named.

Every step may be repeated: what is there is left alone, and the tags come last, the moving ones at the very end. So a
run that is killed anywhere leaves no tag that promises more than the registry can show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from assay.errors import EvidenceError, PolicyRefused, RegistryBroken, RegistryError, UsageError
from assay.evidence.oci import Descriptor, Manifest
from assay.evidence.policy import PolicyJudgement, Reason, Why, judge
from assay.evidence.record import Record, dump
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import ArtifactKind, Statement, statements_of
from assay.matrix.lock import Lock
from assay.matrix.policy import Level, Policy, Signatures, alias_of, suffix_of
from assay.pipeline.attach import attach, collect
from assay.pipeline.retag import Gear, retag
from assay.pipeline.verify import Verification, verify
from assay.ports.engine import Engine
from assay.ports.registry import Registry
from assay.ports.signing import Signer

__all__ = ["Candidate", "Move", "Proposal", "execute", "propose", "stage"]

PROBE_AGAIN: Final = frozenset(
    {
        Why.NO_RECORD,
        Why.OTHER_ARCHITECTURE,
        Why.OTHER_DIGEST,
        Why.OUTSIDE_CONTAINER,
        Why.OLD_SUITE,
        Why.TOO_OLD,
        Why.FEATURE,
    }
)
"""What a new record may put right."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to be published."""

    cell: str
    tag: str
    """The cell's OCI tag."""
    image: str
    targets: tuple[str, ...]
    staging_tag: str
    """The tag in staging: the content key of the build."""
    local: str | None = None
    """The image in the engine, to be pushed; None if it is in staging already."""
    lock: Lock | None = None
    report: bytes | None = None
    """The audit's own document."""
    revision: int = 1
    """Above 1 the immutable tag ends in `-r<revision>`: a cell that was built again."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """What becomes of one tag."""

    tag: str
    old: str | None
    new: str
    moving: bool
    """An alias may move; the other tags never do."""
    target: str | None = None

    @property
    def needed(self) -> bool:
        """Whether the tag names something else now."""
        return self.old != self.new


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """All that would be done, and all that stands against it; nothing is written yet."""

    candidate: Candidate
    level: str
    subject: Descriptor
    staging: Repository
    release: Repository
    judgements: tuple[PolicyJudgement, ...]
    moves: tuple[Move, ...]
    reasons: tuple[Reason, ...]
    """What stands against the digest whatever the target."""

    @property
    def ok(self) -> bool:
        """Whether the tags may be given."""
        return not self.reasons and all(judgement.ok for judgement in self.judgements)

    def refuse(self) -> PolicyRefused:
        """Return the refusal with every reason."""
        lines = [f"{reason}" for reason in self.reasons]
        for judgement in self.judgements:
            lines += [f"{judgement.target}: {reason}" for reason in judgement.reasons]
        return PolicyRefused(
            f"{self.candidate.cell} ({self.subject.digest[:19]}) may not be called {self.level}:\n"
            + "\n".join(f"  {line}" for line in lines),
            hint=self._next(),
        )

    def _next(self) -> str | None:
        """Return the commands that bring what is missing; None where only another image can help."""
        whys = {reason.why for judgement in self.judgements for reason in judgement.reasons}
        targets = [judgement.target for judgement in self.judgements if not judgement.audit]
        audit = "".join(['assay audit --image "$I"', *(f" --target {target}" for target in targets)])
        steps = [audit] if whys & {Why.AUDIT, Why.TOO_OLD, Why.FROM_THE_FUTURE} and targets else []
        probing = whys & PROBE_AGAIN and any(not judgement.probes or _fails(judgement) for judgement in self.judgements)
        steps += ['assay probe "$I"'] if probing else []
        if not steps:
            return None
        at = self.staging.at(self.subject.digest)
        place = "on a machine with the card" if probing else "here"
        if probing and self.staging.host.partition(":")[0] in ("localhost", "127.0.0.1"):
            place += " (one that cannot reach this registry is sent the image first: docs/how-to/publish.md)"
        return f'{place}: I={at}; docker pull "$I" && ' + " && ".join(steps) + "; then publish again with its records"


def _fails(judgement: PolicyJudgement) -> bool:
    return any(reason.why is Why.FEATURE for reason in judgement.reasons)


def stage(candidate: Candidate, policy: Policy, *, registry: Registry, engine: Engine | None) -> Descriptor:
    """Bring a candidate into staging and return what the registry has there; its layers go through the engine.

    Raises:
        RegistryError: it is not in staging and cannot be pushed, or arrives under another digest than was sent.
    """
    staging = Repository.parse(policy.repositories.staging_of(candidate.image))
    found = registry.resolve(staging, candidate.staging_tag)
    if candidate.local is None or engine is None:
        if found is None:
            raise RegistryError(
                f"{staging.tagged(candidate.staging_tag)} is not in staging, and no local image was given to push",
                hint=f"assay build {candidate.cell}, then publish again",
            )
        return found
    name = staging.tagged(candidate.staging_tag)
    engine.tag(candidate.local, name)
    pushed = engine.push(name)
    # Only the name goes: the engine is no store of candidates.
    engine.remove_image(name)
    arrived = registry.resolve(staging, candidate.staging_tag)
    if arrived is None or arrived.digest != pushed:
        there = arrived.digest if arrived else "nothing"
        raise RegistryError(f"{name} was pushed as {pushed}, the registry has {there}", hint="publish again")
    return arrived


def propose(
    candidate: Candidate,
    subject: Descriptor,
    *,
    policy: Policy,
    level: str,
    records: Iterable[Record],
    suite: str | None,
    gear: Gear,
) -> Proposal:
    """Judge a digest in staging and say what publishing would do; writes nothing.

    Raises:
        UsageError: the policy has no such level, or a tag could be mistaken for one of another level.
        RegistryError: the registry failed.
    """
    if level not in policy.levels:
        raise UsageError(f"the policy has no level {level!r}", hint=f"known: {', '.join(policy.levels) or 'none'}")
    promise = policy.levels[level]
    release = Repository.parse(policy.repositories.release_of(candidate.image))
    staging = Repository.parse(policy.repositories.staging_of(candidate.image))
    kept = list(records)
    judgements = tuple(
        judge(
            name=level,
            level=promise,
            image=candidate.image,
            target=target,
            digest=subject.digest,
            records=kept,
            suite=suite,
            now=gear.clock(),
        )
        for target in candidate.targets
    )
    reasons = list(_standing_against(gear, release, subject.digest))
    if promise.signatures is Signatures.REQUIRED and gear.signer is None:
        message = f"the level {level!r} asks for signed evidence, and no key to sign with was given"
        reasons.append(Reason(why=Why.UNSIGNED, message=message))
    moves = _moves(candidate, level, policy, subject.digest, gear)
    for move in moves:
        if not move.moving and move.old is not None and move.needed:
            message = (
                f"{release.tagged(move.tag)} names {move.old[:19]} and never moves; "
                f"publish as a new revision: --revision {candidate.revision + 1}"
            )
            reasons.append(Reason(why=Why.OTHER_DIGEST, message=message))
    return Proposal(
        candidate=candidate,
        level=level,
        subject=subject,
        staging=staging,
        release=release,
        judgements=judgements,
        moves=moves,
        reasons=tuple(reasons),
    )


def _standing_against(gear: Gear, release: Repository, digest: str) -> Iterable[Reason]:
    """Revocations of a digest that was published before. What is damaged may be made whole: the read-back decides."""
    with suppress(RegistryBroken):
        if gear.registry.resolve(release, digest) is None:
            return ()
    collected = collect(gear.registry, release, digest, gear.verifier)
    revoked = (
        piece.statement.predicate
        for piece in collected.pieces
        if piece.statement.predicate_type == ArtifactKind.REVOCATION
    )
    return [Reason(why=Why.REVOKED, message=f"revoked: {str(said.get('reason', '?'))[:1000]}") for said in revoked]


def _moves(candidate: Candidate, level: str, policy: Policy, digest: str, gear: Gear) -> tuple[Move, ...]:
    release = Repository.parse(policy.repositories.release_of(candidate.image))
    own = candidate.tag + (f"-r{candidate.revision}" if candidate.revision > 1 else "")
    endings = {suffix_of(name) for name in policy.levels} - {""}
    if re.search(r"-r[0-9]+$", candidate.tag):
        raise UsageError(f"the cell {candidate.cell} ends like the tag of a revision", hint="rename one of its values")
    if mistaken := next((ending for ending in endings if own.endswith(ending)), None):
        raise UsageError(f"the cell {candidate.cell} ends in {mistaken}, like the tags of a level", hint="rename one")
    names: list[tuple[str, bool, str | None]] = [(own + suffix_of(level), False, None)]
    names += [(alias_of(target, level), True, target) for target in candidate.targets]
    moves = []
    for tag, moving, target in names:
        if len(tag) > 128:
            raise UsageError(f"the tag {tag} is longer than the 128 characters that a registry takes")
        move = Move(tag=tag, old=None, new=digest, moving=moving, target=target)
        found = _named(gear, release, move)
        moves.append(replace(move, old=found.digest if found else None))
    return tuple(moves)


def execute(
    proposal: Proposal,
    *,
    policy: Policy,
    suite: str | None,
    gear: Gear,
    exact: Callable[[Record], bytes] = dump,
) -> Verification:
    """Do what was proposed: promote, attach, read back, and name; return what others can now verify.

    Args:
        exact: gives the bytes of a record's file.

    Raises:
        PolicyRefused: something stands against it, or what was read back does not hold.
        RegistryError: the registry failed; run the same again.
    """
    if not proposal.ok:
        raise proposal.refuse()
    release, subject = proposal.release, proposal.subject
    promise = policy.levels[proposal.level]
    with gear.journal.exclusive(str(release)):
        gear.say(f"promoting {subject.digest[:19]} from {proposal.staging} to {release}")
        manifest = _promote(gear.registry, proposal.staging, release, subject.digest)
        statements = _statements(proposal, promise, suite, exact)
        created = max(record.created for one in proposal.judgements for record in _counted(one))
        new = attach(
            gear.registry,
            release,
            subject,
            statements,
            signer=gear.signer,
            verifier=gear.verifier,
            created=created,
            say=gear.say,
        )
        told = f"{len(new)} of them new, {_standing(gear.signer)}" if new else "all there already"
        gear.say(f"{len(statements)} statements, {told}")
        seen = _read_back(proposal, policy, suite, gear, statements)
        for move in sorted(proposal.moves, key=lambda move: move.moving):
            _name(proposal, move, manifest, gear)
    return seen


def _counted(judgement: PolicyJudgement) -> list[Record]:
    return [*judgement.probes, *([judgement.audit] if judgement.audit else [])]


def _standing(signer: Signer | None) -> str:
    return f"attested by {signer.name}" if signer else "recorded (not signed)"


def _statements(
    proposal: Proposal, promise: Level, suite: str | None, exact: Callable[[Record], bytes]
) -> list[Statement]:
    unique: dict[str, Statement] = {}
    for judgement in proposal.judgements:
        for statement in statements_of(
            judgement,
            promise,
            cell=proposal.candidate.cell,
            suite=suite,
            name=str(proposal.release),
            lock=proposal.candidate.lock,
            report=proposal.candidate.report,
            exact=exact,
        ):
            unique[statement.digest] = statement
    return list(unique.values())


def _promote(registry: Registry, staging: Repository, release: Repository, digest: str) -> Manifest:
    """Make a manifest known in the release repository, by digest and without a tag; moves no layer bytes."""
    manifest = registry.manifest(staging, digest)
    if manifest is None:
        raise RegistryError(f"{staging.at(digest)} is gone", hint="was it swept from staging? Push the candidate again")
    # What is half written there (the disk was full) is written again.
    with suppress(RegistryBroken):
        if registry.resolve(release, digest) is not None:
            return manifest
    for entry in manifest.manifests:
        _promote(registry, staging, release, entry.digest)
    for blob in manifest.blobs:
        if not registry.mount(release, blob.digest, staging):
            raise RegistryError(
                f"{release}: the registry would not mount {blob.digest[:19]} from {staging}",
                hint="the account needs pull on staging and push on release, both on one registry",
            )
    _put(registry, release, manifest)
    return manifest


def _put(registry: Registry, release: Repository, manifest: Manifest) -> None:
    registry.put_manifest(release, manifest.digest, manifest)
    found = registry.resolve(release, manifest.digest)
    if found is None or found.digest != manifest.digest:
        raise RegistryError(f"{release.at(manifest.digest)} was put, and is not there", hint="publish again")


def _read_back(
    proposal: Proposal, policy: Policy, suite: str | None, gear: Gear, statements: Sequence[Statement]
) -> Verification:
    """Check what others can now see, before any tag says so."""
    seen = verify(
        Reference(repository=proposal.release, digest=proposal.subject.digest),
        registry=gear.reader,
        verifier=gear.verifier,
        level=proposal.level,
        target=None,
        policy=policy,
        suite=suite,
        now=gear.clock(),
    )
    there = {piece.statement.raw for piece in seen.pieces}
    if missing := [statement for statement in statements if statement.raw not in there]:
        raise EvidenceError(
            f"{len(missing)} of {len(statements)} statements cannot be read back from {proposal.release}",
            hint="publish again; no tag was moved",
        )
    wanted = {judgement.target for judgement in proposal.judgements}
    reasons = [*seen.reasons, *(r for one in seen.judgements if one.target in wanted for r in one.reasons)]
    if reasons or not wanted <= {one.target for one in seen.judgements}:
        told = "\n".join(f"  {reason}" for reason in reasons)
        raise PolicyRefused(
            f"what was read back from {proposal.release} does not hold:\n{told}", hint="no tag was moved"
        )
    return seen


def _named(gear: Gear, release: Repository, move: Move) -> Descriptor | None:
    """Return what a tag names now; a tag that this publisher was writing when it broke counts as not there.

    Raises:
        RegistryBroken: an immutable tag cannot be read, and may be somebody else's.
    """
    try:
        return gear.registry.resolve(release, move.tag)
    except RegistryBroken:
        tried = (entry.new for entry in gear.journal.read(str(release), move.tag) if entry.phase == "intent")
        if not move.moving and list(tried)[-1:] != [move.new]:
            raise
        return None


def _name(proposal: Proposal, move: Move, manifest: Manifest, gear: Gear) -> None:
    """Give one tag, looking right before and right after."""
    release = proposal.release
    found = _named(gear, release, move)
    old = found.digest if found else None
    if old == move.new:
        gear.say(f"{release.tagged(move.tag)} names it already")
        return
    if old is not None and not move.moving:
        raise PolicyRefused(
            f"{release.tagged(move.tag)} was given to {old[:19]} meanwhile, and never moves",
            hint=f"publish as a new revision: --revision {proposal.candidate.revision + 1}",
        )
    retag(gear, release, move.tag, old=old, new=manifest, level=proposal.level, target=move.target)
