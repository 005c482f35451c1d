"""Declarations, order and judgement of probes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ConfigError, UsageError
from assay.evidence import suite as probes
from assay.evidence.record import Device, FeatureResult, ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult, ProbeEnded, ProbeFacts
from assay.foundation.outcome import Outcome

H200 = Device(name="NVIDIA H200", capability="9.0", memory_bytes=1, driver="580.1", cuda="13.0")


def suite(root: Path) -> dict[str, Declaration]:
    folder = root / "probes"
    return probes.declarations({str(p.relative_to(folder)): p.read_text() for p in folder.glob("features/*.py")})


def declared(feature: str, *requires: str) -> Declaration:
    return Declaration(feature=feature, file=f"features/{feature}.py", requires=requires, timeout=9, gpus=1, warm=True)


def test_every_program_of_the_suite_declares_itself(root: Path) -> None:
    found = suite(root)

    assert len(list((root / "probes" / "features").glob("*.py"))) == len(found)
    assert all(item.about.endswith(".") for item in found.values())


def test_the_features_that_users_ask_about_have_probes(root: Path) -> None:
    asked = {
        "torch-device", "cuda-graphs", "torch-compile", "triton", "triton-attention", "torch-native-attention",
        "flashinfer", "flash-attn-2", "flash-attn-3", "marlin", "marlin-moe", "marlin-fp4", "fp8-gemm", "fp8-kv-cache",
        "nvfp4", "mxfp4", "sgl-kernel", "vllm-ops", "custom-all-reduce", "nccl", "numa", "abi-import", "sglang-engine",
        "vllm-engine", "radix-cache", "prefix-caching", "hierarchical-cache", "chunked-prefill", "structured-output",
        "awq-marlin",
    }  # fmt: skip

    assert asked <= set(suite(root))


def test_no_program_is_named_like_a_package_of_the_images(root: Path) -> None:
    # A folder that is searched for modules must not hide triton_kernels, marlin, numa or nccl from the engines.
    searched = {path.stem for path in (root / "probes").iterdir() if path.suffix == ".py" or path.is_dir()}

    assert {"harness", "probelib", "features"} == searched - {"__pycache__"}


def test_all_faults_of_declarations_are_reported_at_once() -> None:
    files = {
        "features/a.py": 'FEATURE = "a"\nREQUIRES = ("zebra",)\nTIMEOUT = 1\nGPUS = 0\nWARM = False\n',
        "features/b.py": "FEATURE = 3\n",
        "features/c.py": "def broken(:\n",
    }

    with pytest.raises(ConfigError) as caught:
        probes.declarations(files)

    assert 3 == len(caught.value.problems)
    assert "zebra" in str(caught.value)


def test_prerequisites_run_first() -> None:
    known = {item.feature: item for item in (declared("c", "b"), declared("b", "a"), declared("a"))}

    assert ["a", "b", "c"] == [item.feature for item in probes.order(known, ["c"])]
    assert ["a", "b", "c"] == sorted(item.feature for item in probes.order(known))


def test_a_ring_of_prerequisites_is_an_error() -> None:
    known = {item.feature: item for item in (declared("a", "b"), declared("b", "a"))}

    with pytest.raises(UsageError, match="ring"):
        probes.order(known, ["a"])


def test_an_unknown_feature_offers_the_nearest(root: Path) -> None:
    with pytest.raises(UsageError, match="cuda-graphs"):
        probes.order(suite(root), ["cuda-graph"])


WORKED: dict[str, Any] = {"outcome": "works", "reason": "", "metrics": {"error.x": 0.1}, "notes": [], "seconds": 1.0}


@pytest.mark.parametrize(
    ("end", "outcome", "words"),
    [
        ({"exit_code": 0, "document": WORKED}, Outcome.WORKS, ""),
        ({"exit_code": 0, "document": {**WORKED, "outcome": "wrong", "reason": "NaN"}}, Outcome.WRONG, "NaN"),
        ({"signal": "SIGSEGV", "document": WORKED}, Outcome.BROKEN, "SIGSEGV"),
        ({"signal": "SIGSEGV", "core_dumped": True}, Outcome.BROKEN, "core dumped"),
        ({"signal": "SIGABRT", "stderr": 'x\n  File "a.py", line 3 in f\n'}, Outcome.BROKEN, "a.py"),
        ({"signal": "SIGKILL", "timed_out": True, "stderr": "waiting"}, Outcome.INCONCLUSIVE, "waiting"),
        ({"signal": "SIGKILL", "oom_killed": True}, Outcome.INCONCLUSIVE, "memory"),
        ({"signal": "SIGKILL"}, Outcome.INCONCLUSIVE, "from outside"),
        ({"signal": "SIGTERM"}, Outcome.INCONCLUSIVE, "SIGTERM"),
        ({"exit_code": 3}, Outcome.BROKEN, "exit code 3"),
        ({"exit_code": 0, "document_error": "not JSON"}, Outcome.BROKEN, "not JSON"),
        ({"exit_code": 0, "document": {"outcome": "splendid"}}, Outcome.BROKEN, "does not fit"),
        ({"not_run": "prerequisite torch-device"}, Outcome.NOT_RUN, "torch-device"),
    ],
)
def test_process_exit_is_interpreted(end: dict[str, Any], outcome: Outcome, words: str) -> None:
    result = probes.judge(ProbeEnded(feature="x", file="features/x.py", **end), timeout=5)

    assert outcome is result.outcome
    assert words in result.reason


@given(
    st.fixed_dictionaries(
        {
            "exit_code": st.none() | st.integers(0, 255),
            "signal": st.none() | st.sampled_from(["SIGSEGV", "SIGKILL", "SIGXCPU"]),
            "timed_out": st.booleans(),
            "oom_killed": st.booleans(),
            "stderr": st.text(max_size=50),
            "document": st.none() | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3) | st.just(WORKED),
        }
    )
)
def test_only_a_clean_end_with_a_fitting_document_works(end: dict[str, Any]) -> None:
    result = probes.judge(ProbeEnded(feature="x", file="x.py", **end), timeout=5)
    clean = end["exit_code"] == 0 and end["signal"] is None and not end["timed_out"] and not end["oom_killed"]

    assert (result.outcome is Outcome.WORKS) == (clean and end["document"] == WORKED)


def test_probes_never_reached_are_not_run() -> None:
    result = HarnessResult(schema_version=1, suite_digest="sha256:1", python="3", executable="python3")

    judged = probes.judge_all(result, [declared("a")], broke_off="the run broke off: killed")

    assert {"a": FeatureResult(outcome=Outcome.NOT_RUN, reason="the run broke off: killed")} == judged


BROKE: dict[str, Any] = {**WORKED, "outcome": "broken"}
LOST = (
    "RuntimeError: No CUDA GPUs are available",
    "AcceleratorError: CUDA error: no CUDA-capable device is detected",
    "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "EngineFailed: vllm (engine): failed | first error: RuntimeError: cudaErrorDevicesUnavailable",
    "RuntimeError: cuInit: CUDA_ERROR_NO_DEVICE",
    "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234",
    "NVMLError_GpuIsLost: GPU is lost",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered",
)


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("how", ["document", "crash", "exit", "log"])
def test_a_card_that_was_lost_gives_no_result_for_the_image(text: str, how: str) -> None:
    ends: dict[str, dict[str, Any]] = {
        "document": {"exit_code": 0, "document": {**BROKE, "reason": text}},
        "crash": {"signal": "SIGABRT", "stderr": f'{text}\n  File "a.py", line 3 in f\n'},
        "exit": {"exit_code": 1, "stderr": f"x\n{text}\nshutting down\n"},
        "log": {"exit_code": 0, "stderr": f"{text}\nEngineFailed: x\n", "document": {**BROKE, "reason": "failed"}},
    }
    ended = ProbeEnded(feature="x", file="x.py", **ends[how])

    result = probes.judge(ended, timeout=5, device_worked=True)

    assert (Outcome.INCONCLUSIVE, False) == (result.outcome, probes.conclusive(result))
    assert result.reason.startswith("the card was lost")
    assert text in result.reason
    assert Outcome.BROKEN is probes.judge(ended, timeout=5).outcome


@pytest.mark.parametrize(
    "text",
    ["CUDA error: an illegal memory access was encountered", "no kernel image is available", "Xid 31", "79 tests, Xid"],
)
def test_other_errors_of_the_driver_are_the_image_s(text: str) -> None:
    ended = ProbeEnded(feature="x", file="x.py", exit_code=0, document={**BROKE, "reason": text}, stderr=text)

    assert Outcome.BROKEN is probes.judge(ended, timeout=5, device_worked=True).outcome


def test_a_card_is_lost_only_where_it_had_worked_before() -> None:
    gone = {"exit_code": 0, "document": {**BROKE, "reason": LOST[0]}}
    worked = {"exit_code": 0, "document": WORKED}
    chosen = [declared("before"), declared("torch-device"), declared("after")]

    def outcomes(device: dict[str, Any]) -> list[Outcome]:
        ends = {"before": gone, "torch-device": device, "after": gone}
        ended = {name: ProbeEnded(feature=name, file="x.py", **end) for name, end in ends.items()}
        result = HarnessResult(schema_version=1, suite_digest="s", python="3", executable="p", probes=ended)
        return [item.outcome for item in probes.judge_all(result, chosen).values()]

    assert [Outcome.BROKEN, Outcome.WORKS, Outcome.INCONCLUSIVE] == outcomes(worked)
    assert [Outcome.BROKEN] * 3 == outcomes(gone)


def test_gpu_errors_of_a_successful_run_do_not_matter() -> None:
    ended = ProbeEnded(feature="x", file="x.py", exit_code=0, document=WORKED, stderr=LOST[0])

    assert Outcome.WORKS is probes.judge(ended, timeout=5, device_worked=True).outcome


def record_of(features: dict[str, FeatureResult], **changes: Any) -> ProbeRecord:
    values: dict[str, Any] = {
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "run": "r",
        "cell": "c",
        "image_digest": "sha256:i",
        "suite_digest": "sha256:s",
        "executor": "docker",
        "devices": (H200,),
        "packages": {},
        "features": features,
    }
    return ProbeRecord(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"image_digest": "sha256:other"},
        {"image_digest": None},
        {"suite_digest": "sha256:other"},
        {"devices": (H200.model_copy(update={"driver": "570.0"}),)},
        {"devices": (H200.model_copy(update={"name": "NVIDIA GeForce RTX 5090", "capability": "12.0"}),)},
        {"devices": ()},
    ],
)
def test_record_of_another_gpu_is_not_reused(changes: dict[str, Any]) -> None:
    records = [record_of({"a": FeatureResult(outcome=Outcome.WORKS)}, **changes)]

    of_image = probes.of_image(records, image_digest="sha256:i", suite_digest="sha256:s")

    assert [] == probes.on_device(of_image, H200)


def test_results_without_a_gpu_are_reused_without_a_gpu() -> None:
    without = record_of({"a": FeatureResult(outcome=Outcome.WORKS)}, devices=())
    records = [without, record_of({"a": FeatureResult(outcome=Outcome.BROKEN)})]

    of_image = probes.of_image(records, image_digest="sha256:i", suite_digest="sha256:s")

    assert [without] == probes.on_device(of_image, None)


def test_inconclusive_results_are_tried_again() -> None:
    records = [
        record_of(
            {
                "a": FeatureResult(outcome=Outcome.WORKS),
                "b": FeatureResult(outcome=Outcome.INCONCLUSIVE),
                "c": FeatureResult(outcome=Outcome.NOT_RUN, reason="the run broke off: killed"),
                "d": FeatureResult(outcome=Outcome.NOT_RUN, reason="needs 2 GPUs, 1 present"),
            }
        )
    ]

    found = probes.known(records)

    assert {"a", "d"} == set(found)


def test_devices_are_those_read_inside() -> None:
    facts = ProbeFacts(
        devices=({"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 7, "uuid": "GPU-1"},),
        driver="580.1",
        cuda="13.0",
    )

    (device,) = probes.devices(facts)

    assert ("sm_90", "580.1", 7) == (device.target, device.driver, device.memory_bytes)
    assert () == probes.devices(None)
