"""The evidence of a digest as a registry lists it: collected within bounds, and the list completed.

Whoever may push to a repository may attach to its digests. What is assay's own, by its note or its tag, is read first;
beyond a bound it is a reason to refuse, because what was not read may be a revocation. What others attached is read
within a bound of its own, and left alone where it is damaged, large or of another kind.

Every piece of evidence first gets a tag of its own, which nobody else writes. The index under the fallback tag, by
which other programs find evidence, is then made anew from what it holds and from all those tags, until a look at both
after one's own write shows nothing missing. Whoever writes last has looked last, so that the index is complete when all
writers have ended, without any lock; a writer that is killed leaves its tag, and the next run completes the index.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

from assay.errors import (
    EvidenceError,
    ManifestMismatch,
    RegistryBroken,
    RegistryContent,
    RegistryError,
    TagImmutable,
)
from assay.evidence.judging import Collected, Piece
from assay.evidence.oci import Descriptor, Manifest, fallback_tag, index_of
from assay.evidence.policy import Reason, Why
from assay.evidence.reference import Repository
from assay.evidence.statements import (
    BLOB_LIMIT,
    BUNDLE,
    DIGEST_NOTE,
    PAYLOAD,
    ArtifactKind,
    Statement,
    count_values,
    evidence_tag,
    evidence_tag_prefix,
    unpack,
    voided,
)
from assay.ports.registry import Registry
from assay.ports.signing import Verifier

__all__ = ["Known", "collect", "known_of", "settle"]

PIECES: Final = 500
"""Pieces of evidence of one digest that are read: a publication has six, each later one of the same digest four."""
STRANGERS: Final = 50
"""Artifacts of others that are read."""
BYTES: Final = 32 << 20
"""Bytes of all evidence of a digest together, unpacked."""
DAMAGED: Final = 1 << 20
"""Bytes that a piece counts for that turned out to be damaged."""
ITEMS: Final = 500_000
"""Values of all of it together."""
TOLD: Final = 10
"""Problems that are reported one by one."""
MAX_INDEX: Final = 3 << 20
"""Bytes of an index: registries need not take manifests above 4 MB."""
ROUNDS: Final = 40
"""How often the index is written before giving up; eight writers at once need about that many together."""
_KINDS: Final = frozenset(map(str, ArtifactKind))
_TYPE_NOTES: Final = ("in-toto.io/predicate-type", "dev.sigstore.bundle.predicateType")
_UNREADABLE: Final = (ManifestMismatch, RegistryBroken, RegistryContent, EvidenceError)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What refers to a digest."""

    found: Mapping[str, Descriptor]
    listed: frozenset[str]
    """What the list holds; the rest is known by tags of its own."""
    native: bool
    broken: tuple[str, ...]
    """Tags of evidence that the registry cannot read: half written when its disk was full, say."""
    tagged: frozenset[str] = frozenset()
    """What has a tag as assay gives it."""
    lies: Mapping[str, str] = field(default_factory=dict)
    """Tags of evidence that name something else than their name says, and what that is."""
    crowded: bool = False
    """There are more tags of evidence than are read."""

    @property
    def own(self) -> list[str]:
        """Digests of what is assay's own, by its tag or its note."""
        return [one for one, entry in self.found.items() if one in self.tagged or DIGEST_NOTE in entry.annotations]


def known_of(
    registry: Registry, repository: Repository, subject: str, fresh: Mapping[str, Descriptor] | None = None
) -> Known:
    """Return what refers to a digest, by the registry's list and by the tags of evidence.

    Args:
        fresh: what was put just now, which need not be fetched again.

    Raises:
        RegistryError: the registry failed.
    """
    try:
        listed, native = registry.referrers(repository, subject)
    except (ManifestMismatch, RegistryBroken, RegistryContent):
        # The index can be made anew from the tags; the verdict does not hang on it.
        listed, native = [], False
    found = {entry.digest: entry for entry in listed}
    names = frozenset(found)
    if native:
        return Known(found=found, listed=names, native=True, broken=())
    found = {**(fresh or {}), **found}
    tags = [tag for tag in registry.tags(repository) if tag.startswith(evidence_tag_prefix(subject))]
    held = {evidence_tag(subject, digest): digest for digest in found}
    tagged = {held[tag] for tag in tags if tag in held}
    unlisted = [tag for tag in tags if tag not in held]
    broken: list[str] = []
    lies: dict[str, str] = {}
    for tag in unlisted[:PIECES]:
        try:
            manifest = registry.manifest(repository, tag)
        except RegistryBroken:
            broken.append(tag)
            continue
        except (ManifestMismatch, RegistryContent):
            lies[tag] = "something that cannot be read"
            continue
        if manifest is None:
            continue
        if evidence_tag(subject, manifest.digest) != tag:
            lies[tag] = manifest.digest
        elif manifest.subject is not None and manifest.subject.digest == subject:
            found[manifest.digest] = manifest.referrer
            tagged.add(manifest.digest)
    return Known(
        found=found,
        listed=names,
        native=False,
        broken=tuple(broken),
        tagged=frozenset(tagged),
        lies=lies,
        crowded=len(unlisted) > PIECES,
    )


class _Spent(Exception):
    """A budget is used up."""


@dataclass(kw_only=True)
class _ImageReader:
    """Reads the evidence of one digest until its budget is used up."""

    registry: Registry
    repository: Repository
    subject: str
    verifier: Verifier
    pieces: int
    """What may still be read, of everything together."""
    size: int = BYTES
    items: int = ITEMS

    def read(self, digest: str) -> Piece | None:
        """Return one piece of evidence; None if it is of another kind, or damaged and not assay's."""
        self.pieces -= 1
        if self.pieces < 0 or self.size <= 0 or self.items <= 0:
            raise _Spent
        manifest = self.registry.manifest(self.repository, digest)
        if manifest is None:
            raise EvidenceError(f"the evidence {digest[:19]} is listed but missing")
        if manifest.artifact_type not in (PAYLOAD, BUNDLE):
            return None
        try:
            return self._piece(manifest)
        except _UNREADABLE:
            # Whatever it was, it took time to find out.
            self.size -= DAMAGED
            # By its own bytes, not by what a list says of it: all that assay ever attached has the note.
            if DIGEST_NOTE in manifest.annotations:
                raise
            return None

    def _piece(self, manifest: Manifest) -> Piece | None:
        digest = manifest.digest
        if len(manifest.layers) != 1:
            raise EvidenceError(f"the evidence {digest[:19]} has {len(manifest.layers)} blobs instead of one")
        layer = manifest.layers[0]
        blob = self.registry.blob(self.repository, layer, limit=min(BLOB_LIMIT, self.size))
        if blob is None:
            raise EvidenceError(f"the blob {layer.digest[:19]} of the evidence {digest[:19]} is gone")
        self.size -= len(blob)
        statement, bundle = unpack(manifest, blob, subject=self.subject, limit=self.size)
        self._count(statement, bundle)
        noted = manifest.annotations.get(DIGEST_NOTE)
        if noted is not None and noted != statement.digest:
            raise EvidenceError(f"the evidence {digest[:19]} contains another statement than it declares")
        if statement.predicate_type not in _KINDS:
            return None
        signer = self.verifier.signer(bundle) if bundle is not None else None
        return Piece.read(statement, manifest=manifest.digest, bundle=bundle, signer=signer)

    def _count(self, statement: Statement, bundle: bytes | None) -> None:
        self.size -= len(statement.raw) + len(bundle or b"")
        self.items -= count_values(statement.raw)
        if isinstance(text := statement.predicate.get("text"), str):
            self.items -= count_values(text.encode())


def collect(registry: Registry, repository: Repository, subject: str, verifier: Verifier) -> Collected:
    """Read the evidence of a digest; what is damaged becomes a reason, what others attached is left alone.

    Raises:
        RegistryError: the registry failed, so that nothing can be said.
    """
    known = known_of(registry, repository, subject)
    # What cannot be read may be a revocation.
    problems = [_problem(f"the evidence {tag[-40:]} cannot be read") for tag in known.broken]
    if known.crowded:
        problems.append(_problem(f"more than {PIECES} tags of evidence of {subject[:19]} stand in no list"))
    own = known.own
    # What only a list tells of comes last: lists are easily made long.
    own.sort(key=lambda one: (one not in known.tagged, one))
    others = sorted(known.found.keys() - set(own))
    pieces: list[Piece] = []
    left = 0
    reader = _ImageReader(registry=registry, repository=repository, subject=subject, verifier=verifier, pieces=PIECES)
    for count, digest in enumerate(own):
        try:
            piece = reader.read(digest)
        except _Spent:
            problems.append(
                _problem(
                    f"{len(own) - count} of {len(own)} pieces of evidence were not read: they are too many or large"
                )
            )
            break
        except _UNREADABLE as error:
            problems.append(_problem(error.message))
            continue
        left += piece is None
        pieces += [piece] if piece else []
    for piece in _of_others(replace(reader, pieces=STRANGERS, size=BYTES, items=ITEMS), known, others):
        left += piece is None
        pieces += [piece] if piece else []
    problems += _lies(known, pieces, verifier)
    if len(problems) > TOLD:
        problems[TOLD:] = [_problem(f"and {len(problems) - TOLD} more pieces of evidence are damaged or missing")]
    return Collected(
        native=known.native,
        broken=known.broken,
        pieces=tuple(sorted(pieces, key=attrgetter("manifest"))),
        problems=tuple(problems),
        left_alone=left,
    )


def _problem(message: str) -> Reason:
    return Reason(why=Why.EVIDENCE, message=message)


def _of_others(reader: _ImageReader, known: Known, digests: list[str]) -> list[Piece | None]:
    """Return what others attached, None for each that is left alone."""
    found: list[Piece | None] = []
    for digest in digests:
        entry = known.found[digest]
        said = next((entry.annotations[note] for note in _TYPE_NOTES if note in entry.annotations), None)
        if entry.artifact_type not in (PAYLOAD, BUNDLE) or (said is not None and said not in _KINDS):
            found.append(None)
            continue
        try:
            found.append(reader.read(digest))
        except _Spent:
            break
        except _UNREADABLE:
            found.append(None)
    return [*found, *[None] * (len(digests) - len(found))]


def _lies(known: Known, pieces: list[Piece], verifier: Verifier) -> list[Reason]:
    """Return a reason for each tag that was moved away from the evidence it was given to.

    Publishing moves a tag that its registry half wrote, and says so in a statement of its own; whoever names keys
    believes that statement only if one of them signed it.
    """
    if not known.lies:
        return []
    excused: set[str] = set()
    for piece in pieces:
        if piece.signer or not verifier.trusts_anyone:
            excused |= voided(piece.statement)
    return [
        _problem(f"the evidence {tag[-40:]} was replaced: its tag now names {named[:30]}")
        for tag, named in sorted(known.lies.items())
        if tag not in excused
    ]


def _index(now: Known) -> Manifest:
    """Return the index of all that is known; where others made it too long for a registry, of assay's own alone."""
    with suppress(RegistryContent):
        everything = index_of(now.found.values())
        if len(everything.raw) <= MAX_INDEX:
            return everything
    return index_of(now.found[digest] for digest in now.own)


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
        say: called if the registry refuses to rewrite the index.

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
            say(f"{repository.tagged(fallback_tag(subject))}: the registry refuses to move it ({error.message})")
            say(
                f"  {unlisted} of {len(now.found)} pieces of evidence are there, and assay finds them; oras and cosign "
                "will once the registry's immutability rule leaves out sha256-* and the same is run again"
            )
            return
    raise RegistryError(
        f"{repository}: the list of evidence of {subject[:19]} was overwritten {ROUNDS} times",
        hint="run the command again when fewer others publish; no evidence is lost",
    )
