"""Revoke a verified digest: attach the revocation, then move the aliases to their previous digests."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final, Literal

from assay.errors import ManifestMismatch, PolicyRefused, RegistryBroken, RegistryContent, RegistryError
from assay.evidence.oci import Descriptor
from assay.evidence.policy import Reason, Why
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import ArtifactKind, revocation
from assay.evidence.tagnames import ALIAS
from assay.foundation.strict import Value
from assay.matrix.policy import Policy
from assay.pipeline.attach import attach
from assay.pipeline.collect import collect, settle
from assay.pipeline.publishing.tags import Move, PublishPorts, retag
from assay.pipeline.verify import verify

__all__ = ["RevokeDocument", "revocations", "revoke"]

TAGS: Final = 500
"""Tags of a repository that are looked at, of aliases and of the others: whoever may push may add tags without end."""


class RevokeDocument(Value):
    """A digest that is not to be used any more."""

    version: Literal[1] = 1
    dry_run: bool
    revoked: str
    """Digest."""
    reason: str
    aliases: dict[str, str | None]
    """Alias that named it -> the digest it goes back to; null where nothing earlier holds, and the alias stays."""


def revoke(
    reference: Reference, *, reason: str, to: str | None, policy: Policy | None, ports: PublishPorts, write: bool = True
) -> tuple[str, dict[str, str | None]]:
    """Say that a digest is not to be used any more, then move the aliases that name it back to what they named before.

    An alias with no earlier digest that still holds stays, and verifying it is refused from now on: no registry API
    deletes a tag without the manifest, and deleting that would take the evidence with it.

    Args:
        to: digest that the aliases go back to; None takes the newest earlier one from the journal that still verifies.
        write: False only finds out what would be done.

    Returns:
        The revoked digest, and for each alias that named it the digest it names now, or None if it stayed.

    Raises:
        RegistryError: there is nothing under that name, or the registry failed; run the same again.
        PolicyRefused: `to` is not verified itself.
    """
    repository = reference.repository
    subject = ports.registry.resolve(repository, reference.key)
    if subject is None:
        raise RegistryError(f"there is no {reference}")
    if not write:
        found = _aliases(ports, repository, subject.digest)
        back = {tag: _earlier(ports, repository, tag, subject.digest, to=to, policy=policy) for tag in found}
        return subject.digest, back
    with ports.journal.exclusive(str(repository)):
        _say_so(ports, repository, subject, reason)
        moved: dict[str, str | None] = {}
        for tag, alias in _aliases(ports, repository, subject.digest).items():
            new = _earlier(ports, repository, tag, subject.digest, to=to, policy=policy)
            if new is not None:
                manifest = ports.registry.manifest(repository, new)
                if manifest is None:
                    raise RegistryError(f"{repository.at(new)} is gone")
                move = Move(tag=tag, old=subject.digest, new=new, moving=True, target=f"sm_{alias[1]}")
                retag(ports, repository, move, manifest, level=alias[2], reason=reason)
            moved[tag] = new
    return subject.digest, moved


def revocations(ports: PublishPorts, release: Repository, digest: str) -> list[Reason]:
    """Return the revocations of a digest that was published before.

    Evidence that is damaged stands against nothing yet: publishing may make it whole, and the read-back decides.
    """
    with suppress(RegistryBroken):
        if ports.registry.resolve(release, digest) is None:
            return []
    said = (
        piece.statement.predicate
        for piece in collect(ports.registry, release, digest, ports.verifier).pieces
        if piece.statement.predicate_type == ArtifactKind.REVOCATION
    )
    return [Reason(why=Why.REVOKED, message=f"revoked: {str(one.get('reason', '?'))[:1000]}") for one in said]


def _aliases(ports: PublishPorts, repository: Repository, digest: str) -> dict[str, re.Match[str]]:
    """Return the moving tags that name a digest now, each with its target and level."""
    found: dict[str, re.Match[str]] = {}
    aliases = [alias for tag in ports.registry.tags(repository) if (alias := ALIAS.fullmatch(tag))]
    if len(aliases) > TAGS:
        ports.say(f"{repository} has {len(aliases)} aliases; {len(aliases) - TAGS} of them were not checked")
    for alias in aliases[:TAGS]:
        if _named(ports, repository, alias[0]) == digest:
            found[alias[0]] = alias
    return found


def _named(ports: PublishPorts, repository: Repository, key: str) -> str | None:
    """Return the digest that a tag names; None also for what nobody can read, which somebody else put there."""
    try:
        found = ports.registry.resolve(repository, key)
    except (ManifestMismatch, RegistryBroken, RegistryContent):
        return None
    return found.digest if found else None


def _say_so(ports: PublishPorts, repository: Repository, subject: Descriptor, reason: str) -> None:
    """Attach the revocation, once."""
    collected = collect(ports.registry, repository, subject.digest, ports.verifier)
    if any(piece.statement.predicate_type == ArtifactKind.REVOCATION for piece in collected.pieces):
        ports.say(f"{subject.digest[:19]} is already revoked; the earlier reason stays")
        settle(ports.registry, repository, subject.digest, say=ports.say)
        return
    moment = ports.clock()
    attach(
        ports.registry,
        repository,
        subject,
        [revocation(name=str(repository), digest=subject.digest, reason=reason, when=moment)],
        signer=ports.signer,
        verifier=ports.verifier,
        created=moment,
        say=ports.say,
    )


def _earlier(
    ports: PublishPorts, repository: Repository, tag: str, revoked: str, *, to: str | None, policy: Policy | None
) -> str | None:
    """Return what an alias may go back to: verified at its level, on its target, and not revoked."""
    target, _, level = tag.partition("-")
    for digest in [to] if to else _history(ports, repository, tag):
        if digest == revoked or _named(ports, repository, digest) is None:
            continue
        seen = verify(
            Reference(repository=repository, digest=digest),
            registry=ports.registry,
            verifier=ports.verifier,
            level=level,
            target=target.replace("sm", "sm_"),
            policy=policy,
            suite=None,
            now=ports.clock(),
            # An alias never goes back to what somebody who may push has said in nobody's name.
            signed=ports.verifier.trusts_anyone,
        )
        if seen.ok:
            return digest
        if to:
            told = "; ".join(str(reason) for one in seen.judgements for reason in one.reasons)
            raise PolicyRefused(f"{repository.at(to)} is not {level} on {target}: {told or seen.reasons}")
    return None


def _history(ports: PublishPorts, repository: Repository, tag: str) -> list[str]:
    """Return what a tag named before, newest first, then whatever else has a name of its own.

    The journal is this machine's: a publisher that starts anew each time (CI) finds the others by their tags.
    """
    entries = ports.journal.read(str(repository), tag)
    journal = [digest for entry in entries for digest in (entry.old, entry.new) if digest]
    names = [
        name for name in ports.registry.tags(repository) if not ALIAS.fullmatch(name) and not name.startswith("sha256-")
    ]
    named = [digest for name in names[:TAGS] if (digest := _named(ports, repository, name)) is not None]
    return list(dict.fromkeys([*reversed(journal), *named]))
