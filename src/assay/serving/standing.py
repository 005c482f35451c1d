"""The evidence for an engine's features in one image on one GPU: records, then the audit, then claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from assay.engines.knowledge import EngineFlags
from assay.engines.table import EngineName
from assay.evidence.record import AnyRecord, AuditRecord, ProbeRecord, ServeRecord, ServeStatus, file_name
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value
from assay.foundation.text import Date, PlainText, Specifier, TargetName

__all__ = ["Basis", "ServingClaim", "ServingClaims", "Standing", "standings"]

Basis = Literal["record", "audit", "claim", "nothing"]
_MEASURED: Final = frozenset({Outcome.WORKS, Outcome.DEGRADED, Outcome.WRONG, Outcome.BROKEN, Outcome.UNSUPPORTED})


class ServingClaim(Value):
    """What a document says of a feature."""

    target: TargetName
    engine: EngineName
    versions: Specifier
    feature: str
    outcome: Outcome
    reason: PlainText = ""
    source: PlainText
    date: Date


class ServingClaims(Value):
    """knowledge/serving_claims.yaml."""

    version: Literal["1"]
    claims: tuple[ServingClaim, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The evidence for one feature."""

    feature: str
    outcome: Outcome
    basis: Basis
    source: str
    """The record's file name, the audit's, or the document."""
    reason: str = ""

    @property
    def usable(self) -> bool:
        """Whether it may be used: it works, or nothing at all speaks against it."""
        return self.outcome is Outcome.WORKS or self.basis == "nothing"

    def __str__(self) -> str:
        if self.basis == "nothing":
            return f"{self.feature}: nothing is recorded or claimed"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.feature}: {self.outcome}{why}, {self.basis} {self.source}"


def standings(
    knowledge: EngineFlags,
    version: str,
    *,
    target: str,
    cell: str,
    digest: str | None,
    records: Iterable[AnyRecord],
    claims: Iterable[ServingClaim] = (),
) -> Mapping[str, Standing]:
    """Return a standing for every feature that can be switched, and for every attention backend's.

    A record counts if it is of this digest (of this cell, where no digest is known) and was measured on a GPU of this
    target. Of several records the newest that measured the feature decides.
    """
    probes = {name: known.probes for name, known in knowledge.features.items()}
    probes |= {choice.feature: choice.probes for choice in knowledge.attention.choices}
    mine = sorted(
        (record for record in records if _is_of(record, cell, digest)), key=lambda one: one.created, reverse=True
    )
    result: dict[str, Standing] = {}
    for feature, names in probes.items():
        result[feature] = (
            _served(feature, knowledge, target, mine)
            or _probed(feature, names, target, mine)
            or _audited(feature, names, target, mine)
            or _claimed(feature, knowledge.name, version, target, claims)
            or Standing(feature=feature, outcome=Outcome.NOT_RUN, basis="nothing", source="")
        )
    return result


def _is_of(record: AnyRecord, cell: str, digest: str | None) -> bool:
    return record.image_digest == digest if digest is not None else record.cell == cell


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


def _probed(feature: str, names: Sequence[str], target: str, records: Sequence[AnyRecord]) -> Standing | None:
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
                basis="record",
                source=file_name(record),
                reason=" ".join(reason.split())[:120],
            )
            if found.outcome in _MEASURED:
                return standing
            inconclusive = inconclusive or standing
    return inconclusive


def _audited(feature: str, names: Sequence[str], target: str, records: Sequence[AnyRecord]) -> Standing | None:
    for record in records:
        if not isinstance(record, AuditRecord):
            continue
        predicted = record.predictions.get(target, {})
        for name in (feature, *names):
            outcome = predicted.get(name)
            # The audit cannot show that something works, only that it cannot.
            if outcome in {Outcome.BROKEN, Outcome.UNSUPPORTED, Outcome.WRONG}:
                assert outcome is not None
                return Standing(feature=feature, outcome=outcome, basis="audit", source=file_name(record))
    return None


def _claimed(feature: str, engine: str, version: str, target: str, claims: Iterable[ServingClaim]) -> Standing | None:
    fitting = [
        claim
        for claim in claims
        if (claim.feature, claim.engine, claim.target) == (feature, engine, target) and _holds(claim.versions, version)
    ]
    if not fitting:
        return None
    newest = max(fitting, key=lambda claim: claim.date)
    source = f'"{newest.source}" of {newest.date}'
    return Standing(feature=feature, outcome=newest.outcome, basis="claim", source=source, reason=newest.reason)


def _holds(condition: str, version: str) -> bool:
    try:
        return SpecifierSet(condition).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
