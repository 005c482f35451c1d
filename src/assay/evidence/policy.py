"""Judges raw records against a level of the policy: which tags an image may have, and every reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pydantic import computed_field, field_serializer

from assay.evidence.record import AuditRecord, FeatureResult, ProbeRecord, Record
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.policy import Basis, Level, Requirement

__all__ = ["FeatureLine", "JudgementDocument", "PolicyJudgement", "Reason", "Why", "judge"]

SKEW: Final = timedelta(minutes=5)
"""How far the clocks of two machines may differ before a record comes from the future."""
SEVERITY: Final = {Verdict.OK: 0, Verdict.WARN: 1, Verdict.FAIL: 2}


class Why(StrEnum):
    """The kinds of refusal, for programs."""

    NO_PROMISE = "no-promise"
    """The level says nothing about this image on this target."""
    NO_RECORD = "no-record"
    OTHER_DIGEST = "other-digest"
    OTHER_ARCHITECTURE = "other-architecture"
    OTHER_PLATFORM = "other-platform"
    OTHER_IMAGE = "other-image"
    OTHER_CELL = "other-cell"
    """The tag is the name of another cell than the one that was verified."""
    OTHER_REPOSITORY = "other-repository"
    """The evidence speaks of another repository than the one it lies in."""
    OUTSIDE_CONTAINER = "outside-container"
    OLD_SUITE = "old-suite"
    TOO_OLD = "too-old"
    FROM_THE_FUTURE = "from-the-future"
    FEATURE = "feature"
    AUDIT = "audit"
    UNSIGNED = "unsigned"
    EVIDENCE = "evidence"
    """A piece of evidence is damaged or its signature does not hold."""
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True, order=True)
class Reason:
    """One reason to refuse a tag."""

    why: Why
    message: str

    def __str__(self) -> str:
        return self.message


class FeatureLine(Value):
    """The outcome of one feature, and what the level requires."""

    feature: str
    outcome: Outcome
    wanted: tuple[Outcome, ...]
    """Empty: the level does not speak of it."""
    reason: str = ""
    measured: datetime | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all requirements are met."""
        return not self.wanted or self.outcome in self.wanted

    @field_serializer("measured", when_used="json")
    def _iso(self, measured: datetime | None) -> str | None:
        return measured.isoformat() if measured else None


class JudgementDocument(Value):
    """A judgement as `assay verify` and `assay publish` write it."""

    level: str
    basis: Basis
    image: str
    target: str
    ok: bool
    features: tuple[FeatureLine, ...]
    devices: tuple[str, ...]
    """Names of the GPUs that it was measured on."""
    measured: str | None
    """When the newest record that counted was made, in ISO 8601."""
    audit: Verdict | None
    """What the audit says of the target, where the level asks for one."""
    reasons: tuple[Reason, ...]
    """Why the tag may not be given."""


@dataclass(frozen=True, kw_only=True)
class PolicyJudgement:
    """The result of a level for one digest on one target."""

    level: str
    basis: Basis
    image: str
    target: str
    digest: str
    features: tuple[FeatureLine, ...] = ()
    reasons: tuple[Reason, ...] = ()
    probes: tuple[ProbeRecord, ...] = ()
    """The records that counted."""
    audit: AuditRecord | None = None
    audited: Verdict | None = None
    """What that audit says of the target."""
    requirement: Requirement = field(default_factory=Requirement)
    """What the level asks of the image on the target."""

    @property
    def ok(self) -> bool:
        """Whether the tag may be given."""
        return not self.reasons

    @property
    def records(self) -> tuple[Record, ...]:
        """All records that counted."""
        return (*self.probes, self.audit) if self.audit else self.probes

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the GPUs that it was measured on, sorted."""
        return tuple(sorted({device.name for record in self.probes for device in record.devices}))

    def document(self) -> JudgementDocument:
        """Return the judgement in its JSON form."""
        return JudgementDocument(
            level=self.level,
            basis=self.basis,
            image=self.image,
            target=self.target,
            ok=self.ok,
            features=self.features,
            devices=self.devices,
            measured=self.probes[-1].created.isoformat() if self.probes else None,
            audit=self.audited,
            reasons=self.reasons,
        )


def judge(
    *,
    name: str,
    level: Level,
    image: str,
    target: str,
    digest: str,
    records: Iterable[Record],
    suite: str | None,
    now: datetime,
    platform: Platform | None = None,
) -> PolicyJudgement:
    """Judge a digest by the records that are at hand.

    Of each feature the newest result counts, `inconclusive` too: a feature that failed to show itself last is not one
    that works. Records of other digests or architectures are reasons only if no matching record is left.

    Args:
        suite: digest of the probe suite that counts as current; None if it is not known here.
        platform: of the image; records of others are reasons, not proof. None where the digest alone tells.
        now: the moment that ages are counted to, UTC.
    """
    requirement = level.requirement(image, target)
    everything = list(records)
    foreign = [one for one in everything if platform is not None and one.runs_on is not platform]
    everything = [one for one in everything if one not in foreign]
    reasons: list[Reason] = []
    if requirement is None:
        promised = ", ".join(f"{who} on {where}" for who, targets in level.images.items() for where in targets)
        reasons.append(
            Reason(
                why=Why.NO_PROMISE,
                message=f"the level {name!r} says nothing about {image or 'this image'} on {target} (only: {promised})",
            )
        )
        requirement = Requirement()
    probes: list[ProbeRecord] = []
    features: tuple[FeatureLine, ...] = ()
    if level.basis is Basis.PROBE:
        probes, refused = _fitting(everything, level, image, target, digest, suite=suite, now=now)
        reasons += refused
        features = _features(probes, requirement)
        if probes:
            reasons += [_missing(line) for line in features if not line.ok]
    reasons += [] if probes else _foreign(foreign, digest, platform)
    audit, verdict, refused = _audit(everything, level, target, digest, now=now)
    reasons += refused
    return PolicyJudgement(
        level=name,
        basis=level.basis,
        image=image,
        target=target,
        digest=digest,
        features=features,
        reasons=tuple(dict.fromkeys(reasons)),
        probes=tuple(probes),
        audit=audit,
        audited=verdict,
        requirement=requirement,
    )


def _foreign(records: Iterable[Record], digest: str, platform: Platform | None) -> list[Reason]:
    """Return a reason if a digest was measured on another platform: the digest of an index names images of several."""
    measured = [one for one in records if one.image_digest == digest and isinstance(one, ProbeRecord)]
    words = [
        f"{digest[:19]} was measured on {one.runs_on}, which says nothing about {platform}" for one in measured[-1:]
    ]
    return [Reason(why=Why.OTHER_PLATFORM, message=message) for message in words]


def _fitting(
    records: Sequence[Record],
    level: Level,
    image: str,
    target: str,
    digest: str,
    *,
    suite: str | None,
    now: datetime,
) -> tuple[list[ProbeRecord], list[Reason]]:
    """Return the probe records that count, oldest first, or the reasons why none does."""
    fitting: list[ProbeRecord] = []
    against: list[Reason] = []
    probes = (one for one in records if isinstance(one, ProbeRecord))
    # What was measured of quite another image is no news here, nor of others of this one where it was measured itself.
    near = [one for one in probes if one.image_digest == digest or one.image == image]
    near = [one for one in near if one.image_digest == digest] or near
    for record in sorted(near, key=lambda one: (one.created, one.run)):
        reason = _against(record, level, image, target, digest, suite=suite, now=now)
        if reason is None:
            fitting.append(record)
        else:
            against.append(reason)
    if fitting:
        return fitting, []
    if against:
        return [], against
    return [], [Reason(why=Why.NO_RECORD, message=f"no probe ran on {digest[:19]} on {target}")]


def _against(
    record: ProbeRecord, level: Level, image: str, target: str, digest: str, *, suite: str | None, now: datetime
) -> Reason | None:
    called = f"the record of {record.created:%Y-%m-%d %H:%M} (run {record.run})"
    if record.image_digest != digest:
        other = record.image_digest or "no digest"
        return Reason(why=Why.OTHER_DIGEST, message=f"{called} is about {other[:19]}, not about {digest[:19]}")
    if record.image and image and record.image != image:
        return Reason(why=Why.OTHER_IMAGE, message=f"{called} is about the image {record.image}, not {image}")
    seen = {device.target for device in record.devices}
    if seen != {target}:
        told = ", ".join(sorted(f"{device.name} ({device.target})" for device in record.devices)) or "no GPU"
        return Reason(why=Why.OTHER_ARCHITECTURE, message=f"{called} was measured on {told}, not on {target}")
    if record.executor == "local":
        return Reason(why=Why.OUTSIDE_CONTAINER, message=f"{called} was measured outside a container")
    if suite is not None and record.suite_digest != suite:
        return Reason(
            why=Why.OLD_SUITE,
            message=f"{called} was made by the probe suite {record.suite_digest[:19]}; now it is {suite[:19]}",
        )
    if (untimely := _untimely(record, level, now)) is not None:
        return Reason(why=untimely[0], message=f"{called} {untimely[1]}")
    return None


def _features(probes: Sequence[ProbeRecord], requirement: Requirement) -> tuple[FeatureLine, ...]:
    newest: dict[str, tuple[FeatureResult, datetime]] = {}
    for record in probes:
        for feature, result in record.features.items():
            if result.outcome is not Outcome.NOT_RUN or feature not in newest:
                newest[feature] = (result, record.created)
    wanted = dict.fromkeys(requirement.works, (Outcome.WORKS,)) | dict.fromkeys(
        requirement.may_be_unsupported, (Outcome.WORKS, Outcome.UNSUPPORTED)
    )
    lines = []
    for feature in [*wanted, *sorted(newest.keys() - wanted.keys())]:
        found = newest.get(feature)
        lines.append(
            FeatureLine(
                feature=feature,
                outcome=found[0].outcome if found else Outcome.NOT_RUN,
                wanted=wanted.get(feature, ()),
                reason=found[0].reason if found else "no record mentions it",
                measured=found[1] if found else None,
            )
        )
    return tuple(lines)


def _missing(line: FeatureLine) -> Reason:
    wanted = " or ".join(line.wanted)
    why = f": {line.reason}" if line.reason else ""
    return Reason(why=Why.FEATURE, message=f"{line.feature} must be {wanted}, and is {line.outcome}{why}")


def _audit(
    records: Sequence[Record], level: Level, target: str, digest: str, *, now: datetime
) -> tuple[AuditRecord | None, Verdict | None, list[Reason]]:
    """Return the newest audit that counts, its verdict, and the reasons against it."""
    audits = [
        record
        for record in records
        if isinstance(record, AuditRecord)
        and record.subject == "image"
        and record.image_digest == digest
        and target in record.targets
    ]
    timed = [(one, _untimely(one, level, now)) for one in audits]
    newest = max((one for one, late in timed if late is None), key=lambda record: record.created, default=None)
    verdict = newest.on(target) if newest else None
    if level.audit is None:
        return newest, verdict, []
    if newest is None or verdict is None:
        message = f"there is no audit of {digest[:19]} for {target}; the level requires {level.audit} or better"
        told = [
            Reason(why=late[0], message=f"the audit of {one.created:%Y-%m-%d %H:%M} {late[1]}")
            for one, late in timed
            if late is not None
        ]
        return None, None, told or [Reason(why=Why.AUDIT, message=message)]
    if SEVERITY[verdict] > SEVERITY[level.audit]:
        message = f"the audit says {verdict}, the level allows {level.audit} at worst" + (
            f": {'; '.join(newest.summary[:3])}" if newest.summary else ""
        )
        return newest, verdict, [Reason(why=Why.AUDIT, message=message)]
    return newest, verdict, []


def _untimely(record: Record, level: Level, now: datetime) -> tuple[Why, str] | None:
    """Return why a record's time is refused: it is in the future, or older than the level allows."""
    if record.created > now + SKEW:
        return Why.FROM_THE_FUTURE, "lies in the future"
    days = (now - record.created).total_seconds() / 86400
    if level.max_age_days is not None and days > level.max_age_days:
        return Why.TOO_OLD, f"is {days:.1f} days old; the limit is {level.max_age_days:g}"
    return None
