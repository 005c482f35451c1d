"""What is recommended was measured, on that architecture."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from publish_tools import NOW, audit, both, candidate, gear, policy, probe, publish
from registry_tools import put_image
from serving_choices import option, predicted

from assay.adapters.registry.fake import FakeRegistry
from assay.adapters.signing.dsse import KeyVerifier
from assay.evidence.claims import Claim
from assay.evidence.record import BuildRecord, BuildStatus
from assay.evidence.reference import Repository
from assay.foundation.outcome import Outcome
from assay.pipeline.recommend import from_choices, from_records, from_registry, rank
from assay.serving.choice import choose

DIGEST = "sha256:" + "a" * 64
RELEASE = Repository(host="r.test", path="team/demo")


def test_only_the_target_and_only_the_newest_counts() -> None:
    offers = from_records(
        [
            probe(DIGEST, created=NOW - timedelta(days=3), features={"cuda-graphs": "works", "marlin": "works"}),
            probe(DIGEST, features={"cuda-graphs": "broken", "marlin": "not_run"}),
            probe("sha256:" + "b" * 64, capability="9.0"),
        ],
        "sm_120",
    )

    assert [{"cuda-graphs": Outcome.BROKEN, "marlin": Outcome.WORKS}] == [offer.features for offer in offers]
    assert offers[0].lacks(["cuda-graphs", "marlin", "fp8"]) == ("cuda-graphs", "fp8")


def test_an_environment_is_not_an_image(tmp_path: Path) -> None:
    offers = from_records([probe(DIGEST, executor="local"), probe("sha256:" + "b" * 64, features={})], "sm_120")

    assert [("measured", True), ("environment", False)] == [
        (offer.standing, offer.usable) for offer in rank(offers, ["cuda-graphs"])
    ]


def test_record_of_another_machine_has_the_cell_id_of_the_local_build() -> None:
    (offer,) = from_records(
        [
            probe(DIGEST, cell=f"card:5000/x@{DIGEST}"),
            BuildRecord(created=NOW, run="run1", cell="own", image_digest=DIGEST, status=BuildStatus.BUILT),
            probe(DIGEST, cell="own"),
        ],
        "sm_120",
    )

    assert ("own", 0) == (offer.cell, len(offer.lacks(["cuda-graphs"])))


def test_images_with_more_features_sort_first_then_by_standing() -> None:
    offers = from_records(
        [
            probe(DIGEST, cell="old", created=NOW - timedelta(days=9), features={"a": "works", "b": "works"}),
            probe(DIGEST, cell="new", features={"a": "works", "b": "works"}),
            probe(DIGEST, cell="half", features={"a": "works", "b": "degraded"}),
        ],
        "sm_120",
    )

    assert [offer.cell for offer in rank(offers, ["a", "b"])] == ["new", "old", "half"]


def test_published_evidence_goes_before_the_same_record(tmp_path: Path) -> None:
    registry = FakeRegistry()
    image = put_image(registry, Repository(host="r.test", path="team/staging/demo"), "key")
    publish(candidate(), policy("r.test"), both, gear(registry, tmp_path))
    published = from_registry(RELEASE, "sm_120", registry=registry, verifier=KeyVerifier([]), now=NOW)
    aged = from_registry(RELEASE, "sm_120", registry=registry, verifier=KeyVerifier([]), now=NOW + timedelta(days=99))
    elsewhere = from_registry(RELEASE, "sm_90", registry=registry, verifier=KeyVerifier([]), now=NOW)
    ranked = rank([*from_records([probe(image.digest)], "sm_120"), *published], ["cuda-graphs"])

    assert [("recorded", RELEASE.at(image.digest), ("verified",))] == [
        (offer.standing, offer.reference, offer.levels) for offer in ranked
    ]
    assert ranked[0].tags == (candidate().tag, "sm120-verified")
    assert [offer.standing for offer in aged] == ["refused"]
    assert elsewhere == []


def test_image_without_probes_is_shown_but_never_recommended(tmp_path: Path) -> None:
    registry = FakeRegistry()
    put_image(registry, Repository(host="r.test", path="team/staging/demo"), "key")
    tools = gear(registry, tmp_path)
    publish(candidate(), policy("r.test"), lambda digest: [audit(digest)], tools, level="audited")
    offers = from_registry(RELEASE, "sm_120", registry=registry, verifier=KeyVerifier([]), now=NOW)
    ranked = rank([*offers, *from_records([probe(DIGEST, features={"a": "broken"})], "sm_120")], ["a"])

    assert ["measured", "unmeasured"] == [offer.standing for offer in ranked]
    assert [True, False] == [offer.usable for offer in ranked]
    assert ranked[1].levels == ("audited",)


def test_cells_that_nobody_measured_are_offered_by_prediction_with_contradictions() -> None:
    claim = Claim(
        feature="cuda-graphs",
        outcome=Outcome.BROKEN,
        target="sm_120",
        engine="vllm",
        source="a thread",
        date="2026-01-01",
    )
    choices, _ = choose(
        [option("new"), option("unaudited", "0.34.0"), option("old", "0.32.0")],
        target="sm_120",
        kernels=(),
        records=[predicted(name, vllm_engine="works", cuda_graphs="works") for name in ("old", "new")],
        claims=[claim],
    )

    offers = rank(
        [*from_choices(choices, "sm_120", now=NOW), *from_records([probe(DIGEST)], "sm_120")], ["cuda-graphs"]
    )

    assert [("measured", True), ("predicted", False), ("predicted", False)] == [
        (one.standing, one.usable) for one in offers
    ]
    assert ["new", "old"] == [one.cell for one in offers[1:]]
    assert Outcome.WORKS is offers[1].features["cuda-graphs"]
    assert "contradicted: cuda-graphs is broken" in offers[1].note
