"""Records in a registry: one artifact for each record, so that any number of machines can write at the same time.

A record's tag is the name of its file, which ends with the start of the digest of its bytes. So the list of tags tells
what a side lacks, the same record pushed twice is one artifact, and no writer changes what another one wrote. The
documents that a record names by digest (an audit's report, the lock of a build) are further layers of the artifact.
Logs stay where they were written.

Records that come from a registry are trusted as much as its writers: their bytes are checked against their names, not
who made them. Source of the artifact's form: image-spec v1.1, manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from assay.errors import RegistryError, StoreError
from assay.evidence.oci import EMPTY_BYTES, Descriptor, bundle
from assay.evidence.record import RECORD_NAME, AnyRecord, AuditRecord, KeptRecord, is_named_after, parse
from assay.evidence.reference import Repository
from assay.ports.registry import Registry
from assay.ports.store import Store

__all__ = ["ARTIFACT", "SharedRecords", "pull_records", "push_records"]

ARTIFACT: Final = "application/vnd.assay.record.v1"
RECORD: Final = "application/vnd.assay.record.v1+json"
DOCUMENT: Final = "application/vnd.assay.document.v1+json"
TITLE: Final = "org.opencontainers.image.title"
MAX_RECORD: Final = 16 << 20
"""Bytes of a record or document that is read from a registry; an audit's report of a server has 1 MB."""
AT_ONCE: Final = 8
"""Records that go over the wire at the same time."""
_PARSING: Final = threading.Lock()
"""One record is read at a time: meanwhile it takes some twenty times its bytes."""


@dataclass(frozen=True, kw_only=True)
class SharedRecords:
    """What a push or a pull did."""

    moved: tuple[str, ...]
    """Names of the records that went over the wire."""
    known: int
    """Records that the other side had already."""
    refused: tuple[str, ...]
    """What was not taken, with the reason."""


def push_records(registry: Registry, repository: Repository, kept: Iterable[KeptRecord], store: Store) -> SharedRecords:
    """Put records into a repository that lacks them.

    Args:
        registry: speaks to the registry.
        repository: where the records go.
        kept: records with their exact bytes; an edited one is refused.
        store: has the documents that records name.

    Raises:
        RegistryError: the registry failed or refused.
    """
    there = set(registry.tags(repository))
    chosen = {one.name.removesuffix(".json"): one for one in kept}
    edited = sorted(name for name, one in chosen.items() if not one.intact)
    missing = [(tag, one) for tag, one in sorted(chosen.items()) if one.intact and tag not in there]
    if missing:
        registry.put_blob(repository, EMPTY_BYTES)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="record") as pool:
        list(pool.map(lambda item: _push(registry, repository, item[0], item[1], store), missing))
    return SharedRecords(
        moved=tuple(tag for tag, _ in missing),
        known=len(chosen) - len(missing) - len(edited),
        refused=tuple(f"{name}: it was edited after it was written" for name in edited),
    )


def _push(registry: Registry, repository: Repository, tag: str, kept: KeptRecord, store: Store) -> None:
    parts = [(RECORD, f"{tag}.json", kept.raw)]
    for digest in _documents(kept.record):
        if (data := store.document(digest)) is not None:
            parts.append((DOCUMENT, f"{digest[7:]}.json", data))
    layers = [
        Descriptor(
            media_type=kind, digest=registry.put_blob(repository, data), size=len(data), annotations={TITLE: name}
        )
        for kind, name, data in parts
    ]
    registry.put_manifest(repository, tag, bundle(artifact_type=ARTIFACT, layers=layers))


def _documents(record: AnyRecord) -> list[str]:
    """Return the digests of the documents that a record names."""
    named = [record.report if isinstance(record, AuditRecord) else None, record.lock_digest]
    return [digest for digest in named if digest is not None]


def pull_records(
    registry: Registry,
    repository: Repository,
    store: Store,
    known: Iterable[str],
    *,
    wanted: Callable[[AnyRecord], bool] = lambda _: True,
) -> SharedRecords:
    """Take the records that a repository has and this machine lacks.

    Args:
        registry: speaks to the registry.
        repository: where the records are.
        store: keeps them, and their documents.
        known: file names of the records that are here.
        wanted: asked with each record that came.

    Raises:
        RegistryError: the registry failed, or has no such repository.
        StoreError: a record cannot be kept.
    """
    tags = [tag for tag in registry.tags(repository) if RECORD_NAME.fullmatch(f"{tag}.json")]
    if not tags:
        raise RegistryError(f"there are no records in {repository}", hint="check the name, and that you may read it")
    here = {name.removesuffix(".json") for name in known}
    missing = [tag for tag in tags if tag not in here]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="record") as pool:
        ends = list(pool.map(partial(_pull, registry, repository, store, wanted), missing))
    found = list(zip(missing, ends, strict=True))
    return SharedRecords(
        moved=tuple(tag for tag, end in found if end is None),
        known=len(tags) - len(missing),
        refused=tuple(f"{tag}: {end}" for tag, end in found if end),
    )


def _pull(
    registry: Registry, repository: Repository, store: Store, wanted: Callable[[AnyRecord], bool], tag: str
) -> str | None:
    """Take one record; return why it was refused, None if it was kept, and an empty text if nobody wants it."""
    try:
        manifest = registry.manifest(repository, tag)
        if manifest is None or manifest.artifact_type != ARTIFACT:
            return "it is not a record"
        part = next((layer for layer in manifest.layers if layer.media_type == RECORD), None)
        raw = registry.blob(repository, part, limit=MAX_RECORD) if part is not None else None
        if raw is None:
            return "its record is missing"
        if not is_named_after(tag, raw):
            return "it is not named after its bytes"
        try:
            with _PARSING:
                record = parse(raw, source=tag)
                if not wanted(record):
                    return ""
                digests = {*_documents(record)}
                del record
        except StoreError as error:
            return error.message
        listed = {layer.digest: layer for layer in manifest.layers if layer.media_type == DOCUMENT}
        # A manifest can list any number of documents; a record names two at most.
        named = [listed[digest] for digest in digests & listed.keys()]
        documents = [registry.blob(repository, layer, limit=MAX_RECORD) for layer in named]
    except RegistryError as error:
        # What others put there is their affair; the rest is taken.
        return error.message
    for data in documents:
        if data is not None:
            store.put_document(data)
    with _PARSING:
        store.take(f"{tag}.json", raw)
    return None
