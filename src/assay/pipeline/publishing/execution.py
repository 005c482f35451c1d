"""Does what was proposed: promotes, attaches, reads back what others can see, and only then gives the tags."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from assay.errors import EvidenceError, PolicyRefused, RegistryBroken, RegistryError
from assay.evidence.judging import Verification
from assay.evidence.oci import Manifest
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import Statement, statements_of
from assay.pipeline.attach import attach
from assay.pipeline.publishing.proposal import Proposal
from assay.pipeline.publishing.tags import PublishPorts, give
from assay.pipeline.verify import verify
from assay.ports.registry import Registry

__all__ = ["execute"]


def execute(proposal: Proposal, ports: PublishPorts) -> Verification:
    """Promote, attach the evidence, read it back, and name; return what others can now verify.

    Every step may be repeated: what is there is left alone, and the tags come last, the moving ones at the very end.
    So a run that is killed anywhere leaves no tag that promises more than the registry can show.

    Raises:
        PolicyRefused: something stands against the proposal, or what was read back does not hold.
        RegistryError: the registry failed; run the same again.
    """
    if not proposal.ok:
        raise proposal.refuse()
    judged = proposal.judged
    subject, promise = judged.subject, judged.promise
    with ports.journal.exclusive(str(subject.release)):
        ports.say(f"promoting {subject.digest[:19]} from {subject.staging} to {subject.release}")
        manifest = _promote(ports.registry, subject.staging, subject.release, subject.digest)
        statements = statements_of(
            judged.judgements,
            promise.terms,
            cell=subject.candidate.cell,
            suite=promise.suite,
            name=str(subject.release),
            lock=subject.candidate.lock,
            report=judged.report,
            kept=judged.kept,
        )
        new = attach(
            ports.registry,
            subject.release,
            subject.descriptor,
            statements,
            signer=ports.signer,
            verifier=ports.verifier,
            created=max(record.created for one in judged.judgements for record in one.records),
            say=ports.say,
        )
        standing = f"attested by {ports.signer.name}" if ports.signer else "recorded (not signed)"
        told = f"{len(new)} of them new, {standing}" if new else "all already there"
        ports.say(f"{len(statements)} statements, {told}")
        seen = verify(
            Reference(repository=subject.release, digest=subject.digest),
            registry=ports.reader,
            verifier=ports.verifier,
            level=promise.level,
            target=None,
            policy=promise.policy,
            suite=promise.suite,
            now=ports.clock(),
        )
        _check_read_back(seen, statements, {one.target for one in judged.judgements})
        taken = f"publish as a new revision: --revision {subject.candidate.revision + 1}"
        for move in sorted(proposal.moves, key=lambda move: move.moving):
            give(ports, subject.release, move, manifest, level=promise.level, otherwise=taken)
    return seen


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
    registry.put_manifest(release, digest, manifest)
    found = registry.resolve(release, digest)
    if found is None or found.digest != digest:
        raise RegistryError(f"{release.at(digest)} was pushed, but is missing", hint="publish again")
    return manifest


def _check_read_back(seen: Verification, statements: Sequence[Statement], targets: set[str]) -> None:
    """Check what others can read, before any tag moves."""
    release = seen.reference.repository
    there = {piece.statement.raw for piece in seen.pieces}
    if missing := [statement for statement in statements if statement.raw not in there]:
        raise EvidenceError(
            f"{len(missing)} of {len(statements)} statements cannot be read back from {release}",
            hint="publish again; no tag was moved",
        )
    reasons = [*seen.reasons, *(r for one in seen.judgements if one.target in targets for r in one.reasons)]
    if reasons or not targets <= {one.target for one in seen.judgements}:
        told = "\n".join(f"  {reason}" for reason in reasons)
        raise PolicyRefused(f"the evidence read back from {release} does not verify:\n{told}", hint="no tag was moved")
