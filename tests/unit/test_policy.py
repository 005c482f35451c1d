"""The judge refuses what was not measured, and says why."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.adapters.files.records import FileStore
from assay.audit.findings import AuditReport, Finding, verdict_of
from assay.errors import StoreError
from assay.evidence.policy import Why, judge
from assay.evidence.record import AuditRecord, Device, FeatureResult, ProbeRecord, Record, dump, parse
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.policy import Level
from assay.pipeline.audit import keep_record

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
SUITE = "sha256:" + "5" * 64
LEVEL = Level.model_validate(
    {
        "max_age_days": 30,
        "audit": "warn",
        "images": {"sglang": {"sm_120": {"works": ["cuda-graphs"], "may_be_unsupported": ["marlin"]}}},
    }
)


def probe(**changes: Any) -> ProbeRecord:
    features = changes.pop("features", {"cuda-graphs": "works", "marlin": "unsupported"})
    capability = changes.pop("capability", "12.0")
    return ProbeRecord(
        **{
            "created": NOW - timedelta(days=1),
            "run": "run1",
            "cell": "sglang-cu128",
            "image": "sglang",
            "image_digest": DIGEST,
            "suite_digest": SUITE,
            "executor": "docker",
            "devices": (Device(name="RTX 5090", capability=capability, memory_bytes=32 << 30),),
            "packages": {"torch": "2.8.0"},
            "features": {name: FeatureResult(outcome=Outcome(outcome)) for name, outcome in features.items()},
            **changes,
        }
    )


def audit(verdict: str = "ok", **changes: Any) -> AuditRecord:
    return AuditRecord(
        **{
            "created": NOW - timedelta(days=1),
            "run": "run1",
            "cell": "sglang-cu128",
            "image_digest": DIGEST,
            "subject": "image",
            "verdict": Verdict(verdict),
            "targets": ("sm_120",),
            **changes,
        }
    )


def reasons(records: list[Record], level: Level = LEVEL, **changes: Any) -> list[Why]:
    judgement = judge(
        **{
            "name": "verified",
            "level": level,
            "image": "sglang",
            "target": "sm_120",
            "digest": DIGEST,
            "records": records,
            "suite": SUITE,
            "now": NOW,
            **changes,
        }
    )
    assert judgement.ok == (not judgement.reasons)
    return [reason.why for reason in judgement.reasons]


def test_measured_image_may_be_called_verified() -> None:
    assert reasons([probe(), audit()]) == []


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([audit()], Why.NO_RECORD),
        ([probe(image_digest="sha256:" + "b" * 64), audit()], Why.OTHER_DIGEST),
        ([probe(image_digest=None), audit()], Why.OTHER_DIGEST),
        ([probe(capability="9.0"), audit()], Why.OTHER_ARCHITECTURE),
        ([probe(image_digest="sha256:" + "b" * 64), probe(capability="9.0"), audit()], Why.OTHER_ARCHITECTURE),
        ([probe(devices=()), audit()], Why.OTHER_ARCHITECTURE),
        ([probe(image="vllm"), audit()], Why.OTHER_IMAGE),
        ([probe(image="vllm", image_digest="sha256:" + "b" * 64), audit()], Why.NO_RECORD),
        ([probe(executor="local"), audit()], Why.OUTSIDE_CONTAINER),
        ([probe(suite_digest="sha256:" + "4" * 64), audit()], Why.OLD_SUITE),
        ([probe(created=NOW - timedelta(days=31)), audit()], Why.TOO_OLD),
        ([probe(created=NOW + timedelta(hours=1)), audit()], Why.FROM_THE_FUTURE),
        ([probe(features={"cuda-graphs": "degraded", "marlin": "works"}), audit()], Why.FEATURE),
        ([probe(features={"cuda-graphs": "unsupported", "marlin": "works"}), audit()], Why.FEATURE),
        ([probe(features={"cuda-graphs": "works", "marlin": "broken"}), audit()], Why.FEATURE),
        ([probe(features={"marlin": "works"}), audit()], Why.FEATURE),
        ([probe()], Why.AUDIT),
        ([probe(), audit("fail")], Why.AUDIT),
        ([probe(), audit(image_digest="sha256:" + "b" * 64)], Why.AUDIT),
        ([probe(), audit(subject="wheels")], Why.AUDIT),
        ([probe(), audit(targets=("sm_90",))], Why.AUDIT),
        ([probe(), audit(targets=())], Why.AUDIT),
        ([probe(), audit("ok", verdicts={"sm_120": Verdict.FAIL})], Why.AUDIT),
    ],
)
def test_each_gap_has_its_reason(records: list[Record], expected: Why) -> None:
    assert reasons(records) == [expected]


def test_missing_code_for_another_gpu_does_not_matter() -> None:
    """An audit judges for all targets at once; that there is no code for one of them says nothing about the others."""
    here, elsewhere = audit("fail", verdicts={"sm_120": Verdict.WARN, "sm_89": Verdict.FAIL}), audit("fail")

    assert (Verdict.WARN, Verdict.FAIL) == (here.on("sm_120"), elsewhere.on("sm_120"))
    assert reasons([probe(), here]) == []


def test_an_audits_record_keeps_the_verdict_of_each_target(tmp_path: Path) -> None:
    findings = (
        Finding(rule="G1", severity=Severity.ERROR, target="sm_89", message="no code"),
        Finding(rule="R4", severity=Severity.WARNING, message="not declared"),
    )
    report = AuditReport(
        subject="image",
        name="x",
        python="3.11",
        base="slim",
        targets=("sm_89", "sm_120"),
        verdict=verdict_of(findings),
        findings=findings,
    )
    record = keep_record(FileStore(tmp_path), report, run="audit", cell=None, image_digest=DIGEST)

    assert Verdict.FAIL == record.verdict
    assert {"sm_89": Verdict.FAIL, "sm_120": Verdict.WARN} == record.verdicts


def test_two_gpus_of_two_kinds_prove_neither() -> None:
    devices = tuple(Device(name=name, capability=name, memory_bytes=1) for name in ("12.0", "9.0"))

    assert reasons([probe(devices=devices), audit()]) == [Why.OTHER_ARCHITECTURE]


def test_the_newest_result_of_a_feature_counts() -> None:
    older = probe(created=NOW - timedelta(days=2))
    newer = probe(features={"cuda-graphs": "inconclusive"}, run="run2")

    assert reasons([older, newer, audit()]) == [Why.FEATURE]
    assert reasons([probe(run="run3"), probe(created=NOW - timedelta(days=2), features={"cuda-graphs": "wrong"})]) == [
        Why.AUDIT
    ]


def test_results_of_several_runs_add_up() -> None:
    first = probe(features={"cuda-graphs": "works", "marlin": "not_run"})
    second = probe(features={"marlin": "works", "cuda-graphs": "not_run"}, run="run2")

    assert reasons([first, second, audit()]) == []


def test_an_unknown_image_or_target_is_promised_nothing() -> None:
    assert reasons([probe(image="vllm"), audit()], image="vllm") == [Why.NO_PROMISE]
    assert Why.NO_PROMISE in reasons([probe(capability="9.0"), audit(targets=())], target="sm_90")


def test_a_level_on_audits_needs_no_gpu() -> None:
    level = Level.model_validate({"basis": "audit", "audit": "warn"})

    assert reasons([audit("warn")], level) == []
    assert reasons([probe(), audit("fail")], level) == [Why.AUDIT]
    assert reasons([probe()], level) == [Why.AUDIT]


@given(
    outcomes=st.dictionaries(st.sampled_from(["cuda-graphs", "marlin", "other"]), st.sampled_from(list(Outcome))),
    same_digest=st.booleans(),
    capability=st.sampled_from(["12.0", "9.0", "10.0"]),
    days=st.floats(0, 60),
)
def test_only_images_that_meet_the_level_pass(
    outcomes: dict[str, Outcome], same_digest: bool, capability: str, days: float
) -> None:
    record = probe(
        features={name: outcome.value for name, outcome in outcomes.items()},
        image_digest=DIGEST if same_digest else "sha256:" + "c" * 64,
        capability=capability,
        created=NOW - timedelta(days=days),
    )
    allowed = (
        same_digest
        and capability == "12.0"
        and days <= 30
        and outcomes.get("cuda-graphs") is Outcome.WORKS
        and outcomes.get("marlin") in {Outcome.WORKS, Outcome.UNSUPPORTED}
    )

    assert allowed == (reasons([record, audit()]) == [])


@pytest.mark.parametrize("days", [3650, 0.1])
def test_an_audit_of_the_future_does_not_hide_todays(days: float) -> None:
    ahead = audit(created=NOW + timedelta(days=days))
    today = audit("fail", created=NOW, summary=("X9: torch lacks sm_120",))

    assert [Why.AUDIT] == reasons([probe(), ahead, today])
    assert [Why.FROM_THE_FUTURE] == reasons([probe(), ahead])


def test_an_audit_grows_old_like_a_probe() -> None:
    assert [Why.TOO_OLD] == reasons([probe(), audit(created=NOW - timedelta(days=31))])
    assert [] == reasons([probe(), audit(created=NOW - timedelta(days=29))])


@pytest.mark.parametrize("age", [1e300, float("inf"), float("nan"), 0, -1, 36_501])
def test_ages_that_no_clock_can_count_are_refused(age: float) -> None:
    with pytest.raises(ValueError, match="max_age_days"):
        Level(max_age_days=age, basis="audit", audit="ok")


@pytest.mark.parametrize(
    "created", ["2026-11-19T12:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "1e300", "[" * 100_000]
)
def test_record_without_a_time_is_refused(created: str) -> None:
    value = json.loads(dump(probe()))
    with pytest.raises(StoreError):
        parse(json.dumps(value | {"created": created}).encode())
    with pytest.raises(StoreError):
        parse(dump(probe()).replace(b'"run1"', b'"' + b'\\ud800"'))
