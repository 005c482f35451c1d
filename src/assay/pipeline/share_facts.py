"""Wheel facts in a registry: an artifact with one layer for each wheel, so that nobody fetches what is known already.

The catalogue of layers is one more layer of it: what assembling those wheels gives.

Facts that come from a registry are believed as far as the registry is: their bytes are checked against its manifest,
and that they are facts of the wheel they are announced for; not that the wheel was read rightly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from assay.errors import RegistryError, WheelError
from assay.evidence.oci import EMPTY_BYTES, Descriptor, Manifest, bundle
from assay.evidence.reference import Reference
from assay.foundation.digest import sha256_of
from assay.ports.facts_store import FactsStore
from assay.ports.layers import LayerCatalogue
from assay.ports.registry import Registry
from assay.wheels.catalogue import BaseEntry, CatalogueEntry, dump_catalogue, load_catalogue
from assay.wheels.facts import READER, WheelFacts
from assay.wheels.facts_file import dump_facts, load_facts

__all__ = ["ARTIFACT", "Shared", "pull_catalogue", "pull_facts", "push_facts"]

ARTIFACT: Final = "application/vnd.assay.wheel-facts.v1"
CATALOGUE: Final = "application/vnd.assay.layer-catalogue.v1.json+gzip"
LAYER: Final = "application/vnd.assay.wheel-facts.v1.json+gzip"
WHEEL: Final = "dev.assay.wheel.sha256"
READER_KEY: Final = "dev.assay.wheel.reader"
TITLE: Final = "org.opencontainers.image.title"
MAX_LAYER: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a push or a pull did."""

    moved: tuple[str, ...]
    """`name version` of wheels whose facts went over the wire."""
    known: int
    """Wheels of which the other side had facts already."""
    digest: str


def push_facts(
    registry: Registry, reference: Reference, facts: Sequence[WheelFacts], catalogue: LayerCatalogue | None = None
) -> Shared:
    """Put facts under a tag, beside those that are there; only complete facts are worth sharing.

    Args:
        registry: speaks to the registry.
        reference: the tag.
        facts: of wheels.
        catalogue: what it has of layers goes there, too.

    Two that push to one tag at the same time may lose each other's: the last one's manifest counts.

    Raises:
        RegistryError: the registry refuses, or the tag holds something else.
    """
    repository, tag = reference.repository, reference.tag or "latest"
    before = registry.manifest(repository, tag) if registry.resolve(repository, tag) else None
    there = _layers(before, reference)
    moved: list[str] = []
    for item in facts:
        if not item.complete:
            continue
        data = dump_facts(item)
        layer = Descriptor(
            media_type=LAYER,
            digest=sha256_of(data),
            size=len(data),
            annotations={
                TITLE: f"{item.name}-{item.version}.facts.json.gz",
                WHEEL: item.sha256,
                READER_KEY: str(item.reader),
            },
        )
        known = there.get(item.sha256)
        if known is not None and (known.digest == layer.digest or _reader(known) > item.reader):
            continue
        registry.put_blob(repository, data)
        there[item.sha256] = layer
        moved.append(f"{item.name} {item.version}")
    shared = _shared_catalogue(registry, reference, before, catalogue)
    if not there and shared is None:
        raise RegistryError(f"no complete facts to push to {repository.tagged(tag)}", hint="assay facts read NAME==X")
    registry.put_blob(repository, EMPTY_BYTES)
    parts = [there[key] for key in sorted(there)] + ([shared] if shared else [])
    manifest = bundle(artifact_type=ARTIFACT, layers=parts)
    registry.put_manifest(repository, tag, manifest)
    return Shared(moved=tuple(moved), known=len(there) - len(moved), digest=manifest.digest)


def _shared_catalogue(
    registry: Registry, reference: Reference, before: Manifest | None, catalogue: LayerCatalogue | None
) -> Descriptor | None:
    """Put the catalogue there, with what it holds there already; what this machine made counts before that."""
    old = _catalogue_part(before)
    if catalogue is None:
        return old
    layers, bases = _read_catalogue(registry, reference, old) if old else ([], [])
    layers_by_key = {one.key: one for one in (*layers, *catalogue.entries())}
    bases_by_key = {one.key: one for one in (*bases, *catalogue.bases())}
    if not layers_by_key and not bases_by_key:
        return None
    data = dump_catalogue(layers_by_key.values(), bases_by_key.values())
    registry.put_blob(reference.repository, data)
    annotations = {TITLE: "layers.json.gz"}
    return Descriptor(media_type=CATALOGUE, digest=sha256_of(data), size=len(data), annotations=annotations)


def pull_catalogue(registry: Registry, reference: Reference, catalogue: LayerCatalogue) -> tuple[int, int]:
    """Take what a registry says of layers, and return how many layers are new, and how many this machine made itself
    with other bytes.

    Raises:
        RegistryError: the registry failed.
        WheelError: what came is not a catalogue.
    """
    part = _catalogue_part(registry.manifest(reference.repository, reference.key))
    if part is None:
        return 0, 0
    layers, bases = _read_catalogue(registry, reference, part)
    for base in bases:
        catalogue.hear_base(base)
    new = sum(catalogue.hear(one) for one in layers)
    mine = ((one, catalogue.described(one.key)) for one in layers)
    return new, sum(own is not None and own.digest != one.digest for one, own in mine)


def _catalogue_part(manifest: Manifest | None) -> Descriptor | None:
    return next((one for one in manifest.layers if one.media_type == CATALOGUE), None) if manifest else None


def _read_catalogue(
    registry: Registry, reference: Reference, part: Descriptor
) -> tuple[list[CatalogueEntry], list[BaseEntry]]:
    data = registry.blob(reference.repository, part, limit=MAX_LAYER)
    if data is None:
        raise RegistryError(f"{reference} lacks its part {part.digest}")
    return load_catalogue(data)


def pull_facts(
    registry: Registry,
    reference: Reference,
    store: FactsStore,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Shared:
    """Take the facts that a registry has and this machine lacks.

    Args:
        wanted: asked with the file name of each (`torch-2.8.0.facts.json.gz`).

    Raises:
        RegistryError: it has none under that name, or what it has is something else.
        WheelError: what came are no facts, or those of another wheel.
    """
    manifest = registry.manifest(reference.repository, reference.key)
    if manifest is None:
        raise RegistryError(f"there is no {reference}", hint="check the name, and that you may read the repository")
    moved: list[str] = []
    known = 0
    for sha256, layer in _layers(manifest, reference).items():
        title = layer.annotations.get(TITLE, "")
        if _reader(layer) != READER or not wanted(title):
            continue
        have = store.get(sha256)
        if have is not None and have.complete:
            known += 1
            continue
        data = registry.blob(reference.repository, layer, limit=MAX_LAYER)
        if data is None:
            raise RegistryError(f"{reference} lacks its part {layer.digest}")
        facts = load_facts(data, source=f"{reference}: {title}")
        if facts.sha256 != sha256:
            raise WheelError(f"{reference}: {title} holds facts of another wheel than announced")
        store.put(facts)
        moved.append(f"{facts.name} {facts.version}")
    return Shared(moved=tuple(moved), known=known, digest=manifest.digest)


def _layers(manifest: Manifest | None, reference: Reference) -> dict[str, Descriptor]:
    """Return sha256 of a wheel -> the layer with its facts."""
    if manifest is None:
        return {}
    if manifest.artifact_type != ARTIFACT:
        raise RegistryError(f"{reference} has no wheel facts, but {manifest.artifact_type or manifest.media_type}")
    return {layer.annotations[WHEEL]: layer for layer in manifest.layers if WHEEL in layer.annotations}


def _reader(layer: Descriptor) -> int:
    text = layer.annotations.get(READER_KEY, "")
    return int(text) if text.isdecimal() and len(text) < 6 else 0
