"""Which features are switched off, and on what ground."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.files.serving import load_claims, load_profiles, load_server_flags
from assay.errors import UsageError
from assay.evidence.ranking import Standing
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
    file_name,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.serving.command import ServerCommand, prepare
from assay.serving.launching import decide
from assay.serving.standing import standings

ROOT = Path(__file__).parents[2]
KNOWLEDGE = load_server_flags(ROOT / "knowledge" / "server_flags.yaml").engines
CLAIMS = load_claims(ROOT / "knowledge" / "serving_claims.yaml")
PROFILES = load_profiles(ROOT / "images" / "sglang-blackwell" / "profiles")
DIGEST = "sha256:" + "a" * 64
CARD = Device(name="NVIDIA GeForce RTX 5090", capability="12.0", memory_bytes=32 << 30)
HOPPER = Device(name="NVIDIA H200", capability="9.0", memory_bytes=140 << 30)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def probe(features: Mapping[str, Outcome], *, hours: int = 0, **more: Any) -> ProbeRecord:
    fields: dict[str, Any] = {
        "created": NOON + timedelta(hours=hours), "run": "r", "cell": "c", "image_digest": DIGEST,
        "suite_digest": DIGEST, "executor": "docker", "devices": (CARD,), "packages": {},
        "features": {name: FeatureResult(outcome=outcome, reason="why") for name, outcome in features.items()},
        **more,
    }  # fmt: skip
    return ProbeRecord(**fields)


def served(**more: Any) -> ServeRecord:
    fields: dict[str, Any] = {
        "created": NOON, "run": "r", "cell": "c", "image_digest": DIGEST, "engine": "sglang", "executor": "docker",
        "status": ServeStatus.OK, "devices": (CARD,), **more,
    }  # fmt: skip
    return ServeRecord(**fields)


def stand(
    records: list[AnyRecord], *, version: str = "0.5.14", digest: str | None = DIGEST, claims: Any = ()
) -> Mapping[str, Standing]:
    return standings(
        KNOWLEDGE["sglang"],
        version,
        target="sm_120",
        cell="c",
        digest=digest,
        records=records,
        claims=claims,
    )


def command(profile: str | None = None, version: str = "0.5.14") -> ServerCommand:
    return prepare(KNOWLEDGE["sglang"], version, PROFILES[profile] if profile else None, model="tiny")


@pytest.mark.parametrize(
    "outcome",
    [Outcome.BROKEN, Outcome.WRONG, Outcome.DEGRADED, Outcome.UNSUPPORTED, Outcome.INCONCLUSIVE],
)
def test_a_feature_that_does_not_work_goes_off_and_names_the_record(outcome: Outcome) -> None:
    record = probe({"cuda-graphs": outcome})

    decided = decide(command(), stand([record]), profile_name="")

    assert {"disable-decode-cuda-graph", "disable-prefill-cuda-graph"} <= set(decided.command.flags)
    reason = decided.reasons["disable-decode-cuda-graph"]
    assert f"cuda-graphs: {outcome} (why), measured: record {file_name(record)}" == reason


def test_a_feature_that_works_stays_on() -> None:
    decided = decide(command(), stand([probe({"cuda-graphs": Outcome.WORKS})]), profile_name="")

    assert {} == decided.command.flags
    assert any(note.startswith("on: cuda-graphs: works") for note in decided.notes)


def test_feature_without_evidence_is_reported_or_switched_off_with_strict() -> None:
    left = decide(command(), stand([]), profile_name="")
    strict_standings = stand([probe({"sglang-triton": Outcome.WORKS})])
    off = decide(command(), strict_standings, profile_name="", strict=True)

    assert {} == left.command.flags
    assert any("unproven: cuda-graphs" in note for note in left.notes)
    assert {"disable-decode-cuda-graph", "disable-radix-cache"} <= set(off.command.flags)
    assert "triton" == off.command.flags["attention-backend"]


@pytest.mark.parametrize(
    "record",
    [
        probe({"cuda-graphs": Outcome.BROKEN}, devices=(HOPPER,)),
        probe({"cuda-graphs": Outcome.BROKEN}, image_digest="sha256:" + "b" * 64),
        probe({"cuda-graphs": Outcome.NOT_RUN}),
        served(status=ServeStatus.CRASHED, devices=(HOPPER,), needed=("cuda-graphs",)),
    ],
    ids=["other card", "other digest", "not run", "served elsewhere"],
)
def test_a_record_of_something_else_gives_no_result(record: AnyRecord) -> None:
    assert "nothing" == stand([record])["cuda-graphs"].basis


def test_without_a_digest_the_cells_records_count() -> None:
    record = probe({"cuda-graphs": Outcome.BROKEN}, image_digest=None)

    assert "nothing" == stand([record])["cuda-graphs"].basis
    assert "record" == stand([record], digest=None)["cuda-graphs"].basis


def test_the_newest_measurement_decides_and_inconclusive_is_not_a_measurement() -> None:
    old = probe({"cuda-graphs": Outcome.WORKS})
    newer = probe({"cuda-graphs": Outcome.BROKEN}, hours=1)
    newest = probe({"cuda-graphs": Outcome.INCONCLUSIVE}, hours=2)

    assert Outcome.BROKEN == stand([newest, old, newer])["cuda-graphs"].outcome


def test_a_server_says_more_than_a_probe() -> None:
    probed = probe({"cuda-graphs": Outcome.WORKS, "flashinfer": Outcome.BROKEN}, hours=5)
    needed = served(needed=("cuda-graphs",), cause="graph-capture", chosen={"attention_backend": "flashinfer"})

    found = stand([probed, needed])

    assert Outcome.BROKEN == found["cuda-graphs"].outcome
    assert "starts only without it: graph-capture" in found["cuda-graphs"].reason
    assert Outcome.WORKS == found["flashinfer"].outcome


def test_audit_cannot_prove_that_a_feature_works() -> None:
    audit = AuditRecord(
        created=NOON, run="r", cell="c", image_digest=DIGEST, subject="image", verdict=Verdict.WARN,
        predictions={"sm_120": {"cuda-graphs": Outcome.WORKS, "flashinfer": Outcome.UNSUPPORTED}},
    )  # fmt: skip

    found = stand([audit])

    assert found["cuda-graphs"].unproven
    assert any("unproven: cuda-graphs" in note for note in decide(command(), found, profile_name="").notes)
    assert "disable-radix-cache" in decide(command(), found, profile_name="", strict=True).command.flags
    assert ("audit", Outcome.UNSUPPORTED) == (found["flashinfer"].basis, found["flashinfer"].outcome)


def test_claims_come_last_and_only_for_their_releases() -> None:
    claimed = stand([], version="0.5.2", claims=CLAIMS)
    recorded = stand([probe({"cuda-graphs": Outcome.WORKS})], version="0.5.2", claims=CLAIMS)

    assert ("claim", Outcome.BROKEN) == (claimed["cuda-graphs"].basis, claimed["cuda-graphs"].outcome)
    assert "2025-09-16" in claimed["cuda-graphs"].source
    assert "record" == recorded["cuda-graphs"].basis
    assert "nothing" == stand([], version="0.5.14", claims=CLAIMS)["cuda-graphs"].basis


def test_a_claim_does_not_beat_a_prediction_and_is_shown_beside_it() -> None:
    audit = AuditRecord(
        created=NOON, run="r", cell="c", image_digest=DIGEST, subject="image", verdict=Verdict.OK,
        predictions={"sm_120": {"cuda-graphs": Outcome.WORKS}},
    )  # fmt: skip

    found = stand([audit], version="0.5.2", claims=CLAIMS)["cuda-graphs"]
    decided = decide(command(version="0.5.2"), stand([audit], version="0.5.2", claims=CLAIMS), profile_name="")

    assert ("audit", Outcome.WORKS) == (found.basis, found.outcome)
    assert ["claim"] == [one.basis for one in found.against]
    assert "disable-cuda-graph" not in decided.command.flags
    (note,) = [one for one in decided.notes if one.startswith("on, unproven: cuda-graphs: works")]
    assert "; but broken, claimed:" in note


def test_a_record_of_the_same_versions_counts_more_than_a_prediction() -> None:
    alike = probe({"cuda-graphs": Outcome.BROKEN}, image_digest="sha256:" + "b" * 64, packages={"sglang": "0.5.14"})
    audit = AuditRecord(
        created=NOON, run="r", cell="c", image_digest=DIGEST, subject="image", verdict=Verdict.OK,
        predictions={"sm_120": {"cuda-graphs": Outcome.WORKS}},
    )  # fmt: skip
    own = probe({"cuda-graphs": Outcome.WORKS})

    found = stand([alike, audit])["cuda-graphs"]

    assert ("record of these versions", Outcome.BROKEN) == (found.basis, found.outcome)
    assert ["audit"] == [one.basis for one in found.against]
    assert "record" == stand([alike, audit, own])["cuda-graphs"].basis
    assert "audit" == stand([alike, audit], version="0.5.13")["cuda-graphs"].basis


def test_users_gpu_gets_the_flags_that_users_found() -> None:
    """With their claims alone, 0.5.2 on sm_120 comes out as the flags that they arrived at by trial."""
    decided = decide(command("performance-v1", "0.5.2"), stand([], version="0.5.2", claims=CLAIMS), profile_name="p")

    flags = decided.command.flags
    assert {"disable-cuda-graph", "disable-custom-all-reduce", "disable-radix-cache"} <= set(flags)
    assert ("triton", "pytorch") == (flags["attention-backend"], flags["sampling-backend"])
    assert "segmentation fault" in decided.reasons["disable-cuda-graph"]


@pytest.mark.parametrize(
    ("features", "asked", "chosen"),
    [
        ({"sglang-flashinfer": "broken", "sglang-triton": "works"}, None, "triton"),
        ({"sglang-flashinfer": "works", "sglang-triton": "broken"}, None, "flashinfer"),
        ({"sglang-flashinfer": "works", "sglang-triton": "broken"}, "triton", "flashinfer"),
        ({"sglang-flashinfer": "broken", "sglang-triton": "broken"}, None, "torch_native"),
        ({"sglang-flashinfer": "works"}, "triton", "triton"),
        ({"sglang-flashinfer": "works"}, None, None),
        ({"sglang-flashinfer": "broken"}, "fa3", "fa3"),
    ],
)
def test_the_attention_backend_is_one_that_works(
    features: Mapping[str, str], asked: str | None, chosen: str | None
) -> None:
    record = probe({name: Outcome(outcome) for name, outcome in features.items()})
    flags = {"attention-backend": asked} if asked else {}
    base = prepare(KNOWLEDGE["sglang"], "0.5.14", None, model="tiny", extra=flags)

    decided = decide(base, stand([record]), profile_name="")

    assert chosen == decided.command.flags.get("attention-backend")


def test_no_backend_left_is_an_error() -> None:
    names = ("sglang-flashinfer", "sglang-triton", "sglang-torch-native")

    with pytest.raises(UsageError, match="no attention backend"):
        decide(command(), stand([probe(dict.fromkeys(names, Outcome.BROKEN))]), profile_name="")


def test_before_vllm_had_a_flag_the_backend_is_a_setting() -> None:
    record = probe({"vllm-flash-attn": Outcome.BROKEN, "vllm-triton-attn": Outcome.WORKS})
    known = standings(
        KNOWLEDGE["vllm"], "0.11.0", target="sm_120", cell="c", digest=DIGEST, records=[record]
    )  # fmt: skip

    decided = decide(prepare(KNOWLEDGE["vllm"], "0.11.0", None, model="m"), known, profile_name="")

    assert "TRITON_ATTN" == decided.command.env["VLLM_ATTENTION_BACKEND"]
    assert "attention-backend" not in decided.command.flags
    assert "not flash-attn-2: broken" in decided.reasons["VLLM_ATTENTION_BACKEND"]


def test_feature_that_profile_switches_off_shows_its_evidence() -> None:
    broken = probe({"cuda-graphs": Outcome.BROKEN})
    fine = probe({"cuda-graphs": Outcome.WORKS}, hours=1)

    rests = decide(command("baseline"), stand([broken]), profile_name="baseline")
    could_go = decide(command("baseline"), stand([broken, fine]), profile_name="baseline")

    known = f"cuda-graphs: broken (why), measured: record {file_name(broken)}"
    assert f"profile baseline; {known}" == rests.reasons["disable-decode-cuda-graph"]
    assert not any("could go" in note for note in rests.notes)
    assert could_go.command.flags == rests.command.flags
    assert any(
        note.startswith("off by the profile, although it works: cuda-graphs: works")
        and note.endswith("--disable-decode-cuda-graph, --disable-prefill-cuda-graph could go")
        for note in could_go.notes
    )


def test_flag_from_the_command_line_is_not_attributed_to_the_profile() -> None:
    asked = prepare(KNOWLEDGE["sglang"], "0.5.14", PROFILES["baseline"], model="tiny", extra={"log-level": "info"})

    decided = decide(asked, stand([]), profile_name="baseline", asked={"log-level"})

    assert "asked for" == decided.reasons["log-level"]
    assert "profile baseline" == decided.reasons["mem-fraction-static"]
