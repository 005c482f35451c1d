"""What is published: the candidate of a cell, what its tags would promise, and its manifest in staging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from assay.errors import EngineError, PolicyRefused, RegistryError, UsageError
from assay.evidence.oci import MANIFEST, Descriptor
from assay.evidence.record import BuildRecord, BuildStatus, KeptRecord
from assay.evidence.reference import Repository
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.matrix.policy import Level, Policy
from assay.ports.engine import Engine
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
    lock: Lock | None = None
    revision: int = 1
    """Above 1 the immutable tag ends in `-r<revision>`: a cell that was built again."""
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
    built = _newest_build(cell, kept)
    found = lock(cell) if cell.kind == "build" and built else None
    if found is not None and built is not None and built.lock_digest not in (None, lock_digest(found)):
        raise PolicyRefused(
            f"the lock of {cell.id} changed since it was built; its bill of materials would be of another image",
            hint=f"assay build {cell.id}",
        )
    promised = promise.terms.targets(cell.image)
    known = tuple(dict.fromkeys([*cell.targets, *promised]))
    for target in targets:
        if target not in known:
            raise UsageError(
                f"{cell.id} is not made for {target}, and the policy says nothing of it there",
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
        lock=found,
        revision=revision,
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
    push: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Subject:
    """Return what staging has of a candidate; push it there first if it is not there yet.

    Args:
        push: False asks the engine which digest a push would give, and writes nothing.

    Raises:
        PolicyRefused: it is not in staging, and was not built here.
        EngineError: `push` is False, and the engine cannot tell the digest.
        RegistryError: it arrives under another digest than was sent.
    """
    staging = Repository.parse(policy.repositories.staging_of(candidate.image))
    release = Repository.parse(policy.repositories.release_of(candidate.image))
    name = staging.tagged(candidate.staging_tag)
    found = registry.resolve(staging, candidate.staging_tag)
    if found is None:
        if candidate.local is None or engine is None:
            raise _not_staged(candidate, name)
        if push:
            digest = _push(engine, candidate.local, name, say)
            found = registry.resolve(staging, candidate.staging_tag)
            if found is None or found.digest != digest:
                there = found.digest if found else "nothing"
                raise RegistryError(f"{name} was pushed as {digest}, the registry has {there}", hint="publish again")
        else:
            found = _in_engine(engine, candidate, say)
    return Subject(candidate=candidate, descriptor=found, staging=staging, release=release)


def _push(engine: Engine, local: str, name: str, say: Callable[[str], None]) -> str:
    say(f"pushing {local} to {name}")
    started = time.monotonic()
    engine.tag(local, name)
    digest = engine.push(name)
    # Only the name goes: the engine is no store of candidates.
    engine.remove_image(name)
    say(f"pushed in {time.monotonic() - started:.0f} s")
    return digest


def _in_engine(engine: Engine, candidate: Candidate, say: Callable[[str], None]) -> Descriptor:
    held = engine.image(candidate.local) if candidate.local else None
    if held is None or held.digest is None:
        raise EngineError(
            f"{candidate.local} is not in staging, and the engine cannot tell which digest it will have",
            hint=f"assay build {candidate.cell}; publishing without --dry-run pushes it to staging first",
        )
    say(f"not in staging yet: would push {candidate.local}; judged by the digest that the engine gives")
    return Descriptor(media_type=MANIFEST, digest=held.digest, size=0)


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
