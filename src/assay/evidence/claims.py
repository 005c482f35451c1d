"""The claims ledger of an image: what documents and threads say works or not, beside what was predicted and measured.

A claim is never a record: it has a source and a date, and stands in a column of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from assay.engines.table import EngineOrNone
from assay.evidence.record import AuditRecord, FeatureResult, ProbeRecord
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value
from assay.foundation.text import Date, PlainText, Specifier, TargetName
from assay.foundation.yamltext import load, parse

__all__ = ["COLUMNS", "Claim", "ClaimLine", "applies", "compare", "read", "rows"]


class Claim(Value):
    """What one source says of one feature."""

    feature: str
    outcome: Outcome
    target: TargetName
    engine: EngineOrNone = "none"
    """The engine whose versions the claim is about; `none`: any."""
    versions: Specifier = ""
    """Versions of the engine that it speaks of; empty: it does not say."""
    says: PlainText
    """Its own words, shortened or translated."""
    source: PlainText
    """The address of a thread, or the title of one of the users' documents."""
    date: Date
    """When it was written."""


class _Ledger(Value):
    version: Literal["1"]
    claims: tuple[Claim, ...]


def read(text: str, *, file: str) -> tuple[Claim, ...]:
    """Read an images/<image>/claims.yaml.

    Raises:
        ConfigError: it is wrong, with every place.
    """
    return parse(load(text, file=file), _Ledger).claims


def applies(claim: Claim, *, target: str, engine: str, version: str) -> bool:
    """Tell whether a claim speaks of this target and this version of the engine.

    A claim that names versions says nothing of an image whose version nobody knows.
    """
    if claim.target != target or claim.engine not in ("none", engine):
        return False
    if not claim.versions:
        return True
    try:
        return SpecifierSet(claim.versions).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


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
        if self.measured is None or self.measured.outcome in _OPEN:
            return "claims differ" if len({_good(item.outcome) for item in self.claims}) > 1 else ""
        good = _good(self.measured.outcome)
        flags: list[str] = []
        if self.predicted is not None and self.predicted not in _OPEN and _good(self.predicted) != good:
            flags.append("works against the prediction" if good else "fails against the prediction")
        newest = max(self.claims, key=lambda item: item.date, default=None)
        if newest is not None and newest.outcome not in _OPEN and _good(newest.outcome) != good:
            flags.append("works against the claim" if good else "fails against the claim")
        return "; ".join(flags)


_OPEN = frozenset({Outcome.INCONCLUSIVE, Outcome.NOT_RUN})


def _good(outcome: Outcome) -> bool:
    return outcome is Outcome.WORKS


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
