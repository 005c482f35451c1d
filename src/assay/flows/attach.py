"""Attaches evidence to a digest and collects it again; nothing that was attached is ever lost.

Every piece of evidence first gets a tag of its own, which nobody else writes. The index under the fallback tag, by
which other programs find evidence, is then made anew from what it holds and from all those tags, until a look at both
after one's own write shows nothing missing. Whoever writes last has looked last, so that the index is complete when all
writers have ended, without any lock; a writer that is killed leaves its tag, and the next run completes the index.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from assay.errors import EvidenceError, ManifestMismatch, RegistryBroken, RegistryError, TagImmutable
from assay.evidence import (
    BLOB_LIMIT,
    BUNDLE,
    DIGEST_NOTE,
    PAYLOAD,
    Package,
    Statement,
    bundle_hint,
    evidence_tag,
    evidence_tag_prefix,
    package,
    unpack,
)
from assay.oci import EMPTY_BYTES, Descriptor, fallback_tag, index_of
from assay.policy import Reason, Why
from assay.ports.registry import Registry
from assay.ports.signing import Signer, Verifier
from assay.reference import Repository

__all__ = ["Collected", "Piece", "attach", "collect", "settle"]

ROUNDS: Final = 40
"""How often the index is written before giving up; eight writers at once need about that many together."""


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


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What refers to a digest."""

    found: Mapping[str, Descriptor]
    listed: frozenset[str]
    """What the list holds; the rest is known by tags of its own."""
    native: bool
    broken: tuple[str, ...]
    """Tags of evidence that the registry cannot read: half written when its disk was full, say."""


def _known(
    registry: Registry, repository: Repository, subject: str, fresh: Mapping[str, Descriptor] | None = None
) -> _Known:
    try:
        listed, native = registry.referrers(repository, subject)
    except RegistryBroken:
        # The index can be made anew from the tags; the verdict does not hang on it.
        listed, native = [], False
    found = {entry.digest: entry for entry in listed}
    names = frozenset(found)
    broken: list[str] = []
    if not native:
        prefix = evidence_tag_prefix(subject)
        found = {**(fresh or {}), **found}
        held = {evidence_tag(subject, digest) for digest in found}
        for tag in registry.tags(repository):
            if not tag.startswith(prefix) or tag in held:
                continue
            try:
                manifest = registry.manifest(repository, tag)
            except RegistryBroken:
                broken.append(tag)
                continue
            if manifest is not None and manifest.subject is not None and manifest.subject.digest == subject:
                found[manifest.digest] = manifest.referrer
    return _Known(found=found, listed=names, native=native, broken=tuple(broken))


def collect(registry: Registry, repository: Repository, subject: str, verifier: Verifier) -> Collected:
    """Read all evidence of a digest; what is damaged becomes a reason, what others attached is left alone.

    Raises:
        RegistryError: the registry failed, so that nothing can be said.
    """
    pieces: list[Piece] = []
    problems: list[Reason] = []
    known = _known(registry, repository, subject)
    # What cannot be read may be a revocation.
    problems += [Reason(why=Why.EVIDENCE, message=f"the evidence {tag[-40:]} cannot be read") for tag in known.broken]
    for digest in sorted(known.found):
        entry = known.found[digest]
        if entry.artifact_type not in (PAYLOAD, BUNDLE):
            continue
        try:
            piece = _read(registry, repository, subject, entry, verifier)
        except (ManifestMismatch, RegistryBroken, EvidenceError) as error:
            if DIGEST_NOTE in entry.annotations:
                problems.append(Reason(why=Why.EVIDENCE, message=error.message))
            continue
        pieces.append(piece)
    return Collected(native=known.native, broken=known.broken, pieces=tuple(pieces), problems=tuple(problems))


def _read(registry: Registry, repository: Repository, subject: str, entry: Descriptor, verifier: Verifier) -> Piece:
    manifest = registry.manifest(repository, entry.digest)
    if manifest is None:
        raise EvidenceError(f"the evidence {entry.digest[:19]} is listed, but gone")
    if len(manifest.layers) != 1:
        raise EvidenceError(f"the evidence {entry.digest[:19]} has {len(manifest.layers)} blobs instead of one")
    layer = manifest.layers[0]
    blob = registry.blob(repository, layer, limit=BLOB_LIMIT)
    if blob is None:
        raise EvidenceError(f"the blob {layer.digest[:19]} of the evidence {entry.digest[:19]} is gone")
    statement, bundle = unpack(manifest, blob, subject=subject)
    noted = manifest.annotations.get(DIGEST_NOTE)
    if noted is not None and noted != statement.digest:
        raise EvidenceError(f"the evidence {entry.digest[:19]} holds another statement than it says")
    signer = verifier.signer(bundle) if bundle is not None else None
    return Piece(statement=statement, manifest=manifest.digest, bundle=bundle, signer=signer)


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
    for tag in existing.broken:
        _mend(registry, repository, tag, next(iter(new), None) or existing.pieces[0].manifest)
    settle(registry, repository, subject.digest, known=new, say=say, sleep=sleep)
    return list(new)


def _mend(registry: Registry, repository: Repository, tag: str, digest: str) -> None:
    """Make a tag readable again that was half written, and so never acknowledged to anyone: it names `digest` now."""
    try:
        # It may have been another publisher's, in the middle of writing it.
        registry.manifest(repository, tag)
    except RegistryBroken:
        whole = registry.manifest(repository, digest)
        if whole is not None:
            registry.put_manifest(repository, tag, whole)


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
        now = _known(registry, repository, subject, known)
        if now.native or now.found.keys() <= now.listed:
            return
        if attempt:
            # Two who keep overwriting each other part ways; the pause is not what makes it right.
            sleep(random.uniform(0, 0.05 * min(attempt, 10)))  # noqa: S311
            now = _known(registry, repository, subject, known)
        try:
            registry.put_manifest(repository, fallback_tag(subject), index_of(now.found.values()))
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
