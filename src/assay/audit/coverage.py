"""What releases cover: features per target and platform as predicted from their wheels, and what changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Literal

from assay.audit.findings import AuditReport
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.strict import Value

__all__ = ["Coverage", "CoverageChange", "CoverageRow", "covered"]

CoverageState = Literal["works", "works_if", "degraded", "wrong", "broken", "unsupported", "inconclusive", "not_run"]


_NAMED = 6
"""Features that words name; the document has all."""


class CoverageRow(Value):
    """One release on one platform."""

    distribution: str
    version: str
    platform: str
    """`x86_64`, `aarch64`, or `any` of a wheel for all."""
    uploaded: str
    """The day of its upload, `2026-11-20`."""
    sha256: str = ""
    """Of the wheel that was read."""
    targets: dict[str, dict[str, CoverageState]] = {}
    """Target -> feature -> what is predicted. `works_if`: it works on a condition, such as PTX that the driver has to
    compile or a tool that has to be there."""
    problem: str = ""
    """Why it could not be read."""


class CoverageChange(Value):
    """What differs between a release and the one before it, on one platform."""

    distribution: str
    platform: str
    before: str
    after: str
    lost: dict[str, tuple[str, ...]] = {}
    """Target -> features that worked before and do not any more."""
    gained: dict[str, tuple[str, ...]] = {}
    """Target -> features that did not work before."""

    def words(self) -> Iterator[str]:
        """Yield it in words, targets with the same change together: `sm_121 lost marlin`."""
        for verb, found in (("lost", self.lost), ("gained", self.gained)):
            by_features: dict[tuple[str, ...], list[str]] = {}
            for target, features in found.items():
                by_features.setdefault(features, []).append(target)
            for features, targets in by_features.items():
                more = f" and {len(features) - _NAMED} more" if len(features) > _NAMED + 1 else ""
                named = features[:_NAMED] if more else features
                yield f"{', '.join(targets)} {verb} {', '.join(f'`{one}`' for one in named)}{more}"


class Coverage(Value):
    """All of it; also the JSON document."""

    schema_version: Literal[1] = 1
    made: str
    """The day on which it was made."""
    since: str
    """Releases from this day on."""
    rows: tuple[CoverageRow, ...]
    """By distribution, platform and version, oldest first."""

    @property
    def changes(self) -> tuple[CoverageChange, ...]:
        """Return what changed from each release to the next, where anything did; releases that were not read are
        skipped."""
        found: list[CoverageChange] = []
        read = [row for row in self.rows if not row.problem]
        for _, group in groupby(read, key=lambda row: (row.distribution, row.platform)):
            found += (change for one, other in pairwise(group) if (change := _change(one, other)) is not None)
        return tuple(found)

    @property
    def distributions(self) -> tuple[str, ...]:
        """Return the distributions, in their order."""
        return tuple(dict.fromkeys(row.distribution for row in self.rows))

    def newest(self, distribution: str) -> tuple[CoverageRow, ...]:
        """Return the newest release of a distribution that was read, on each platform."""
        found: dict[str, CoverageRow] = {}
        for row in self.rows:
            if row.distribution == distribution and not row.problem:
                found[row.platform] = row
        return tuple(found.values())


_GOOD = frozenset({"works", "works_if", "degraded"})


def _change(before: CoverageRow, after: CoverageRow) -> CoverageChange | None:
    lost: dict[str, tuple[str, ...]] = {}
    gained: dict[str, tuple[str, ...]] = {}
    for target, now in after.targets.items():
        then = before.targets.get(target, {})
        names = sorted({*then, *now})
        gone = tuple(one for one in names if then.get(one) in _GOOD and now.get(one) not in _GOOD)
        new = tuple(one for one in names if now.get(one) in _GOOD and then.get(one) not in _GOOD)
        lost |= {target: gone} if gone else {}
        gained |= {target: new} if new else {}
    if not lost and not gained:
        return None
    return CoverageChange(
        distribution=after.distribution,
        platform=after.platform,
        before=before.version,
        after=after.version,
        lost=lost,
        gained=gained,
    )


def covered(report: AuditReport, targets: Sequence[str]) -> dict[str, dict[str, CoverageState]]:
    """Return what a report predicts of the wheels asked about: target -> feature -> state."""
    found: dict[str, dict[str, CoverageState]] = {target: {} for target in targets}
    for one in report.predictions:
        if one.asked and one.target in found:
            conditional = one.outcome is Outcome.WORKS and one.verdict is not Verdict.OK
            found[one.target][one.feature] = "works_if" if conditional else one.outcome.value
    return found
