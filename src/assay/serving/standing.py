"""The evidence for an engine's features in one image on one GPU: records, then the audit, then claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from assay.engines.knowledge import EngineFlags
from assay.engines.table import release_in
from assay.evidence.claims import Claim, applies
from assay.evidence.ranking import FRESH, Basis, Standing, rank
from assay.evidence.record import AnyRecord, AuditRecord, ProbeRecord, ServeRecord, ServeStatus, file_name
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform

__all__ = ["standings"]

_PREDICTED: Final = frozenset({Outcome.WORKS, Outcome.BROKEN, Outcome.UNSUPPORTED, Outcome.WRONG})
_MEASURED: Final = frozenset({Outcome.WORKS, Outcome.DEGRADED, Outcome.WRONG, Outcome.BROKEN, Outcome.UNSUPPORTED})


def standings(
    knowledge: EngineFlags,
    version: str,
    *,
    target: str,
    cell: str,
    digest: str | None,
    platform: Platform = Platform.AMD64,
    records: Iterable[AnyRecord],
    claims: Iterable[Claim] = (),
    more: Iterable[str] = (),
) -> Mapping[str, Standing]:
    """Return a standing for every feature that can be switched, for every attention backend's, and for `more` features.

    A record counts if it is of this digest (of this cell, where no digest is known) and was measured on a GPU of this
    target and on this platform. Of several records the newest that measured the feature decides. Probes of other
    digests with the same versions come next; then the audit and the claims (`evidence.ranking`).
    """
    probes = {name: known.probes for name, known in knowledge.features.items()}
    probes |= {choice.feature: choice.probes for choice in knowledge.attention.choices}
    probes |= {name: (name,) for name in more if name not in probes}
    everything = sorted((one for one in records if one.runs_on is platform), key=lambda one: one.created, reverse=True)
    mine = [record for record in everything if _is_of(record, cell, digest)]
    alike = [record for record in everything if record not in mine and _has_versions(record, knowledge, version, mine)]
    claims = sorted(claims, key=lambda claim: claim.date, reverse=True)
    result: dict[str, Standing] = {}
    for feature, names in probes.items():
        found = (
            _served(feature, knowledge, target, mine),
            _probed(feature, names, target, mine, "record"),
            _probed(feature, names, target, alike, "record of these versions"),
            _audited(feature, names, target, mine),
            _claimed(feature, knowledge.name, version, target, claims),
        )
        result[feature] = rank(feature, (one for one in found if one is not None))
    return result


def _is_of(record: AnyRecord, cell: str, digest: str | None) -> bool:
    if digest is None:
        return record.cell == cell
    # The wheels are audited before there is an image.
    of_wheels = isinstance(record, AuditRecord) and record.image_digest is None and record.cell == cell
    return of_wheels or record.image_digest == digest


def _has_versions(record: AnyRecord, knowledge: EngineFlags, version: str, mine: Sequence[AnyRecord]) -> bool:
    """Return whether a record is of the same release of the engine and, where it is known, of torch."""
    if not isinstance(record, ProbeRecord) or record.executor == "local":
        return False
    own = next((one.packages for one in mine if isinstance(one, ProbeRecord | ServeRecord) and one.packages), {})
    torch = record.packages.get("torch")
    return release_in(record.packages, knowledge.name) == version and own.get("torch", torch) == torch


def _served(feature: str, knowledge: EngineFlags, target: str, records: Sequence[AnyRecord]) -> Standing | None:
    """A server that needed a feature off, or ran right with it on, says more than a probe of its kernels."""
    for record in records:
        if not isinstance(record, ServeRecord) or record.engine != knowledge.name:
            continue
        if target not in {device.target for device in record.devices}:
            continue
        source = file_name(record)
        if record.needed and feature in record.needed:
            return Standing(
                feature=feature,
                outcome=Outcome.BROKEN,
                basis="record",
                source=source,
                reason=f"the server starts only without it{f': {record.cause}' if record.cause else ''}",
            )
        if record.status is ServeStatus.OK and _was_used(feature, record, knowledge):
            return Standing(
                feature=feature, outcome=Outcome.WORKS, basis="record", source=source, reason="a server ran with it"
            )
    return None


def _was_used(feature: str, record: ServeRecord, knowledge: EngineFlags) -> bool:
    if feature == "cuda-graphs":
        graphs = record.chosen.get("cuda_graphs")
        return isinstance(graphs, int) and graphs > 0
    backend = str(record.chosen.get("attention_backend", "")).lower()
    return any(feature == one.feature and backend == one.value.lower() for one in knowledge.attention.choices)


def _probed(
    feature: str, names: Sequence[str], target: str, records: Sequence[AnyRecord], basis: Basis
) -> Standing | None:
    inconclusive: Standing | None = None
    for record in records:
        if not isinstance(record, ProbeRecord) or target not in {device.target for device in record.devices}:
            continue
        for name in names:
            found = record.features.get(name)
            if found is None or found.outcome is Outcome.NOT_RUN:
                continue
            reason = found.cause or found.reason
            standing = Standing(
                feature=feature,
                outcome=found.outcome,
                basis=basis,
                source=file_name(record),
                reason=" ".join(reason.split())[:120],
            )
            if found.outcome in _MEASURED:
                return standing
            inconclusive = inconclusive or standing
    return inconclusive


def _audited(feature: str, names: Sequence[str], target: str, records: Sequence[AnyRecord]) -> Standing | None:
    """Take the newest audit that predicts the feature; what speaks against it counts before what says it works."""
    for record in records:
        predictions = record.predictions.get(target, {}) if isinstance(record, AuditRecord) else {}
        predicted = [predictions[name] for name in (feature, *names) if predictions.get(name) in _PREDICTED]
        if predicted:
            outcome = next((one for one in predicted if one is not Outcome.WORKS), Outcome.WORKS)
            source = FRESH if record.run == FRESH else file_name(record)
            return Standing(feature=feature, outcome=outcome, basis="audit", source=source)
    return None


def _claimed(feature: str, engine: str, version: str, target: str, claims: Iterable[Claim]) -> Standing | None:
    for claim in claims:
        if claim.feature == feature and applies(claim, target=target, engine=engine, version=version):
            source = f'"{claim.source}" of {claim.date}'
            return Standing(feature=feature, outcome=claim.outcome, basis="claim", source=source, reason=claim.says)
    return None
