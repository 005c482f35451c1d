"""Attach evidence to a digest; attached evidence is never lost (see `collect`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from assay.errors import RegistryBroken
from assay.evidence.judging import Collected, Piece
from assay.evidence.oci import EMPTY_BYTES, Descriptor
from assay.evidence.reference import Repository
from assay.evidence.statements import Package, Statement, bundle_hint, package, void
from assay.pipeline.collect import collect, settle
from assay.ports.registry import Registry
from assay.ports.signing import Signer, Verifier

__all__ = ["attach"]


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
    """Attach the missing statements, each once; return the digests of the new artifacts.

    Raises:
        RegistryError: the registry failed; what is attached by then stays, and running again completes it.
    """
    existing = collect(registry, repository, subject.digest, verifier)
    packer = _Packer(subject=subject, signer=signer, created=created)
    new: dict[str, Descriptor] = {}
    for made, tags in _missing(statements, existing, packer, registry, repository):
        digest = made.manifest.digest
        if not new:
            registry.put_blob(repository, EMPTY_BYTES)
        registry.put_blob(repository, made.blob)
        for key in (digest if existing.native else made.tag, *tags):
            registry.put_manifest(repository, key, made.manifest)
        new[digest] = made.manifest.referrer
    settle(registry, repository, subject.digest, known=new, say=say, sleep=sleep)
    return list(new)


@dataclass(frozen=True, kw_only=True)
class _Packer:
    subject: Descriptor
    signer: Signer | None
    created: datetime

    def pack(self, statement: Statement, existing: Sequence[Piece] = ()) -> Package | None:
        """Return the artifact of a statement; None for what is attached already."""
        same = [piece for piece in existing if piece.statement.raw == statement.raw]
        if self.signer and any(piece.signer for piece in same):
            # Signing may ask a person, and may be written into a public log.
            return None
        bundle = self.signer.sign(statement.raw) if self.signer else None
        if same and (bundle is None or _signs_alike(bundle, same)):
            return None
        return package(statement, self.subject, bundle=bundle, created=self.created)


def _signs_alike(bundle: bytes, pieces: Sequence[Piece]) -> bool:
    hint = bundle_hint(bundle)
    return any(hint and piece.bundle and bundle_hint(piece.bundle) == hint for piece in pieces)


def _missing(
    statements: Sequence[Statement],
    existing: Collected,
    packer: _Packer,
    registry: Registry,
    repository: Repository,
) -> Iterator[tuple[Package, list[str]]]:
    """Yield the artifacts to put, each with the tags that it takes over; the last speaks of tags that are half written.

    Those were never acknowledged to anyone; they are looked at again when all else is put.
    """
    for statement in statements:
        if made := packer.pack(statement, existing.pieces):
            yield made, []
    half: list[str] = []
    for tag in existing.broken:
        # It may have been another publisher's, in the middle of writing it.
        try:
            registry.manifest(repository, tag)
        except RegistryBroken:
            half.append(tag)
    if half and (made := packer.pack(void(name=str(repository), digest=packer.subject.digest, tags=half))):
        yield made, half
