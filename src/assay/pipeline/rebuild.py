"""Whether a published image is exactly what its lock says: it is assembled again, and digests are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Literal

from assay.errors import QuestionError, RegistryContent
from assay.evidence.oci import Descriptor
from assay.evidence.reference import Reference
from assay.foundation.strict import Value
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.lockfile import lock_digest
from assay.pipeline.assembly.assemble import BUILT_LABEL, LARGEST_LABEL
from assay.pipeline.assembly.assembled import Assembled
from assay.pipeline.assembly.destinations import CONFIG_BYTES, image_info
from assay.pipeline.build_jobs import KEY_LABEL, LOCK_LABEL, build_labels
from assay.ports.registry import Registry
from assay.wheels.layer import Packing

__all__ = ["RebuildDocument", "Rebuilt", "rebuild"]

CELL_LABEL: Final = f"{render.LABEL_PREFIX}cell"


class DifferingLayer(Value):
    """A layer that is not the same in both images."""

    made_by: str
    published: str | None
    """Digest; None where the image has no such layer."""
    rebuilt: str | None


class DifferingWheel(Value):
    """A wheel that both images got built from source, on each machine for itself."""

    name: str
    published: str | None
    """Its sha256; None where the image does not name it."""
    rebuilt: str | None


class RebuildDocument(Value):
    """A published image beside the one that its lock gives, as `assay verify --rebuild` writes it."""

    version: Literal[1] = 1
    reference: str
    cell: str
    same: bool
    published: str
    """Digest."""
    rebuilt: str
    """Digest."""
    differing_layers: tuple[DifferingLayer, ...]
    differing_wheels: tuple[DifferingWheel, ...] = ()
    """Built from source: no lock names their bytes."""


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A published image beside the one that its lock gives."""

    reference: Reference
    cell: str
    published: str
    """Digest."""
    rebuilt: str
    """Digest."""
    differing: tuple[tuple[str, str, str], ...]
    """Layers that differ: what made it, its digest as published, as assembled; empty where one side has none."""
    wheels: tuple[DifferingWheel, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the image is exactly what its lock says."""
        return self.published == self.rebuilt

    def document(self) -> RebuildDocument:
        """Return the JSON form."""
        layers = (
            DifferingLayer(made_by=made_by, published=published or None, rebuilt=rebuilt or None)
            for made_by, published, rebuilt in self.differing
        )
        return RebuildDocument(
            reference=str(self.reference),
            cell=self.cell,
            same=self.same,
            published=self.published,
            rebuilt=self.rebuilt,
            differing_layers=tuple(layers),
            differing_wheels=self.wheels,
        )


def rebuild(
    reference: Reference,
    registry: Registry,
    locked: Callable[[str], LockedCell | None],
    rendered: Callable[[Cell, Lock], str],
    assemble: Callable[[str, Mapping[str, str], Packing, int | None], Assembled],
) -> Rebuilt:
    """Assemble the image that a published one says it is, and compare the two.

    Args:
        reference: of the published image.
        registry: has it.
        locked: returns a cell of this checkout with its lock, by the cell's id.
        rendered: returns the Dockerfile of a cell.
        assemble: assembles it with some labels, compression and bytes that a layer may have. Layers that this machine
            has are not made again.

    Raises:
        QuestionError: there is no such image, or this checkout has another lock or recipe than it was made from.
        NotAssembled: only a build can make it.
    """
    manifest = registry.manifest(reference.repository, reference.key)
    if manifest is None or manifest.config is None:
        raise QuestionError(f"there is no image {reference}", hint="an index of several platforms: name one by digest")
    config = registry.blob(reference.repository, manifest.config, limit=CONFIG_BYTES)
    if config is None:
        raise RegistryContent(f"{reference} lacks its configuration")
    info = image_info(manifest, config, str(reference))
    labels = info.labels
    cell = labels.get(CELL_LABEL, "")
    item = locked(cell)
    if item is None or item.lock is None:
        raise QuestionError(
            f"{reference} says that it is the cell {cell or '(none)'}, which has no lock here",
            hint="name the project that it was made from: --project",
        )
    text = rendered(item.cell, item.lock)
    key = render.content_key(text)
    if labels.get(LOCK_LABEL) != lock_digest(item.lock) or labels.get(KEY_LABEL) != key:
        changed = "recipe" if labels.get(LOCK_LABEL) == lock_digest(item.lock) else "lock"
        raise QuestionError(
            f"{reference} was made from a {changed} of {cell} that differs from this checkout's",
            hint="check out the revision that it was published from",
        )
    gzip = manifest.layers and manifest.layers[-1].media_type == Packing.GZIP.media_type
    limit = labels.get(LARGEST_LABEL, "")
    if not re.fullmatch(r"[0-9]{0,18}", limit):
        label = f"{LARGEST_LABEL}={limit[:40]!r}"
        raise RegistryContent(f"{reference} has the label {label}, which is not a number of bytes")
    image = assemble(
        text, build_labels(key), Packing.GZIP if gzip else Packing.ZSTD, max(int(limit), 1) if limit else None
    )
    return Rebuilt(
        reference=reference,
        cell=cell,
        published=manifest.digest,
        rebuilt=image.manifest.digest,
        differing=_differing(manifest.layers, [layer.made_by for layer in info.layers], image),
        wheels=tuple(_wheels(labels, image_info(image.manifest, image.config, cell).labels)),
    )


def _wheels(published: Mapping[str, str], rebuilt: Mapping[str, str]) -> Iterator[DifferingWheel]:
    for label in sorted(published.keys() | rebuilt.keys()):
        theirs, ours = published.get(label), rebuilt.get(label)
        if label.startswith(BUILT_LABEL) and theirs != ours:
            yield DifferingWheel(name=label.removeprefix(BUILT_LABEL), published=theirs, rebuilt=ours)


def _differing(
    published: Sequence[Descriptor], steps: Sequence[str], image: Assembled
) -> tuple[tuple[str, str, str], ...]:
    theirs = [(layer.digest, step) for layer, step in zip(published, [*steps, *[""] * len(published)], strict=False)]
    ours = [(layer.stored.layer.digest, layer.created_by) for layer in image.layers]
    pairs = zip_longest(theirs, ours, fillvalue=("", ""))
    return tuple((mine[1] or other[1], other[0], mine[0]) for other, mine in pairs if other[0] != mine[0])
