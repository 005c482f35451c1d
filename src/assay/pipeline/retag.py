"""Moves one tag, with a trace before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from assay.errors import RegistryError
from assay.evidence.oci import Manifest
from assay.evidence.record import now
from assay.evidence.reference import Repository
from assay.ports.journal import Journal, Transition
from assay.ports.registry import Registry
from assay.ports.signing import Signer, Verifier

__all__ = ["Gear", "retag"]


@dataclass(frozen=True, kw_only=True)
class Gear:
    """Who does what; `reader` may have other credentials than `registry`, and is what others see."""

    registry: Registry
    reader: Registry
    journal: Journal
    signer: Signer | None
    verifier: Verifier
    say: Callable[[str], None] = field(default=lambda _text: None)
    clock: Callable[[], datetime] = field(default=now)


def retag(
    gear: Gear,
    release: Repository,
    tag: str,
    *,
    old: str | None,
    new: Manifest,
    level: str,
    target: str | None,
    reason: str = "",
) -> None:
    """Let a tag name another digest, which must be in the repository already, and look that it does.

    Raises:
        RegistryError: the registry failed, or the tag names something else afterwards.
        StoreError: the journal cannot be written; then the tag was not moved.
    """
    entry = Transition(
        when=gear.clock(),
        phase="intent",
        repository=str(release),
        tag=tag,
        old=old,
        new=new.digest,
        level=level,
        target=target,
        reason=reason,
    )
    gear.journal.append(entry)
    gear.registry.put_manifest(release, tag, new)
    found = gear.reader.resolve(release, tag)
    if found is None or found.digest != new.digest:
        there = found.digest[:19] if found else "nothing"
        raise RegistryError(
            f"{release.tagged(tag)} was put to {new.digest[:19]} and names {there}", hint="publish again"
        )
    gear.journal.append(entry.model_copy(update={"phase": "done", "when": gear.clock()}))
    gear.say(f"{release.tagged(tag)}: {old[:19] if old else 'new'} -> {new.digest[:19]}")
