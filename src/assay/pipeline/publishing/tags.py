"""Moves tags: looks what one names, moves it with a trace in the journal before and after, and looks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from assay.errors import PolicyRefused, RegistryBroken, RegistryError
from assay.evidence.oci import Manifest
from assay.evidence.record import now
from assay.evidence.reference import Repository
from assay.ports.journal import Journal, Transition
from assay.ports.registry import Registry
from assay.ports.signing import Signer, Verifier

__all__ = ["Move", "PublishPorts", "give", "named", "retag"]


@dataclass(frozen=True, kw_only=True)
class PublishPorts:
    """What reads and writes a registry; `reader` may have other credentials than `registry`: it is what others see."""

    registry: Registry
    reader: Registry
    journal: Journal
    signer: Signer | None
    verifier: Verifier
    say: Callable[[str], None] = field(default=lambda _text: None)
    clock: Callable[[], datetime] = field(default=now)


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


def named(ports: PublishPorts, release: Repository, tag: str, *, new: str, moving: bool) -> str | None:
    """Return the digest that a tag names now; a tag that this publisher was writing when it broke counts as not there.

    Raises:
        RegistryBroken: an immutable tag cannot be read, and may be somebody else's.
    """
    try:
        found = ports.registry.resolve(release, tag)
    except RegistryBroken:
        tried = (entry.new for entry in ports.journal.read(str(release), tag) if entry.phase == "intent")
        if not moving and list(tried)[-1:] != [new]:
            raise
        return None
    return found.digest if found else None


def give(
    ports: PublishPorts, release: Repository, move: Move, manifest: Manifest, *, level: str, otherwise: str
) -> None:
    """Give one tag, looking right before and right after.

    Args:
        otherwise: what to do where an immutable tag was taken meanwhile.

    Raises:
        PolicyRefused: an immutable tag names something else by now.
    """
    old = named(ports, release, move.tag, new=move.new, moving=move.moving)
    if old == move.new:
        ports.say(f"{release.tagged(move.tag)} already names it")
        return
    if old is not None and not move.moving:
        raise PolicyRefused(
            f"{release.tagged(move.tag)} was given to {old[:19]} in the meantime, and never moves", hint=otherwise
        )
    retag(ports, release, replace(move, old=old), manifest, level=level)


def retag(
    ports: PublishPorts, release: Repository, move: Move, manifest: Manifest, *, level: str, reason: str = ""
) -> None:
    """Let a tag name another digest, which must be in the repository already, and look that it does.

    Raises:
        RegistryError: the registry failed, or the tag names something else afterwards.
        StoreError: the journal cannot be written; then the tag was not moved.
    """
    tag, old, new = release.tagged(move.tag), move.old, move.new
    entry = Transition(
        when=ports.clock(),
        phase="intent",
        repository=str(release),
        tag=move.tag,
        old=old,
        new=new,
        level=level,
        target=move.target,
        reason=reason,
    )
    ports.journal.append(entry)
    ports.registry.put_manifest(release, move.tag, manifest)
    found = ports.reader.resolve(release, move.tag)
    if found is None or found.digest != new:
        there = found.digest[:19] if found else "nothing"
        raise RegistryError(f"{tag} was set to {new[:19]} but names {there}", hint="publish again")
    ports.journal.append(entry.model_copy(update={"phase": "done", "when": ports.clock()}))
    ports.say(f"{tag}: {old[:19] if old else 'new'} -> {new[:19]}")
