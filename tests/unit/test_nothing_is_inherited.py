"""Records, claims and predictions for one target or platform are never shown for another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from serving_choices import ENGINES

from assay.evidence import report
from assay.evidence.claims import Claim
from assay.evidence.policy import judge
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell
from assay.matrix.policy import Level
from assay.pages.gather import gather
from assay.pipeline.recommend import from_records
from assay.serving.choice import Option, choose
from assay.serving.standing import standings

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DIGEST = "sha256:" + "d" * 64
TARGETS = ("sm_90", "sm_103", "sm_120", "sm_121")
FEATURES = ("cuda-graphs", "marlin", "vllm-engine", "flash-attn-2")
CELL = "vllm-x-cu130"


def _device(target: str) -> Device:
    digits = target.removeprefix("sm_")
    return Device(name=target, capability=f"{digits[:-1]}.{digits[-1]}", memory_bytes=1 << 34)


@st.composite
def _records(draw: st.DrawFn) -> AnyRecord:
    target = draw(st.sampled_from(TARGETS))
    common: dict[str, Any] = {
        "created": NOW + timedelta(seconds=draw(st.integers(0, 500))),
        "run": "r",
        "cell": CELL,
        "image": "vllm-x",
        "image_digest": draw(st.sampled_from([DIGEST, None, "sha256:" + "e" * 64])),
        "platform": draw(st.sampled_from([*Platform, None])),
    }
    outcomes = draw(st.dictionaries(st.sampled_from(FEATURES), st.sampled_from(list(Outcome)), min_size=1))
    kind = draw(st.sampled_from(["probe", "audit", "serve"]))
    if kind == "probe":
        return ProbeRecord(
            **common,
            suite_digest="s",
            executor="docker",
            devices=(_device(target),),
            packages={"vllm": "0.33.0", "torch": "2.14.0"},
            features={name: FeatureResult(outcome=outcome) for name, outcome in outcomes.items()},
        )
    if kind == "audit":
        subject = draw(st.sampled_from(["wheels", "image"]))
        verdict = draw(st.sampled_from(list(Verdict)))
        return AuditRecord(
            **common, subject=subject, verdict=verdict, targets=(target,), verdicts={target: verdict},
            predictions={target: outcomes},
        )  # fmt: skip
    return ServeRecord(
        **common,
        engine="vllm",
        executor="docker",
        model="m",
        status=draw(st.sampled_from([ServeStatus.OK, ServeStatus.CRASHED])),
        devices=(_device(target),),
        chosen={"cuda_graphs": 4},
    )


@st.composite
def _claims(draw: st.DrawFn) -> Claim:
    return Claim(
        feature=draw(st.sampled_from(FEATURES)), outcome=draw(st.sampled_from([Outcome.WORKS, Outcome.BROKEN])),
        target=draw(st.sampled_from(TARGETS)), engine="vllm", source="a thread", date="2026-11-01",
    )  # fmt: skip


def _of(record: AnyRecord) -> set[str]:
    """Return the targets that a record speaks of."""
    return set(record.targets) if isinstance(record, AuditRecord) else {one.target for one in record.devices}  # type: ignore[union-attr]


def _shown(target: str, platform: Platform, records: Sequence[AnyRecord], claims: Sequence[Claim]) -> dict[str, object]:
    """Return all that advises people about a target and a platform."""
    cell = Cell(id=CELL, image="vllm-x", engine="vllm", kind="build", targets=(target,), platform=platform)
    option = Option(
        cell=CELL, image="vllm-x", reference="r", engine=ENGINES["vllm"], version="0.33.0", digest=DIGEST,
        platform=platform,
    )  # fmt: skip
    given: dict[str, Any] = {"target": target, "records": records, "claims": claims}
    standing = standings(ENGINES["vllm"], "0.33.0", cell=CELL, digest=DIGEST, platform=platform, **given)
    level = Level.model_validate(
        {"basis": "probe", "audit": "warn", "images": {"vllm-x": {target: {"works": ["marlin"]}}}}
    )
    judged = judge(
        name="verified", level=level, image="vllm-x", target=target, digest=DIGEST, records=records, suite="s",
        now=NOW, platform=platform,
    )  # fmt: skip
    (page,) = gather(records, [cell], made=NOW, claims=claims).cells
    (row,) = report.make([cell], records).rows
    return {
        "standings": standing,
        "choice": choose([option], kernels=("marlin",), **given),
        "recommended": from_records(records, target, [platform]),
        "policy": (judged.ok, judged.probes, judged.audit, judged.features),
        "page": sorted(
            (one.feature, str(one.source), str(one.outcome)) for one in page.results if one.target in (target, "")
        ),
        "report": row.probes.get(target),
    }


@settings(max_examples=150, deadline=None)
@given(
    target=st.sampled_from(TARGETS),
    platform=st.sampled_from(list(Platform)),
    records=st.lists(_records(), max_size=8),
    claims=st.lists(_claims(), max_size=4),
)
def test_what_is_shown_rests_on_its_own_target_and_platform_alone(
    target: str, platform: Platform, records: list[AnyRecord], claims: list[Claim]
) -> None:
    mine = [one for one in records if target in _of(one) and one.runs_on is platform]
    said = [one for one in claims if one.target == target]

    assert _shown(target, platform, mine, said) == _shown(target, platform, records, claims)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(_records(), min_size=1, max_size=6), platform=st.sampled_from(list(Platform)))
def test_nothing_is_recommended_where_nothing_was_measured(records: list[AnyRecord], platform: Platform) -> None:
    for target in TARGETS:
        measured = any(
            isinstance(one, ProbeRecord) and _of(one) == {target} and one.runs_on is platform for one in records
        )

        assert bool(from_records(records, target, [platform])) == measured
