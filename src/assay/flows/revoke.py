"""Takes a verified digest back: says so for good, then moves the aliases to what they named before."""

from __future__ import annotations

import re

from assay.errors import PolicyRefused, RegistryError
from assay.evidence import Kind, revocation
from assay.flows.attach import attach, collect, settle
from assay.flows.binding import ALIAS
from assay.flows.retag import Gear, retag
from assay.flows.verify import verify
from assay.model.policy import Policy
from assay.oci import Descriptor
from assay.reference import Reference, Repository

__all__ = ["revoke"]


def revoke(
    reference: Reference, *, reason: str, to: str | None, policy: Policy | None, gear: Gear, write: bool = True
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
    subject = gear.registry.resolve(repository, reference.key)
    if subject is None:
        raise RegistryError(f"there is no {reference}")
    if not write:
        found = _aliases(gear, repository, subject.digest)
        back = {tag: _earlier(gear, repository, tag, subject.digest, to=to, policy=policy) for tag in found}
        return subject.digest, back
    with gear.journal.exclusive(str(repository)):
        _say_so(gear, repository, subject, reason)
        moved: dict[str, str | None] = {}
        for tag, alias in _aliases(gear, repository, subject.digest).items():
            new = _earlier(gear, repository, tag, subject.digest, to=to, policy=policy)
            if new is not None:
                manifest = gear.registry.manifest(repository, new)
                if manifest is None:
                    raise RegistryError(f"{repository.at(new)} is gone")
                retag(
                    gear,
                    repository,
                    tag,
                    old=subject.digest,
                    new=manifest,
                    level=alias[2],
                    target=f"sm_{alias[1]}",
                    reason=reason,
                )
            moved[tag] = new
    return subject.digest, moved


def _aliases(gear: Gear, repository: Repository, digest: str) -> dict[str, re.Match[str]]:
    """Return the moving tags that name a digest now, each with its target and level."""
    found: dict[str, re.Match[str]] = {}
    for tag in gear.registry.tags(repository):
        alias = ALIAS.fullmatch(tag)
        named = gear.registry.resolve(repository, tag) if alias else None
        if alias and named and named.digest == digest:
            found[tag] = alias
    return found


def _say_so(gear: Gear, repository: Repository, subject: Descriptor, reason: str) -> None:
    """Attach the revocation, once."""
    collected = collect(gear.registry, repository, subject.digest, gear.verifier)
    if any(piece.statement.predicate_type == Kind.REVOCATION for piece in collected.pieces):
        gear.say(f"{subject.digest[:19]} was revoked before; the reason given then stays")
        settle(gear.registry, repository, subject.digest, say=gear.say)
        return
    moment = gear.clock()
    attach(
        gear.registry,
        repository,
        subject,
        [revocation(name=str(repository), digest=subject.digest, reason=reason, when=moment)],
        signer=gear.signer,
        verifier=gear.verifier,
        created=moment,
        say=gear.say,
    )


def _earlier(
    gear: Gear, repository: Repository, tag: str, revoked: str, *, to: str | None, policy: Policy | None
) -> str | None:
    """Return what an alias may go back to: verified at its level, on its target, and not revoked."""
    target, _, level = tag.partition("-")
    for digest in [to] if to else _history(gear, repository, tag):
        if digest == revoked or gear.registry.resolve(repository, digest) is None:
            continue
        seen = verify(
            Reference(repository=repository, digest=digest),
            registry=gear.registry,
            verifier=gear.verifier,
            level=level,
            target=target.replace("sm", "sm_"),
            policy=policy,
            suite=None,
            now=gear.clock(),
            # An alias never goes back to what somebody who may push has said in nobody's name.
            signed=gear.verifier.trusts_anyone,
        )
        if seen.ok:
            return digest
        if to:
            told = "; ".join(str(reason) for one in seen.judgements for reason in one.reasons)
            raise PolicyRefused(f"{repository.at(to)} is not {level} on {target}: {told or seen.reasons}")
    return None


def _history(gear: Gear, repository: Repository, tag: str) -> list[str]:
    """Return what a tag named before, newest first, then whatever else has a name of its own.

    The journal is this machine's: a publisher that starts anew each time (CI) finds the others by their tags.
    """
    entries = gear.journal.read(str(repository), tag)
    journal = [digest for entry in entries for digest in (entry.old, entry.new) if digest]
    named = [
        found.digest
        for name in gear.registry.tags(repository)
        if not ALIAS.fullmatch(name) and not name.startswith("sha256-")
        if (found := gear.registry.resolve(repository, name)) is not None
    ]
    return list(dict.fromkeys([*reversed(journal), *named]))
