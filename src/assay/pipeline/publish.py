"""Publishing on one page: each step takes the value of the step before and adds its own.

    Cell           what the matrix says
    Candidate      what is to be published of it, and what its tags would promise
    Subject        the manifest of it that staging has (pushed there if need be)
    JudgedSubject  what the records at hand show of that manifest on each target
    Proposal       which tags would move, and all that stands against it
    Verification   what others can verify in the release repository, once it is done

Nothing but the push to staging is written before the proposal is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from assay.evidence.record import KeptRecord
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.policy import Level
from assay.pipeline.publishing.candidate import Promise, candidate_of, stage
from assay.pipeline.publishing.execution import execute
from assay.pipeline.publishing.proposal import Proposal, judge_subject, propose
from assay.pipeline.publishing.tags import PublishPorts
from assay.ports.engine import Engine
from assay.ports.layers import LayerStore

__all__ = ["LocalPorts", "PublishOptions", "publish"]


@dataclass(frozen=True, kw_only=True)
class LocalPorts:
    """What this machine and its checkout have."""

    engine: Engine
    records: Callable[[], Iterable[KeptRecord]]
    """Gives all records at hand, oldest first."""
    document: Callable[[str], bytes | None]
    """Gives a document, an audit's report say, by its digest."""
    lock: Callable[[Cell], Lock | None]
    layers: LayerStore
    """Has the images that were assembled here."""
    measure: Callable[[str, Level], None]
    """Pulls an image, audits and probes it as a level asks for, and keeps the records."""


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """The options of publishing, beside the level."""

    targets: tuple[str, ...] = ()
    """None: those of the cell, and whatever else the image was measured on."""
    revision: int = 1
    dry_run: bool = False
    """Propose only; write nothing."""
    measure: bool = False
    """Audit and probe the image where its records do not suffice (not in a dry run)."""


def publish(
    cell: Cell,
    promise: Promise,
    options: PublishOptions,
    *,
    local: LocalPorts,
    ports: PublishPorts,
    review: Callable[[Proposal], None],
) -> Proposal:
    """Publish a cell, and return what was proposed and done.

    Args:
        review: is shown the proposal before anything is done.

    Raises:
        PolicyRefused: the records do not meet the policy (a dry run says so in the proposal).
        RegistryError: the registry failed; run the same again.
    """
    kept = tuple(local.records())
    candidate = candidate_of(cell, kept, promise, targets=options.targets, revision=options.revision, lock=local.lock)
    subject = stage(
        candidate,
        promise.policy,
        registry=ports.registry,
        engine=local.engine,
        layers=local.layers,
        write=not options.dry_run,
        say=ports.say,
    )
    judged = judge_subject(subject, kept, promise, document=local.document, now=ports.clock())
    if options.measure and not (judged.complete or options.dry_run):
        local.measure(subject.staged, promise.terms)
        judged = judge_subject(subject, local.records(), promise, document=local.document, now=ports.clock())
    proposal = propose(judged, ports)
    review(proposal)
    if not options.dry_run:
        execute(proposal, ports)
    return proposal
