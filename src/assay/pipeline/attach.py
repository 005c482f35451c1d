"""Attaches evidence to a digest; nothing that was attached is ever lost.

Every piece of evidence first gets a tag of its own, which nobody else writes. The index under the fallback tag, by
which other programs find evidence, is then made anew from what it holds and from all those tags, until a look at both
after one's own write shows nothing missing. Whoever writes last has looked last, so that the index is complete when all
writers have ended, without any lock; a writer that is killed leaves its tag, and the next run completes the index.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from assay.errors import RegistryBroken, RegistryContent, RegistryError, TagImmutable
from assay.evidence.oci import EMPTY_BYTES, Descriptor, Manifest, fallback_tag, index_of
from assay.evidence.reference import Repository
from assay.evidence.statements import DIGEST_NOTE, Package, Statement, bundle_hint, evidence_tag, package, void
from assay.pipeline.collect import Collected, Known, Piece, collect, known_of
from assay.ports.registry import Registry
from assay.ports.signing import Signer, Verifier

__all__ = ["Collected", "Piece", "attach", "collect", "settle"]

MAX_INDEX: Final = 3 << 20
"""Bytes of an index: registries need not take manifests above 4 MB."""
ROUNDS: Final = 40
"""How often the index is written before giving up; eight writers at once need about that many together."""


def attach(
    registry: Registry,
    repository: Repository,
    subject: Descriptor,
    statements: Sequence[Statement],
    *,
    signer: Signer | None,
    verifier: Verifier,
    created: datetime,
    say: Callable[[str], None] = lambda _text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Attach what is not attached yet, each statement once; return the digests of the new artifacts.

    Raises:
        RegistryError: the registry failed; what is attached by then stays, and running again completes it.
    """
    existing = collect(registry, repository, subject.digest, verifier)
    new: dict[str, Descriptor] = {}
    for statement in statements:
        if signer and any(piece.signer and piece.statement.raw == statement.raw for piece in existing.pieces):
            # Signing may ask a person, and may be written into a public log.
            continue
        bundle = signer.sign(statement.raw) if signer else None
        if _attached(statement, bundle, existing.pieces):
            continue
        made = package(statement, subject, bundle=bundle, created=created)
        if not new:
            registry.put_blob(repository, EMPTY_BYTES)
        _put(registry, repository, subject.digest, made, native=existing.native)
        new[made.manifest.digest] = made.manifest.referrer
    half = [tag for tag in existing.broken if _is_broken(registry, repository, tag)]
    if half:
        # Half written, and so never acknowledged to anyone; what the tags name now says so.
        statement = void(name=str(repository), digest=subject.digest, tags=half)
        bundle = signer.sign(statement.raw) if signer else None
        made = package(statement, subject, bundle=bundle, created=created)
        _put(registry, repository, subject.digest, made, native=existing.native)
        new[made.manifest.digest] = made.manifest.referrer
        for tag in half:
            registry.put_manifest(repository, tag, made.manifest)
    settle(registry, repository, subject.digest, known=new, say=say, sleep=sleep)
    return list(new)


def _is_broken(registry: Registry, repository: Repository, tag: str) -> bool:
    """Whether a tag still cannot be read: it may have been another publisher's, in the middle of writing it."""
    try:
        registry.manifest(repository, tag)
    except RegistryBroken:
        return True
    return False


def _attached(statement: Statement, bundle: bytes | None, existing: Iterable[Piece]) -> bool:
    same = [piece for piece in existing if piece.statement.raw == statement.raw]
    if bundle is None:
        return bool(same)
    hint = bundle_hint(bundle)
    return any(hint and piece.bundle and bundle_hint(piece.bundle) == hint for piece in same)


def _put(registry: Registry, repository: Repository, subject: str, made: Package, *, native: bool) -> None:
    registry.put_blob(repository, made.blob)
    digest = made.manifest.digest
    registry.put_manifest(repository, digest if native else evidence_tag(subject, digest), made.manifest)


def _index(now: Known) -> Manifest:
    """Return the index of all that is known; where others made it too long for a registry, of assay's own alone."""
    with suppress(RegistryContent):
        everything = index_of(now.found.values())
        if len(everything.raw) <= MAX_INDEX:
            return everything
    own = (one for one in now.found.values() if one.digest in now.tagged or DIGEST_NOTE in one.annotations)
    return index_of(own)


def settle(
    registry: Registry,
    repository: Repository,
    subject: str,
    *,
    known: Mapping[str, Descriptor] | None = None,
    say: Callable[[str], None] = lambda _text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make the index of a digest's evidence complete; does nothing where the registry keeps it itself.

    Args:
        known: what was put just now, which need not be fetched again.
        say: told where the registry does not let the index be written anew.

    Raises:
        RegistryError: the registry failed, or others wrote over the index each time.
    """
    for attempt in range(ROUNDS):
        now = known_of(registry, repository, subject, known)
        if now.native or {entry.digest for entry in _index(now).manifests} <= now.listed:
            return
        if attempt:
            # Two who keep overwriting each other part ways; the pause is not what makes it right.
            sleep(random.uniform(0, 0.05 * min(attempt, 10)))  # noqa: S311
            now = known_of(registry, repository, subject, known)
        try:
            registry.put_manifest(repository, fallback_tag(subject), _index(now))
        except TagImmutable as error:
            # Nothing is lost: every piece has a tag of its own, by which assay finds it.
            unlisted = len(now.found.keys() - now.listed)
            say(f"{repository.tagged(fallback_tag(subject))}: the registry lets nobody move it ({error.message})")
            say(
                f"  {unlisted} of {len(now.found)} pieces of evidence are there, and assay finds them; oras and cosign "
                "will once the registry's immutability rule leaves out sha256-* and the same is run again"
            )
            return
    raise RegistryError(
        f"{repository}: the list of evidence of {subject[:19]} was overwritten {ROUNDS} times",
        hint="run the same again when fewer others publish; no evidence is lost",
    )
