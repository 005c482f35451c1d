"""Find the images that work on a GPU, from local records and evidence in registries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from assay.errors import ManifestMismatch, RegistryBroken, RegistryContent
from assay.evidence.judging import Demand, Verification, judge_evidence
from assay.evidence.oci import Descriptor
from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, ProbeRecord
from assay.evidence.reference import Reference, Repository
from assay.evidence.tagnames import ALIAS, is_cell_tag, names_cell
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.matrix.policy import alias_of
from assay.pipeline.collect import collect
from assay.ports.registry import Registry
from assay.ports.signing import Verifier
from assay.serving.choice import SERVES, Choice

__all__ = ["Offer", "from_choices", "from_records", "from_registry", "rank"]

TAGS: Final = 500
"""Tags of a repository that are looked at."""
Standing = Literal["attested", "recorded", "measured", "environment", "predicted", "unmeasured", "refused"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One image that was probed on the target."""

    reference: str
    """What to pull, or the cell where the image is not in a registry."""
    tags: tuple[str, ...]
    digest: str | None
    cell: str
    target: str
    platform: Platform = Platform.AMD64
    device: str
    measured: datetime
    features: Mapping[str, Outcome]
    standing: Standing
    """`attested`: published, evidence signed by a known key; `recorded`: published, not signed; `measured`: by a record
    at hand only; `environment`: measured outside of any image, so there is nothing to pull; `predicted`: a cell whose
    wheels were audited, nothing ran; `unmeasured`: published on an audit, nothing ran; `refused`: published, but its
    evidence no longer holds."""
    levels: tuple[str, ...] = ()
    note: str = ""
    place: int = 0
    """Its place among equals."""

    @property
    def usable(self) -> bool:
        """Whether it is a measured image without a reason against it."""
        return self.standing not in ("environment", "predicted", "unmeasured", "refused")

    def lacks(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Return the needs that were not measured to work."""
        return tuple(need for need in needs if self.features.get(need) is not Outcome.WORKS)


def from_records(
    records: Iterable[AnyRecord], target: str, platforms: Collection[Platform] = tuple(Platform)
) -> list[Offer]:
    """Return an offer for each image that was probed on a target; the newest results count.

    What was built here has its cell's name, whatever the machine that probed it called it.
    """
    everything = [one for one in records if one.runs_on in platforms]
    cells = {one.image_digest: one.cell for one in everything if isinstance(one, BuildRecord) and one.image_digest}
    groups: dict[tuple[str, str, Platform], list[ProbeRecord]] = {}
    for record in everything:
        if isinstance(record, ProbeRecord) and {device.target for device in record.devices} == {target}:
            digest = record.image_digest or ""
            groups.setdefault((cells.get(digest, record.cell), digest, record.runs_on), []).append(record)
    offers = []
    for (cell, digest, platform), group in groups.items():
        summary = _summary(group)
        offers.append(
            Offer(
                reference=cell,
                tags=(),
                digest=digest or None,
                cell=cell,
                target=target,
                platform=platform,
                device=summary.device,
                measured=summary.measured,
                features=summary.features,
                standing="environment" if all(one.executor == "local" for one in group) else "measured",
            )
        )
    return offers


@dataclass(frozen=True, kw_only=True)
class _Summary:
    device: str
    measured: datetime
    features: Mapping[str, Outcome]


def _summary(records: Sequence[ProbeRecord] | Sequence[AuditRecord]) -> _Summary:
    features: dict[str, Outcome] = {}
    ordered = sorted(records, key=lambda record: record.created)
    probes = [record for record in ordered if isinstance(record, ProbeRecord)]
    for record in probes:
        for feature, result in record.features.items():
            if result.outcome is not Outcome.NOT_RUN or feature not in features:
                features[feature] = result.outcome
    return _Summary(
        device=probes[-1].devices[0].name if probes and probes[-1].devices else "nothing ran",
        measured=ordered[-1].created,
        features=features,
    )


def from_choices(choices: Iterable[Choice], target: str, *, now: datetime) -> list[Offer]:
    """Return an offer for each cell of which something is predicted on a target, or measured on the same versions.

    Contradictions between what counts and weaker evidence are in the notes.
    """
    offers = []
    for place, choice in enumerate(choices):
        known = {name: one for name, one in choice.standings.items() if one.basis != "nothing" and name != SERVES}
        if not any(one.basis in ("audit", "record of these versions") for one in known.values()):
            continue
        against = [
            f"{name} is {other.outcome} by {other.source}" for name, one in known.items() for other in one.against[:1]
        ]
        offers.append(
            Offer(
                reference=choice.option.cell,
                tags=(),
                digest=choice.option.digest,
                cell=choice.option.cell,
                target=target,
                platform=choice.option.platform,
                device="nothing ran",
                measured=now,
                features={name: one.outcome for name, one in known.items()},
                standing="predicted",
                note=f"contradicted: {'; '.join(against[:2])}" if against else "",
                place=place,
            )
        )
    return offers


def from_registry(
    repository: Repository,
    target: str,
    *,
    registry: Registry,
    verifier: Verifier,
    now: datetime,
    platforms: Collection[Platform] = tuple(Platform),
    say: Callable[[str], None] = lambda _text: None,
) -> list[Offer]:
    """Return an offer for each tagged digest of a repository whose evidence speaks of a target.

    Args:
        platforms: of the machines that are asked about; images for others are not offered.
        say: told of what was not looked at.

    Raises:
        RegistryError: the registry failed.
    """
    named: dict[str, tuple[Descriptor, list[str]]] = {}
    tags = [tag for tag in registry.tags(repository) if not tag.startswith("sha256-")]
    # Aliases first: whoever may push may add tags without end.
    tags.sort(key=lambda tag: ALIAS.fullmatch(tag) is None)
    if len(tags) > TAGS:
        say(f"{repository} has {len(tags)} tags; {len(tags) - TAGS} of them were not checked")
    for tag in tags[:TAGS]:
        try:
            found = registry.resolve(repository, tag)
        except (ManifestMismatch, RegistryBroken, RegistryContent) as error:
            say(f"{repository.tagged(tag)} cannot be read: {error.message}")
            continue
        if found is not None:
            named.setdefault(found.digest, (found, []))[1].append(tag)
    asked = Demand(target=target, now=now, trusted=verifier.trusts_anyone)
    offers = []
    for digest, (subject, tags) in named.items():
        collected = collect(registry, repository, digest, verifier)
        seen = judge_evidence(Reference(repository=repository, digest=digest), subject, collected, asked)
        if offer := _offer(seen, tags, target, trusted=asked.trusted, platforms=platforms):
            offers.append(offer)
    return offers


def _offer(
    judged: Verification, tags: Sequence[str], target: str, *, trusted: bool, platforms: Collection[Platform]
) -> Offer | None:
    digest = judged.subject.digest
    counted = [piece for piece in judged.pieces if piece.signer or not trusted]
    about = [piece.record for piece in counted if piece.record and piece.record.image_digest == digest]
    about = [record for record in about if record.runs_on in platforms]
    probes = [one for one in about if isinstance(one, ProbeRecord) and {gpu.target for gpu in one.devices} == {target}]
    audits = [one for one in about if isinstance(one, AuditRecord) and target in one.targets]
    if not probes and not (audits and judged.judgements):
        # What was never published for this architecture says nothing about it.
        return None
    against = [*judged.reasons, *(reason for one in judged.judgements for reason in one.reasons)]
    levels = tuple(sorted({one.level for one in judged.judgements if one.ok}))
    summary = _summary(probes or audits)
    standing: Standing = "refused" if against else "attested" if trusted else "recorded"
    return Offer(
        reference=judged.reference.repository.at(digest),
        tags=_names(tags, judged, [alias_of(target, level) for level in levels]),
        digest=digest,
        cell=(probes or audits)[-1].cell,
        target=target,
        platform=(probes or audits)[-1].runs_on,
        device=summary.device,
        measured=summary.measured,
        features=summary.features,
        standing=standing if probes or against else "unmeasured",
        levels=levels,
        note="; ".join(reason.message for reason in against[:2]),
    )


def _names(tags: Sequence[str], judged: Verification, promised: Sequence[str]) -> tuple[str, ...]:
    """Return the tags that name what was published, those of cells first, then aliases, the promised ones first."""

    def published(tag: str) -> bool:
        return not is_cell_tag(tag) or any(names_cell(tag, one.cell, one.level) for one in judged.verdicts)

    own = sorted(tag for tag in tags if not ALIAS.fullmatch(tag) and published(tag))
    aliases = sorted(tag for tag in tags if ALIAS.fullmatch(tag))
    return (*own, *sorted(aliases, key=lambda tag: tag not in promised))


_WORTH: Mapping[Standing, int] = {
    "attested": 0,
    "recorded": 1,
    "measured": 2,
    "environment": 3,
    "predicted": 4,
    "unmeasured": 5,
    "refused": 6,
}


def rank(offers: Sequence[Offer], needs: Sequence[str]) -> list[Offer]:
    """Return the offers, best first: fewest missing features, then best standing, then newest.

    An image that is known here by a record and there by its evidence is one offer, the registry's.
    """
    published = {offer.digest for offer in offers if offer.standing != "measured"}
    return sorted(
        (offer for offer in offers if offer.standing != "measured" or offer.digest not in published),
        key=lambda offer: (
            not offer.usable,
            len(offer.lacks(needs)),
            _WORTH[offer.standing],
            -offer.measured.timestamp(),
            offer.place,
            offer.reference,
        ),
    )
