"""Logs of all kinds: peeled, ranked, read once in any pieces, and never believed too easily."""

# ruff: noqa: E501 - lines of logs are as long as they were

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.diagnose import CauseClass, CellFacts, FailureKind, Stage, contrast, default_library, diagnose, examine

HELP = Path(__file__).parents[1] / "assets" / "serve"
NOISE = Path(__file__).parents[1] / "data" / "diagnose" / "noise"

VLLM = """\
(EngineCore_DP0 pid=71) INFO 10-15 08:32:28 [core.py:77] Initializing a V1 LLM engine
(EngineCore_DP0 pid=71) WARNING 10-15 08:32:29 [compilation_context.py:61] Failed to get device capability: SM 12.x requires CUDA >= 12.9.
(EngineCore_DP0 pid=71) ERROR 10-15 08:32:40 [core.py:708] Traceback (most recent call last):
(EngineCore_DP0 pid=71) ERROR 10-15 08:32:40 [core.py:708]     raise RuntimeError("FlashInfer requires GPUs with sm75 or higher")
(EngineCore_DP0 pid=71) ERROR 10-15 08:32:40 [core.py:708] RuntimeError: FlashInfer requires GPUs with sm75 or higher
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
SGL_KERNEL = """\
Traceback (most recent call last):
  File "/opt/venv/lib/sgl_kernel/load_utils.py", line 99, in _load_architecture_specific_ops
ImportError:
[sgl_kernel] CRITICAL: Could not load any common_ops library!

Attempted locations:
1. Architecture-specific pattern: /opt/venv/lib/sgl_kernel/sm100/common_ops.*
Error details:
- ImportError: libnuma.so.1: cannot open shared object file: No such file or directory
[2025-09-16 10:00:00] Received sigquit from a child process. It usually means the child failed.
"""
TWO_CAUSES = """\
#9 80.1 nvcc fatal   : Unsupported gpu architecture 'compute_120a'
#9 80.2 ninja: build stopped: subcommand failed.
#11 90.0 ERROR: No matching distribution found for sgl-kernel==9.9.9
#11 ERROR: process "/bin/sh -c pip install sgl-kernel==9.9.9" did not complete successfully: exit code: 1
"""


def causes(log: str | bytes) -> list[str]:
    return [d.cause for d in diagnose(log.encode() if isinstance(log, str) else log)]


def test_a_wrapper_is_peeled_down_to_the_inner_cause() -> None:
    [found] = diagnose(SGL_KERNEL.encode())

    assert found.cause == "abi-libnuma-missing"
    assert found.cause_class is CauseClass.MISSING_LIBRARY
    assert [evidence.line for evidence in found.evidence] == [9]
    assert [via.id for via in found.via][:1] == ["arch-sgl-no-common-ops"]
    assert "w-sgl-child" in [via.id for via in found.via]


def test_a_misleading_error_gives_way_to_the_warning_that_explains_it() -> None:
    [found] = diagnose(VLLM.encode(), stage=Stage.SERVE)

    assert found.cause == "fi-cuda-floor"
    assert {"fi-sm75", "w-engine-core"} <= {via.id for via in found.via}


def test_misleading_error_alone_reports_its_usual_cause() -> None:
    [found] = diagnose(b"RuntimeError: FlashInfer requires GPUs with sm75 or higher\n")

    assert found.cause == "fi-sm75"
    assert found.confidence > 0.6
    assert "12.9" in found.summary


def test_independent_causes_stand_side_by_side() -> None:
    found = diagnose(TWO_CAUSES.encode())

    assert [d.cause for d in found] == ["arch-nvcc-unsupported", "res-index-lacks"]
    assert {via.id for via in found[0].via} == {"w-build"}
    assert found[0].captured == {"arch": "compute_120a"}
    assert "compute_120a" in found[0].summary


def test_the_specific_wins_over_the_general_on_one_line_but_not_over_another_line() -> None:
    specific = "ImportError: a.so: undefined symbol: _ZN3c104cuda9SetDeviceEa\n"
    other = "ImportError: b.so: undefined symbol: _ZNK3c106SymInt6sym_neERKS0_\n"

    assert causes(specific) == ["abi-setdevice"]
    assert causes(specific + other) == ["abi-setdevice", "abi-torch-generic"]


def test_symptom_is_reported_only_without_a_cause() -> None:
    assert causes("RuntimeError: Failed to infer device type\n") == ["h-infer-device"]
    assert causes("torch 2.9.0+cpu\nRuntimeError: Failed to infer device type\n") == ["abi-cpu-torch"]


def test_lone_wrapper_is_reported_with_low_confidence_and_likely_lines() -> None:
    found = diagnose(b"Capture cuda graph begin.\nKeyError: 'qkv'\nException: Capture cuda graph failed: 'qkv'\n")

    assert [d.cause for d in found] == ["g-generic", "unknown"]
    assert found[0].certainty == "low"
    assert not found[0].known
    assert "KeyError: 'qkv'" in [evidence.text for evidence in found[1].evidence]


def test_an_unknown_failure_says_so_shows_telling_lines_and_how_to_add_an_entry() -> None:
    log = "starting\nINFO: errors=0\nTraceback (most recent call last):\n  File 'x.py'\nmy.FrobError: the frob is bent\nbye\n"
    [found] = diagnose(log.encode())

    assert found.cause == "unknown"
    assert found.cause_class is None
    assert "my.FrobError: the frob is bent" in [evidence.text for evidence in found.evidence]
    assert "INFO: errors=0" not in [evidence.text for evidence in found.evidence]
    assert "knowledge/failures/" in found.fix


def test_empty_or_harmless_log_has_no_diagnosis() -> None:
    assert diagnose(b"") == []
    assert diagnose(b"all is well\n") == []
    assert examine(b"").lines == 0


@pytest.mark.parametrize("path", sorted([*NOISE.glob("*.log"), *HELP.glob("help-*.txt")]), ids=lambda path: path.stem)
def test_logs_of_tools_that_succeeded_give_no_diagnosis(path: Path) -> None:
    """Logs of pip, uv, apt, CMake and ninja as those wrote them, lines of servers that started, and servers' help."""
    report = examine(path.read_bytes())

    assert [(d.cause, [e.text for e in d.evidence]) for d in report.diagnoses] == []


@pytest.mark.parametrize("seed", range(4))
def test_a_failure_is_found_in_the_middle_of_all_the_noise(seed: int) -> None:
    logs = [path.read_text().splitlines() for path in sorted(NOISE.glob("*.log"))]
    random.Random(seed).shuffle(logs)
    before = [line for log in logs[: len(logs) // 2] for line in log]
    after = [line for log in logs[len(logs) // 2 :] for line in log]
    failure = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    [found] = diagnose("\n".join([*before, failure, *after]).encode())

    assert found.cause == "arch-no-kernel-image"
    assert [(evidence.line, evidence.text) for evidence in found.evidence] == [(len(before) + 1, failure)]


@pytest.mark.parametrize(
    "line",
    [
        "#8 [stage-1  2/9] RUN foo || echo 'libnuma.so.1: cannot open shared object file'",
        "# libnuma.so.1: cannot open shared object file: comes from a slim base",
        "+ echo libnuma.so.1: cannot open shared object file",
        "  12 | >>> RUN test -e x || echo 'libnuma.so.1: cannot open shared object file'",
        "INFO 10-15 08:32:29 [a.py:1] optional: libnuma.so.1: cannot open shared object file",
        "DEBUG libnuma.so.1: cannot open shared object file",
    ],
)
def test_messages_that_are_quoted_or_only_informed_of_are_no_evidence(line: str) -> None:
    assert "abi-libnuma-missing" not in causes(line + "\n")


def test_a_command_quoted_in_buildkits_error_is_not_evidence() -> None:
    line = (
        'ERROR: failed to solve: process "/bin/sh -c x || echo libnuma.so.1: cannot open shared object file" '
        "did not complete successfully: exit code: 1\n"
    )

    assert causes(line) == ["w-build", "unknown"]


def test_a_warning_counts_less_than_an_error() -> None:
    message = "libcuda.so.1: cannot open shared object file: No such file or directory"
    [warned] = diagnose(f"WARNING 01-05 12:12:01 [a.py:1] Failed to import: {message}\n".encode())
    [failed] = diagnose(f"ImportError: {message}\n".encode())

    assert warned.cause == failed.cause == "abi-libcuda1"
    assert warned.confidence < failed.confidence


@pytest.mark.parametrize(
    "line",
    [
        "W 11-11 06:41:27,319 - WARNING - autotuner.py:485 - flashinfer.jit: [Autotuner]: Skipping tactic <X> 15, due to failure while profiling: [TensorRT-LLM][ERROR] Assertion failed: Failed to initialize cutlass TMA WS grouped gemm. Error: Error Internal",
        "ERROR:torch._inductor.select_algorithm:Exception No valid triton configs. OutOfMemoryError: out of resource: triton_mm Required: 294912 Hardware limit:232448 Reducing block sizes or `num_stages` may help. for benchmark choice TritonTemplateCaller(c2q5.py, BLOCK_M=64)",
    ],
)
def test_errors_of_rejected_autotuner_candidates_are_not_failures(line: str) -> None:
    assert causes(line + "\n") == []


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("nvcc fatal   : Value 'compute_103a' is not defined for option 'gpu-architecture'", "arch-nvcc-unsupported"),
        ("ptxas fatal   : Value 'sm_103a' is not defined for option 'gpu-name'", "arch-ptxas-gpu-name"),
        ("NVIDIA B300 with CUDA capability sm_103 is not compatible with the current PyTorch installation.", "arch-torch-incompatible"),
        ("ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE", "abi-cxx11-on-old-torch"),
        ("ImportError: xformers/_C.so: undefined symbol: _ZNK5torch8autograd4Node4nameEv", "abi-torch-generic"),
        ("ImportError: _moe_C.abi3.so: undefined symbol: _ZN3c104cuda14MaybeSetDeviceEa", "abi-setdevice"),
        ("ImportError: libnuma.so.2: cannot open shared object file: No such file or directory", "abi-libnuma-missing"),
        ("ImportError: libcusparseLt.so.0: cannot open shared object file: No such file or directory", "lib-cuda-generic"),
        ("ImportError: libmpi.so.40: cannot open shared object file: No such file or directory", "lib-missing"),
        ("ImportError: libcusparse.so.12: undefined symbol: __nvJitLinkGetErrorLog_12_9, version libnvJitLink.so.12", "abi-nvjitlink"),
        ("Exception: Capture cuda graph failed: out of resource: shared memory, Required: 131072, Hardware limit: 101376.", "q-triton-smem"),
        ("NoTritonConfigsError: No valid triton configs. OutOfMemoryError: out of resource: triton_mm Required: 155648 Hardware limit:101376", "q-triton-smem"),
        ("NotImplementedError: No compiled nvfp4 quantization kernel", "arch-kernel-dispatch"),
        ("NotImplementedError: No compiled cutlass_group_gemm kernel for CUDA device capability: 121", "q-moe-mm-data"),
        ("operator torchvision::deform_conv2d does not exist", "abi-torchvision-nms"),
        ("WARNING: broken by 'SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] failed')'\nERROR: No matching distribution found for six", "env-tls"),
    ],
)  # fmt: skip
def test_relatives_of_known_lines_are_recognised(log: str, cause: str) -> None:
    """Other symbols, libraries and architectures than those that the entries were written from."""
    assert causes(log + "\n")[:1] == [cause]


@pytest.mark.parametrize(
    "log",
    [
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812",
        "dpkg: error processing package foo (--configure):",
        "#12 3.1 ERROR: the index says 404",
        "nvcc error   : 'cudafe++' died with status 3",
        "triton.runtime.errors.Strange: out of luck",
    ],
)
def test_lines_marked_as_errors_are_never_ignored(log: str) -> None:
    assert causes(log + "\n") == ["unknown"]


# ------------------------------------------------------------------------------------------------- bad input

LINE = "RuntimeError: CUDA error: no kernel image is available for execution on the device"


@pytest.mark.parametrize(
    "log",
    [
        "\x1b[31mRuntimeError:\x1b[0m CUDA error: no kernel \x1b[1mimage is\x1b[22m available for execution on the device\n",
        f"\x1b]0;title\x07{LINE}\r\n",
        f"Loading:  10%|#   |\rLoading:  90%|###|\r{LINE}\n",
        f"\ufeff{LINE}",
        f"{LINE}\x00\x00\n",
    ],
)  # fmt: skip
def test_colours_progress_bars_and_controls_do_not_hide_a_cause(log: str) -> None:
    [found] = diagnose(log.encode())

    assert found.cause == "arch-no-kernel-image"
    assert "\x1b" not in found.evidence[0].text
    assert "\x00" not in found.evidence[0].text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read(encoding: str) -> None:
    data = f"starting the server\n{LINE}\n".encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data

    assert causes(data) == ["arch-no-kernel-image"]


def test_invalid_utf_8_and_binary_are_survived() -> None:
    rubbish = random.Random(3).randbytes(300_000)
    [found, *_] = diagnose(rubbish + b"\n\xff\xfe " + LINE.encode() + b" \xc3\x28\n" + rubbish)

    assert found.cause == "arch-no-kernel-image"
    assert "no kernel image" in found.evidence[0].text


def test_a_line_of_megabytes_is_cut_around_the_evidence() -> None:
    [found] = diagnose(b"x" * 3_000_000 + LINE.encode() + b"y" * 3_000_000)

    assert found.cause == "arch-no-kernel-image"
    assert found.evidence[0].line == 1
    assert len(found.evidence[0].text) <= 400
    assert "no kernel image is available" in found.evidence[0].text


def test_hostile_text_comes_out_as_text() -> None:
    log = f"<script>alert(1)</script> {LINE} \u202e[red]'; DROP TABLE\n"
    [found] = diagnose(log.encode())

    assert found.evidence[0].text.startswith("<script>alert(1)</script> RuntimeError")
    assert "\u202e" not in found.evidence[0].text


def test_line_numbers_are_right_far_into_a_log() -> None:
    head = b"".join(b"line %d of nothing\n" % i for i in range(200_000))
    [found] = diagnose(io.BytesIO(head + LINE.encode() + b"\n" + head))

    assert found.evidence[0].line == 200_001
    assert examine(io.BytesIO(head)).lines == 200_000


def test_a_message_that_the_terminal_wrapped_is_recognised() -> None:
    log = (
        "  × No solution found when resolving dependencies:\n"
        "  ╰─▶ Because there is no version of torch==2.1.0+cpu and you\n"
        "      require torch==2.1.0+cpu, we can conclude that the\n      requirements are unsatisfiable.\n"
    )

    assert causes(log) == ["res-index-lacks"]


@pytest.mark.parametrize(
    ("log", "cause", "cause_class"),
    [
        (
            ("error: No solution found when resolving dependencies\n"
            "  cause: Because there is no version of torch==99.1 and you require torch==99.1, we can conclude that your requirements are unsatisfiable.\n"),
            "res-index-lacks",
            CauseClass.RESOLVE,
        ),
        (
            ("error: Request failed after 3 retries in 12.4s\n"
            "  cause: Failed to fetch: http://no-such-host.invalid/simple/requests/\n"
            "  cause: client error (Connect)\n  cause: dns error\n"),
            "res-index-unreachable",
            CauseClass.ENVIRONMENT,
        ),
        (
            ("error: No solution found when resolving dependencies\n"
            "  cause: Because vllm==0.33.0 depends on torch==2.14.0 and sglang-kernel==0.4.10 depends on torch==2.14.1, "
            "we can conclude that vllm==0.33.0 and sglang-kernel==0.4.10 are incompatible.\n"
            "         And because you require vllm==0.33.0 and sglang-kernel==0.4.10, we can conclude that your requirements are unsatisfiable.\n"),
            "res-conflict",
            CauseClass.RESOLVE,
        ),
    ],
)  # fmt: skip
def test_three_kinds_of_resolver_failure_are_distinguished(log: str, cause: str, cause_class: CauseClass) -> None:
    [found] = diagnose(log.encode(), stage=Stage.RESOLVE)

    assert (cause, cause_class) == (found.cause, found.cause_class)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=400), max_size=12), st.sampled_from([SGL_KERNEL, VLLM, TWO_CAUSES]))
def test_the_pieces_in_which_a_log_comes_do_not_matter(cuts: list[int], log: str) -> None:
    data = ("\x1b[33m" + log.replace("\n", "\x1b[0m\n\x1b[33m")).encode()
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut
    pieces.append(data[start:])

    assert diagnose(data) == diagnose(iter(pieces))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    report = examine(data)

    assert report.bytes == len(data)


@pytest.mark.parametrize("size", [(1 << 20) - 50, (1 << 20) - 1, 1 << 20, (1 << 20) + 32_000, (2 << 20) + 3])
def test_a_cause_across_the_edge_of_two_blocks_is_found(size: int) -> None:
    head = (b"nothing here\n" * (size // 13 + 1))[:size] + b"\n"
    wrapped = b"RuntimeError:\nThe detected CUDA version (11.8) mismatches the version that was used to compile\nPyTorch (12.4).\n"

    assert causes(head + wrapped) == ["tk-cuda-torch-mismatch"]
    assert causes(head + LINE.encode() + head) == ["arch-no-kernel-image"]


# -------------------------------------------------------------------------------------- classes and contrast


def test_a_cause_beside_the_image_says_so() -> None:
    taken = (
        "ValueError: Free memory on device (3.1/31.36 GiB) on startup is less than desired GPU memory utilization (0.9"
    )
    (beside,) = diagnose(taken.encode())
    (own,) = diagnose(LINE.encode())

    assert (beside.cause, beside.inconclusive) == ("cap-memory-taken", True)
    assert not own.inconclusive
    assert {CauseClass.CAPACITY, CauseClass.ENVIRONMENT, CauseClass.DRIVER} >= {
        entry.cause_class for entry in default_library().entries.values() if entry.inconclusive
    }


def test_every_specific_entry_is_believed_more_than_every_wrapper() -> None:
    library = default_library()
    strengths: dict[FailureKind, list[float]] = {}
    for entry in library.entries.values():
        [first, *_] = diagnose(entry.examples[-1].encode())
        if first.cause == entry.id:
            strengths.setdefault(entry.kind, []).append(first.confidence)

    assert min(strengths[FailureKind.CAUSE]) > max(strengths[FailureKind.WRAPPER])


def cell(name: str, **parts: str) -> CellFacts:
    return CellFacts(cell=name, target="sm_120", parts=parts)


def test_nearest_working_cell_shows_differences_and_the_change_to_make() -> None:
    failing = cell("a", torch="2.9.1", sgl_kernel="0.3.9.post2", python="3.12")
    near = cell("b", torch="2.8.0", sgl_kernel="0.3.9.post2", python="3.12")
    nearer_but_unrelated = cell("c", torch="2.9.1", sgl_kernel="0.3.9.post2", python="3.11")
    found = contrast(failing, [nearer_but_unrelated, near], axes=["torch", "sgl_kernel"])

    assert found is not None
    assert found.works == "b"
    assert [(d.name, d.here, d.there, d.implicated) for d in found.differences] == [("torch", "2.9.1", "2.8.0", True)]
    assert found.suggestion == "b works; take over from it torch: 2.9.1 -> 2.8.0"


def test_cells_of_other_targets_and_equal_cells_are_not_a_contrast() -> None:
    failing = cell("a", torch="2.9.1")
    elsewhere = CellFacts(cell="b", target="sm_90", parts={"torch": "2.8.0"})

    assert contrast(failing, [elsewhere, cell("c", torch="2.9.1")]) is None
