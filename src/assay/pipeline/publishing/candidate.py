"""What is published: the candidate of a cell, what its tags would promise, and its manifest in staging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from assay.errors import EngineError, PolicyRefused, RegistryError, UsageError
from assay.evidence.oci import MANIFEST, Descriptor, Manifest
from assay.evidence.record import BuildRecord, BuildStatus, KeptRecord
from assay.evidence.reference import Repository
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.matrix.policy import Level, Policy
from assay.pipeline.assembly.deliver import push
from assay.ports.engine import Engine
from assay.ports.layers import LayerStore
from assay.ports.registry import Registry

__all__ = ["Candidate", "Promise", "Subject", "candidate_of", "stage"]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What tags promise: a level of the policy, shown by a probe suite."""

    policy: Policy
    level: str
    suite: str | None
    """Digest of the probe suite that counts as current; None if it is not known here."""

    def __post_init__(self) -> None:
        """Refuse a level that the policy does not have."""
        if self.level not in self.policy.levels:
            known = ", ".join(self.policy.levels) or "none"
            raise UsageError(f"the policy has no level {self.level!r}", hint=f"known: {known}")

    @property
    def terms(self) -> Level:
        """What the level asks for."""
        return self.policy.levels[self.level]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to be published."""

    cell: str
    tag: str
    """The cell's OCI tag."""
    image: str
    targets: tuple[str, ...]
    staging_tag: str
    """The tag in staging: the content key of the build."""
    kind: Literal["build", "external", "control"] = "build"
    local: str | None = None
    """The image in the engine, to be pushed if staging lacks it; None if it was not built here."""
    digest: str | None = None
    """Of the image as it was recorded when it was built."""
    lock: Lock | None = None
    revision: int = 1
    """Above 1 the immutable tag ends in `-r<revision>`: a cell that was built again."""
    platform: Platform = Platform.AMD64
    if_measured: tuple[str, ...] | None = None
    """Further targets that count where the image was measured on them; targets without proof are then left out. None:
    just the targets that were asked for, all of them."""

    @property
    def release_tag(self) -> str:
        """The immutable tag, without the ending of a level."""
        return self.tag + (f"-r{self.revision}" if self.revision > 1 else "")


def candidate_of(
    cell: Cell,
    kept: Iterable[KeptRecord],
    promise: Promise,
    *,
    targets: Sequence[str],
    revision: int,
    lock: Callable[[Cell], Lock | None],
) -> Candidate:
    """Return what is to be published of a cell, by the record of its newest build.

    Args:
        targets: asked for; none means those of the cell, and whatever else the image was measured on.
        lock: reads the lock of a cell.

    Raises:
        UsageError: a target is neither the cell's nor the policy's.
        PolicyRefused: the lock has changed since the cell was built.
    """
    records = list(kept)
    built = _newest_build(cell, records)
    found = lock(cell) if cell.kind == "build" and built else None
    if found is not None and built is not None and built.lock_digest not in (None, lock_digest(found)):
        raise PolicyRefused(
            f"the lock of {cell.id} changed since it was built; its bill of materials would describe another image",
            hint=f"assay build {cell.id}",
        )
    promised = promise.terms.targets(cell.image)
    known = tuple(dict.fromkeys([*cell.targets, *promised]))
    for target in targets:
        if target not in known:
            raise UsageError(
                f"{cell.id} is not made for {target}, and the policy has no rule for it there",
                hint=f"its targets: {', '.join(known)}",
            )
    return Candidate(
        cell=cell.id,
        tag=cell.tag,
        image=cell.image,
        targets=tuple(targets) or cell.targets,
        staging_tag=built.content_key.removeprefix("sha256:") if built and built.content_key else cell.tag,
        kind=cell.kind,
        local=cell.local_reference if built and cell.kind == "build" else None,
        digest=_newest_digest(cell, records, built.content_key) if built else None,
        lock=found,
        revision=revision,
        platform=cell.platform,
        if_measured=None if targets else promised,
    )


def _newest_build(cell: Cell, kept: Iterable[KeptRecord]) -> BuildRecord | None:
    built = None
    for one in kept:
        record = one.record
        if not isinstance(record, BuildRecord) or not one.intact or record.cell != cell.id or not record.content_key:
            continue
        if record.status in (BuildStatus.BUILT, BuildStatus.CACHED):
            built = record
    return built


def _newest_digest(cell: Cell, kept: Iterable[KeptRecord], key: str | None) -> str | None:
    """Return the digest of a cell's newest image of a key: a record of an image that was there already has none."""
    found = None
    for one in kept:
        record = one.record
        if isinstance(record, BuildRecord) and one.intact and (record.cell, record.content_key) == (cell.id, key):
            found = record.image_digest or found
    return found


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A candidate with the manifest that is judged, named and pulled."""

    candidate: Candidate
    descriptor: Descriptor
    staging: Repository
    release: Repository

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return self.descriptor.digest

    @property
    def staged(self) -> str:
        """Reference of the manifest in staging."""
        return self.staging.at(self.digest)

    @property
    def pull(self) -> str:
        """The command that pulls the manifest once it is published."""
        return f"docker pull {self.release.at(self.digest)}"


def stage(
    candidate: Candidate,
    policy: Policy,
    *,
    registry: Registry,
    engine: Engine | None,
    layers: LayerStore | None = None,
    write: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Subject:
    """Return what staging has of a candidate; push it there first if it is not there yet.

    Args:
        layers: has the images that were assembled here, which are pushed without the engine.
        write: False asks which digest a push would give, and writes nothing.

    Raises:
        PolicyRefused: it is not in staging, and was not built here.
        EngineError: `write` is False, and the engine cannot tell the digest.
        RegistryError: it arrives under another digest than was sent.
    """
    staging = Repository.parse(policy.repositories.staging_of(candidate.image))
    release = Repository.parse(policy.repositories.release_of(candidate.image))
    name = staging.tagged(candidate.staging_tag)
    found = registry.resolve(staging, candidate.staging_tag)
    if found is None:
        sender = _sender(candidate, engine, layers, say)
        if sender is None:
            raise _not_staged(candidate, name)
        found = _sent(sender, registry, staging, candidate.staging_tag, say) if write else sender.digest()
    return Subject(candidate=candidate, descriptor=found, staging=staging, release=release)


class _Sender(Protocol):
    """Has a candidate's image."""

    def digest(self) -> Descriptor:
        """Return which digest a push would give."""
        ...

    def push(self, registry: Registry, staging: Repository, tag: str) -> str:
        """Push it and return its digest."""
        ...


def _sender(
    candidate: Candidate, engine: Engine | None, layers: LayerStore | None, say: Callable[[str], None]
) -> _Sender | None:
    """Return who has the image: the store of layers where it was assembled here, else the engine."""
    kept = layers.image(candidate.digest) if layers is not None and candidate.digest is not None else None
    if layers is not None and kept is not None and all(layers.has(one.digest, one.size) for one in kept[0].layers):
        return _FromLayers(*kept, layers, say)
    return _FromEngine(candidate, engine, say) if candidate.local is not None and engine is not None else None


def _sent(sender: _Sender, registry: Registry, staging: Repository, tag: str, say: Callable[[str], None]) -> Descriptor:
    started = time.monotonic()
    digest = sender.push(registry, staging, tag)
    say(f"pushed in {time.monotonic() - started:.0f} s")
    found = registry.resolve(staging, tag)
    if found is None or found.digest != digest:
        there = found.digest if found else "nothing"
        name = staging.tagged(tag)
        raise RegistryError(f"{name} was pushed as {digest}, the registry has {there}", hint="publish again")
    return found


class _FromLayers:
    """An image that was assembled here; the engine is not asked, and need not have it."""

    def __init__(self, manifest: Manifest, config: bytes, layers: LayerStore, say: Callable[[str], None]) -> None:
        self._manifest = manifest
        self._config = config
        self._layers = layers
        self._say = say

    def digest(self) -> Descriptor:
        self._say(f"not in staging yet: would push {self._manifest.digest[:19]}, as it was assembled here")
        return self._manifest.descriptor

    def push(self, registry: Registry, staging: Repository, tag: str) -> str:
        self._say(f"pushing {self._manifest.digest[:19]} to {staging.tagged(tag)}")
        push(
            self._manifest, self._config, registry, staging, tag,
            opened=self._layers.opened, siblings=self._layers.pushed_to, say=self._say,
        )  # fmt: skip
        self._layers.note_push([one.digest for one in self._manifest.layers], staging)
        return self._manifest.digest


class _FromEngine:
    """An image that the engine holds."""

    def __init__(self, candidate: Candidate, engine: Engine, say: Callable[[str], None]) -> None:
        assert candidate.local is not None
        self._cell = candidate.cell
        self._local = candidate.local
        self._engine = engine
        self._say = say

    def digest(self) -> Descriptor:
        held = self._engine.image(self._local)
        if held is None or held.digest is None:
            raise EngineError(
                f"{self._local} is not in staging, and the engine cannot tell which digest it will have",
                hint=f"assay build {self._cell}; publishing without --dry-run pushes it to staging first",
            )
        self._say(f"not in staging yet: would push {self._local}; judged by the digest that the engine gives")
        return Descriptor(media_type=MANIFEST, digest=held.digest, size=0)

    def push(self, registry: Registry, staging: Repository, tag: str) -> str:  # noqa: ARG002 - the engine speaks itself
        name = staging.tagged(tag)
        self._say(f"pushing {self._local} to {name}")
        self._engine.tag(self._local, name)
        digest = self._engine.push(name)
        # Only the name goes: the engine is not a store of candidates.
        self._engine.remove_image(name)
        return digest


def _not_staged(candidate: Candidate, name: str) -> PolicyRefused:
    if candidate.kind == "build":
        return PolicyRefused(
            f"{candidate.cell} was not built here, and {name} is not in staging",
            hint=f"assay build {candidate.cell}; or name only the cells to publish",
        )
    return PolicyRefused(
        f"{candidate.cell} is made elsewhere, and {name} is not in staging",
        hint="copy it there with skopeo, which keeps its digest (docs/how-to/publish.md)",
    )
