"""Rule G4: guards that packages have in their own code, against the code their libraries hold."""

from __future__ import annotations

import guard_wheels
import pytest
from pydantic import ValidationError
from wheels import facts, library

from assay.adapters.files.knowledge import load_knowledge
from assay.audit.guards import Guard, held
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode

ISA = {"9.0": "13.0"}
VLLM = ("vllm", "0.33.0")
SGLANG = (("sglang", "0.5.23"), ("sglang-kernel", "0.4.10"))


def guard(**more: object) -> Guard:
    return Guard.model_validate({
        "package": "a", "versions": ">=1", "what": "x", "file": "a/a.py", "line": 1, "release": "1", "quote": "q",
        "admits": ["12.*"], "library": "a/*.so", "date": "2026-11-30", **more,
    })  # fmt: skip


def code(*groups: CodeGroup) -> Library:
    return library("a/m.so").model_copy(update={"gpu": GpuCode(groups=groups)})


def group(*sass: str, ptx: tuple[str, ...] = (), kernels: tuple[str, ...] = ("k",)) -> CodeGroup:
    return CodeGroup(sass=sass, ptx=ptx, containers=1, kernels=kernels)


def how(one: Guard, wheel: WheelFacts, capability: int, driver: str | None = None) -> str | None:
    found = held(one, wheel, capability, ISA, driver)
    return None if found is None else found.how


@pytest.mark.parametrize(
    ("machine", "target", "named", "words"),
    [
        ("x86_64", "sm_120", (VLLM,), ("fp_quant.py (line 64 in 0.33.0) admits sm_120 for FP-Quant models (QuTLASS), "
         "but vllm/_qutlass_C.abi3.so has no code that it can run: sm_100f")),
        ("aarch64", "sm_121", (VLLM,), "admits sm_121 for FP-Quant models"),
        ("aarch64", "sm_110", (("vllm", "0.28.0"),), "admits sm_110 for the fused decode step of gated delta networks"),
        ("aarch64", "sm_90", SGLANG, ("admits sm_90 for FlashAttention 3, but sglang-kernel 0.4.10 has no "
         "sgl_kernel/flash_ops*")),
        ("aarch64", "sm_90", SGLANG, "admits sm_90 for FP8 matrix products through CUTLASS"),
    ],
)  # fmt: skip
def test_real_guard_admits_a_card_without_code(
    machine: str, target: str, named: tuple[tuple[str, str], ...], words: str
) -> None:
    found = guard_wheels.told(machine, target, *named)

    assert [Severity.WARNING] == [item.severity for item in found if words in item.message], found
    assert all(item.target == target for item in found)


@pytest.mark.parametrize(
    ("machine", "target", "named", "words"),
    [
        ("x86_64", "sm_100", (VLLM,), "FP-Quant"),
        ("x86_64", "sm_103", (VLLM,), "FP-Quant"),
        ("aarch64", "sm_110", (VLLM,), "gated delta networks"),
        ("aarch64", "sm_110", (VLLM,), "NVFP4 mixtures"),
        ("x86_64", "sm_90", SGLANG, "FP8 matrix products"),
        ("x86_64", "sm_90", SGLANG, "FlashAttention 3"),
        ("aarch64", "sm_90", (("sglang", "0.5.23"), ("sglang-kernel", "0.4.0")), ""),
        ("x86_64", "sm_75", (VLLM,), "gated delta networks"),
        ("x86_64", "sm_120", (VLLM,), "FlashMLA"),
        ("x86_64", "sm_120", (VLLM,), "Machete"),
        ("x86_64", "sm_120", (VLLM,), "Hadamard"),
    ],
)
def test_guard_that_goes_with_the_code_is_no_finding(
    machine: str, target: str, named: tuple[tuple[str, str], ...], words: str
) -> None:
    assert [] == [item for item in guard_wheels.told(machine, target, *named) if words in item.message]


def test_refused_card_with_code_is_a_note() -> None:
    found = guard_wheels.told("x86_64", "sm_120", VLLM)
    refused = [item for item in found if " refuses " in item.message]

    assert {Severity.INFO} == {item.severity for item in refused}
    assert any("fp32" in item.message.lower() and "sm_120f" in item.message for item in refused)


def test_releases_outside_a_guards_range_are_not_judged() -> None:
    one = load_knowledge().guards.guards[0]

    assert one.is_of("0.33.0")
    assert not one.is_of("0.27.0")
    assert not one.is_of("0.34.0")


def test_code_for_the_plain_architecture_does_not_count_where_kernels_need_its_own() -> None:
    plain, own = facts("a", "1", code(group("90"))), facts("a", "1", code(group("90", "90a")))

    assert ("sass", "sass") == (how(guard(), plain, 90), how(guard(), own, 90))
    assert ("none", "sass") == tuple(how(guard(specific=["9.*"]), one, 90) for one in (plain, own))
    assert how(guard(specific=["*"]), facts("a", "1", code(group("120f"))), 121) == "sass"
    assert how(guard(specific=["*"]), facts("a", "1", code(group("120a"))), 121) == "none"


def test_ptx_counts_as_far_as_the_driver_compiles_it() -> None:
    wheel = facts("a", "1", code(group(ptx=("80@9.0",))))

    assert how(guard(), wheel, 120) == "ptx"
    assert how(guard(), wheel, 120, "12.8") == "none"


def test_unread_code_and_unknown_kernels_give_no_result() -> None:
    assert how(guard(), facts("a", "1", library("a/m.so", scope="prefix")), 120) is None
    assert how(guard(kernels="other"), facts("a", "1", code(group("120"))), 120) is None
    assert how(guard(), facts("a", "1"), 120) is None
    assert how(guard(), facts("a", "1", library("b/m.so")), 120) == "absent"


@pytest.mark.parametrize("wrong", [{"kernels": "("}, {"versions": "x"}, {"admits": []}, {"line": 0}, {"unknown": 1}])
def test_wrong_guard_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        guard(**wrong)


def test_every_guard_is_about_a_wheel_that_was_recorded() -> None:
    wheels = {(name, version) for name, version in guard_wheels.WHEELS}

    for one in load_knowledge().guards.guards:
        assert (one.package, one.release) in wheels
        assert one.is_of(one.release)
