"""The image for a card and a model is chosen by the ranked evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from serving_choices import CARD, NOON, option, predicted

from assay.evidence.claims import Claim
from assay.evidence.record import AnyRecord, FeatureResult, ProbeRecord, ServeRecord, ServeStatus
from assay.foundation.outcome import Outcome
from assay.serving.choice import Option, choose, kernels_of


def served(cell: str, status: ServeStatus) -> ServeRecord:
    return ServeRecord(
        created=NOON, run="r", cell=cell, engine="vllm", executor="docker", model="m", status=status, devices=(CARD,)
    )


def first(
    options: list[Option], records: list[AnyRecord], *, kernels: tuple[str, ...] = (), claims: tuple[Claim, ...] = ()
) -> str:
    choices, _ = choose(options, target="sm_120", kernels=kernels, records=records, claims=claims)
    return choices[0].option.cell


def test_an_image_that_was_served_here_beats_a_newer_one_that_is_predicted() -> None:
    both = [option("old", "0.32.0"), option("new", "0.33.0")]
    records: list[AnyRecord] = [predicted("new", vllm_engine="works"), served("old", ServeStatus.OK)]

    assert "old" == first(both, records)


def test_a_prediction_beats_a_claim() -> None:
    both = [option("claimed", "0.33.0"), option("predicted", "0.32.0")]
    claim = Claim(feature="vllm-engine", outcome=Outcome.WORKS, target="sm_120", engine="vllm", versions=">=0.33",
                  source="a document", date="2026-11-01")  # fmt: skip

    assert "predicted" == first(both, [predicted("predicted", vllm_engine="works")], claims=(claim,))


def test_of_equals_the_newest_release_is_taken() -> None:
    both = [option("old", "0.9.2"), option("new", "0.33.0")]

    assert "new" == first(both, [predicted(name, vllm_engine="works") for name in ("old", "new")])


@pytest.mark.parametrize("broken", [{"vllm_engine": "broken"}, {"torch_device": "broken"}, {"abi_import": "broken"}])
def test_an_image_that_cannot_start_comes_last(broken: dict[str, str]) -> None:
    both = [option("old", "0.32.0"), option("new", "0.33.0")]

    assert "old" == first(both, [predicted("new", **broken), predicted("old", vllm_engine="works")])


def test_an_image_whose_server_crashed_here_is_not_taken() -> None:
    both = [option("old", "0.32.0"), option("new", "0.33.0")]
    records: list[AnyRecord] = [
        served("new", ServeStatus.CRASHED), predicted("new", vllm_engine="works"), predicted("old", vllm_engine="works")
    ]  # fmt: skip

    assert "old" == first(both, records)


def test_a_server_that_another_process_brought_down_speaks_against_no_image() -> None:
    both = [option("old", "0.32.0"), option("new", "0.33.0")]
    records: list[AnyRecord] = [
        served("new", ServeStatus.INCONCLUSIVE),
        predicted("new", vllm_engine="works"),
        predicted("old", vllm_engine="works"),
    ]

    assert "new" == first(both, records)


def test_the_model_needs_kernels_that_work() -> None:
    both = [option("old", "0.32.0"), option("new", "0.33.0")]
    records: list[AnyRecord] = [
        predicted("new", vllm_engine="works", awq_marlin="broken", marlin="broken"),
        predicted("old", vllm_engine="works", awq_marlin="works", nvfp4="broken", fp8_gemm="broken"),
    ]

    assert "new" == first(both, records)
    assert "old" == first(both, records, kernels=kernels_of({"quantization_config": {"quant_method": "awq"}}))


def test_a_measurement_of_the_same_versions_contradicts_a_prediction_and_is_shown() -> None:
    other = ProbeRecord(
        created=NOON - timedelta(days=1), run="r", cell="elsewhere", image_digest="sha256:" + "b" * 64,
        executor="docker", suite_digest="sha256:" + "c" * 64, devices=(CARD,), packages={"vllm": "0.33.0"},
        features={"vllm-engine": FeatureResult(outcome=Outcome.BROKEN, cause="oom")},
    )  # fmt: skip
    choices, _ = choose(
        [option("a")], target="sm_120", kernels=(), records=[other, predicted("a", vllm_engine="works")], claims=()
    )

    assert "record of these versions" == choices[0].serves.basis
    assert "predicted: audit" in str(choices[0])


def test_images_for_newer_drivers_are_left_out_with_the_reason() -> None:
    options = [option("a"), replace(option("b"), cuda="12.8")]

    choices, left = choose(options, target="sm_120", kernels=(), records=[], claims=(), driver="570.86.16")

    assert ["b"] == [one.option.cell for one in choices]
    assert ["a: CUDA 13.0 needs driver >=580.65.06, and this machine has 570.86.16"] == left
