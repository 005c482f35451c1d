"""Joins the platforms of a cell: an index under one tag, whose entries are the manifests that were published.

The evidence stays where it is, with each manifest: what was measured on one platform says nothing about another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from assay.evidence.oci import Descriptor, index_of
from assay.evidence.reference import Repository
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell, oci_tag
from assay.matrix.policy import suffix_of
from assay.pipeline.publishing.candidate import Promise
from assay.pipeline.publishing.tags import Move, PublishPorts, retag
from assay.pipeline.revoke import revocations

__all__ = ["families", "join", "join_all"]


def families(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that differ in their platform alone, together; a cell of one platform alone is in none."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        point = sorted(f"{axis}={value.id}" for axis, value in cell.point.items() if axis != "platform")
        if cell.kind == "build":
            found.setdefault((cell.image, *point), []).append(cell)
    return [members for members in found.values() if len({cell.platform for cell in members}) > 1]


def join_all(
    touched: Iterable[Sequence[Cell]], promise: Promise, ports: PublishPorts, *, revision: int = 1
) -> list[str]:
    """Join the platforms of each family of which a cell was just published; return the tags of the indexes."""
    tags = (join(members, promise, ports, revision=revision) for members in touched)
    return [tag for tag in tags if tag is not None]


def join(members: Sequence[Cell], promise: Promise, ports: PublishPorts, *, revision: int = 1) -> str | None:
    """Let the family's tag name an index of the manifests that are published at a level, and return the tag.

    Returns None while fewer than two platforms are published. A revoked manifest is left out.

    Raises:
        RegistryError: the registry failed; run the same again.
    """
    ending = (f"-r{revision}" if revision > 1 else "") + suffix_of(promise.level)
    release = Repository.parse(promise.policy.repositories.release_of(members[0].image))
    entries = [entry for cell in members if (entry := _entry(cell, release, ending, ports)) is not None]
    if len({entry.platform for entry in entries}) < 2:
        return None
    index = index_of(entries)
    own = next((cell.id for cell in members if cell.platform is Platform.AMD64), members[0].id)
    tag = f"{oci_tag(own)}-multi{ending}"
    found = ports.registry.resolve(release, tag)
    old = found.digest if found is not None else None
    if old != index.digest:
        move = Move(tag=tag, old=old, new=index.digest, moving=True)
        retag(ports, release, move, index, level=promise.level)
    return tag


def _entry(cell: Cell, release: Repository, ending: str, ports: PublishPorts) -> Descriptor | None:
    """Return the entry of a cell in an index; None if it is not published, or was revoked."""
    found = ports.registry.resolve(release, cell.tag + ending)
    if found is None or revocations(ports, release, found.digest):
        return None
    return replace(found, platform=cell.platform.value)
