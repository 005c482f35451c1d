"""The `policy:` part of matrix.yaml refuses promises that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from assay.foundation.outcome import Verdict
from assay.matrix.policy import Level, Policy, Repositories, Requirement, alias_of, suffix_of

VERIFIED: dict[str, Any] = {
    "max_age_days": "90",
    "audit": "warn",
    "images": {
        "sglang": {"sm_120": {"works": ["cuda-graphs"], "may_be_unsupported": ["marlin"]}},
        "*": {"sm_120": {"works": ["torch-matmul"]}, "sm_90": {"works": ["torch-matmul"]}},
    },
}


def test_a_policy_is_read_from_strings_alone() -> None:
    policy = Policy.model_validate({"levels": {"verified": VERIFIED, "audited": {"basis": "audit", "audit": "ok"}}})

    assert policy.levels["verified"].max_age_days == 90
    assert policy.levels["audited"].audit is Verdict.OK


@pytest.mark.parametrize(
    ("image", "target", "expected"),
    [
        ("sglang", "sm_120", Requirement(works=("cuda-graphs",), may_be_unsupported=("marlin",))),
        ("sglang", "sm_90", Requirement(works=("torch-matmul",))),
        ("vllm", "sm_120", Requirement(works=("torch-matmul",))),
        ("vllm", "sm_100", None),
    ],
)
def test_a_named_image_goes_before_the_star(image: str, target: str, expected: Requirement | None) -> None:
    assert expected == Level.model_validate(VERIFIED).requirement(image, target)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"levels": {"verified": {"basis": "audit", "audit": "ok"}}}, "may not be called verified"),
        ({"levels": {"preverified": {"basis": "audit", "audit": "ok"}}}, "may not be called verified"),
        ({"levels": {"audited": {"basis": "audit"}}}, "worst `audit` verdict"),
        ({"levels": {"verified": {}}}, "must list `images`"),
        ({"levels": {"verified": {"images": {"a": {"sm_120": {}}}}}}, "promise nothing"),
        (
            {"levels": {"verified": {"images": {"a": {"sm_120": {"works": ["x"], "may_be_unsupported": ["x"]}}}}}},
            "both",
        ),
        ({"levels": {"verified": {**VERIFIED, "signatures": "required"}}}, "names no key"),
        (
            {"levels": {"audited": {"basis": "audit", "audit": "ok", "images": {"a": {"sm_120": {"works": ["x"]}}}}}},
            "nothing ran",
        ),
        ({"levels": {"Very-Good": VERIFIED}}, "pattern"),
        ({"levels": {"verified": {**VERIFIED, "max_age_days": "0"}}}, "greater than 0"),
        ({"repositories": {"staging": "r/x", "release": "r/x"}}, "different"),
        ({"repositories": {"staging": "a/x", "release": "b/x"}}, "same registry"),
        ({"repositories": {"staging": "a/{cell}", "release": "a/b"}}, "placeholder"),
    ],
)
def test_empty_promises_are_refused(policy: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Policy.model_validate(policy)


def test_tags_of_levels_cannot_be_mistaken() -> None:
    assert ("", "-audited") == (suffix_of("verified"), suffix_of("audited"))
    assert ("sm120-verified", "sm120-audited") == (alias_of("sm_120", "verified"), alias_of("sm_120", "audited"))


def test_repositories_by_image() -> None:
    repositories = Repositories(staging="r:5000/s/{image}", release="r:5000/{image}")

    assert repositories.staging_of("vllm") == "r:5000/s/vllm"
    assert repositories.release_of("vllm") == "r:5000/vllm"
