"""The claims ledger of an image: what documents and threads say works or not, beside what was predicted and measured.

A claim is never a record: it has a source and a date, and stands in a column of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assay.engines.table import EngineName, EngineOrNone
from assay.evidence.ranking import OPEN, contradict
from assay.evidence.record import AuditRecord, FeatureResult, ProbeRecord
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value
from assay.foundation.text import Date, PlainText, Specifier, TargetName
from assay.foundation.versions import fits
from assay.foundation.yamltext import load, parse

__all__ = ["COLUMNS", "Claim", "ClaimLine", "applies", "compare", "read", "read_serving", "rows"]


class Claim(Value):
    """What one source says of one feature."""

    feature: str
    outcome: Outcome
    target: TargetName | Literal[""] = ""
    """Empty: it is about no particular architecture."""
    engine: EngineOrNone = "none"
    """The engine whose versions the claim is about; `none`: any."""
    versions: Specifier = ""
    """Versions of the engine that it is about; empty: it does not say."""
    image: str = ""
    cell: str = ""
    """Image and cell that it is about; empty: all that the other fields fit."""
    says: PlainText = ""
    """Its own words, shortened or translated."""
    source: PlainText
    """The address of a thread, or the title of one of the users' documents."""
    date: Date
    """When it was written."""


class _LedgerRow(Value):
    """A claim in images/<image>/claims.yaml."""

    feature: str
    outcome: Outcome
    target: TargetName
    engine: EngineOrNone = "none"
    versions: Specifier = ""
    says: PlainText
    source: PlainText
    date: Date


class _Ledger(Value):
    version: Literal["1"]
    claims: tuple[_LedgerRow, ...]


class _ServingRow(Value):
    """A claim in knowledge/serving_claims.yaml."""

    target: TargetName
    engine: EngineName
    versions: Specifier
    feature: str
    outcome: Outcome
    reason: PlainText = ""
    source: PlainText
    date: Date


class _ServingLedger(Value):
    version: Literal["1"]
    claims: tuple[_ServingRow, ...]


def read(text: str, *, file: str, image: str = "") -> tuple[Claim, ...]:
    """Read an images/<image>/claims.yaml.

    Raises:
        ConfigError: it is wrong, with every place.
    """
    rows = parse(load(text, file=file), _Ledger).claims
    return tuple(Claim(**row.model_dump(), image=image) for row in rows)


def read_serving(text: str, *, file: str) -> tuple[Claim, ...]:
    """Read knowledge/serving_claims.yaml.

    Raises:
        ConfigError: it is wrong, with every place.
    """
    rows = parse(load(text, file=file), _ServingLedger).claims
    return tuple(Claim(**row.model_dump(exclude={"reason"}), says=row.reason) for row in rows)


def applies(claim: Claim, *, target: str, engine: str, version: str) -> bool:
    """Tell whether a claim is about this target and this version of the engine.

    A claim that names versions says nothing about an image whose version nobody knows.
    """
    if claim.target not in ("", target) or claim.engine not in ("none", engine):
        return False
    return fits(version, claim.versions)


@dataclass(frozen=True, kw_only=True)
class ClaimLine:
    """One feature of one image on one target: three columns that are never mixed."""

    feature: str
    claims: tuple[Claim, ...] = ()
    predicted: Outcome | None = None
    """By the audit, from the binaries."""
    measured: FeatureResult | None = None
    """By a probe, on a GPU of exactly this target."""

    @property
    def flag(self) -> str:
        """What a reader should look at: differences, as tests show unexpected passes and failures."""
        if self.measured is None or self.measured.outcome in OPEN:
            return "claims differ" if len({item.outcome is Outcome.WORKS for item in self.claims}) > 1 else ""
        measured = self.measured.outcome
        word = "works" if measured is Outcome.WORKS else "fails"
        flags: list[str] = []
        if self.predicted is not None and contradict(measured, self.predicted):
            flags.append(f"{word} against the prediction")
        newest = max(self.claims, key=lambda item: item.date, default=None)
        if newest is not None and contradict(measured, newest.outcome):
            flags.append(f"{word} against the claim")
        return "; ".join(flags)


def compare(
    *,
    target: str,
    engine: str,
    version: str,
    claims: Iterable[Claim],
    audit: AuditRecord | None,
    probe: ProbeRecord | None,
) -> list[ClaimLine]:
    """Put claims, prediction and measurement of one image on one target side by side, one line for each feature.

    A probe record of another architecture measures nothing here: only one whose device is the target counts.
    """
    stated: dict[str, list[Claim]] = {}
    for claim in claims:
        if applies(claim, target=target, engine=engine, version=version):
            stated.setdefault(claim.feature, []).append(claim)
    predicted: Mapping[str, Outcome] = audit.predictions.get(target, {}) if audit is not None else {}
    measured: Mapping[str, FeatureResult] = {}
    if probe is not None and probe.devices and probe.devices[0].target == target:
        measured = probe.features
    return [
        ClaimLine(
            feature=name,
            claims=tuple(sorted(stated.get(name, ()), key=lambda item: item.date)),
            predicted=predicted.get(name),
            measured=measured.get(name),
        )
        for name in sorted({*stated, *predicted, *measured})
    ]


COLUMNS = ("feature", "claimed", "predicted (audit)", "measured", "cause", "log", "")


def rows(lines: Sequence[ClaimLine]) -> list[tuple[str, ...]]:
    """Return the rows of a table with `COLUMNS`; what nobody measured says so."""
    return [
        (
            line.feature,
            ", ".join(f"{item.outcome.symbol} {item.outcome} ({item.date})" for item in line.claims),
            f"{line.predicted.symbol} {line.predicted}" if line.predicted else "",
            f"{line.measured.outcome.symbol} {line.measured.outcome}" if line.measured else "not measured",
            (line.measured.cause or "") if line.measured else "",
            (line.measured.log or "") if line.measured else "",
            line.flag,
        )
        for line in lines
    ]
