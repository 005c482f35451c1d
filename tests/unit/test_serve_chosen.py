"""What a server chose, from its own words."""

from __future__ import annotations

import json

import pytest

from assay.engines.logs import Chosen
from assay.engines.table import engine_named

OLD_SGLANG = """
[2025-08-25 15:31:01] Attention backend not specified. Use flashinfer backend by default.
[2025-08-25 15:31:05] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, mem usage=5.88 GB.
[2025-08-25 15:31:06] KV Cache is allocated. #tokens: 20480, K size: 0.35 GB, V size: 0.35 GB
[2025-08-25 15:31:06] Capture cuda graph begin. This can take up to several minutes. avail mem=8.56 GB
[2025-08-25 15:31:06] Capture cuda graph bs [1, 2, 4, 8, 16]
[2025-08-25 15:31:27] Capture cuda graph end. Time elapsed: 25.39 s. mem usage=0.56 GB. avail mem=8.00 GB.
"""
NEW_SGLANG = """
[2026-11-20 12:00:00] Load weight end. elapsed=1.0 s, mem usage=0.10 GB.
[2026-11-20 12:00:00] Capture target decode CUDA graph begin. backend=full, num_tokens_per_bs=1, bs=[1, 2, 4], avail=30
[2026-11-20 12:00:04] Capture target decode CUDA graph end. elapsed=4.00 s, mem usage=0.05 GB, avail mem=30.00 GB.
[2026-11-20 12:00:04] Capture prefill CUDA graph begin. backend=breakable, num_tokens=[4, 8], avail mem=30 GB
[2026-11-20 12:00:06] Capture prefill CUDA graph end. elapsed=2.50 s, mem usage=0.02 GB, avail mem=29.98 GB.
"""
VLLM = (
    "INFO 07-28 10:03:02 [cuda.py:482] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].\n"
    "INFO 07-28 10:03:09 [gpu_model_runner.py:1] Model loading took 13.72 GiB memory and 9.1 seconds\n"
    "INFO 07-28 10:03:20 [kv_cache_utils.py:1] GPU KV cache size: 262,144 tokens\n"
    "INFO 07-28 10:03:20 [x.py:1] Using MarlinLinearKernel for GPTQMarlinLinearMethod\n"
    "\x1b[1mCapturing CUDA graphs (mixed prefill-decode, PIECEWISE):   0%|          | 0/81 [00:00<?, ?it/s]\r"
    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 81/81 [00:02<00:00, 33it/s]\n"
    "Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:01<00:00, 30.1it/s]\n"
    "INFO 07-28 10:03:30 [gpu_model_runner.py:1] Graph capturing finished in 4 secs, took 0.89 GiB\n"
)

# Seen on an H200: vLLM 0.24.0 with a tiny model.
VLLM_V2 = (
    "(EngineCore pid=1179) INFO 11-20 14:08:51 [cuda.py:480] Using FLASH_ATTN attention backend out of potential "
    "backends: ['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION'].\n"
    "(EngineCore pid=1179) INFO 11-20 14:08:52 [model_runner.py:302] Model loading took 0.0 GiB and 1.698273 seconds\n"
    "(EngineCore pid=1179) INFO 11-20 14:08:52 [topk_topp_sampler.py:55] Using FlashInfer for top-p & top-k sampling.\n"
    "(EngineCore pid=1179) INFO 11-20 14:09:02 [kv_cache_utils.py:2146] GPU KV cache size: 43,606,224 tokens\n"
    "(EngineCore pid=1179) \rCapturing CUDA graphs (PIECEWISE):   0%|          | 0/11 [00:00<?, ?it/s]"
    "\rCapturing CUDA graphs (PIECEWISE): 100%|██████████| 11/11 [00:00<00:00, 239.96it/s]\n"
    "(EngineCore pid=1179) \rCapturing CUDA graphs (FULL):   0%|          | 0/7 [00:00<?, ?it/s]"
    "\rCapturing CUDA graphs (FULL): 100%|██████████| 7/7 [00:00<00:00, 303.39it/s]\n"
    "(EngineCore pid=1179) INFO 11-20 14:09:03 [model_runner.py:726] Graph capturing finished in 0 secs, took 0.07 GiB"
)
# Seen on an H200: SGLang 0.5.14 with a tiny model, which went on to fail before any graph was captured.
SGLANG_BEGUN = """
[2026-11-20 14:06:53] Attention backend not specified. Use fa3 backend by default.
[2026-11-20 14:07:17] Load weight begin. avail mem=139.13 GB
[2026-11-20 14:07:17] Load weight end. elapsed=0.13 s, type=LlamaForCausalLM, avail mem=139.10 GB, mem usage=0.02 GB.
[2026-11-20 14:07:17] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 65536, K size: 0.03 GB, V size: 0.03 GB
[2026-11-20 14:07:17] Memory pool end. avail mem=139.03 GB
"""


@pytest.mark.parametrize(
    ("engine", "log", "expected"),
    [
        (
            "sglang",
            OLD_SGLANG,
            {
                "cuda_graphs": 5,
                "cuda_graphs_by": "decode: 5",
                "graph_seconds": 25.39,
                "graph_memory_gib": 0.56,
                "attention_backend": "flashinfer",
                "kv_cache_tokens": 20480,
                "weights_gib": 5.88,
            },
        ),
        (
            "sglang",
            NEW_SGLANG,
            {
                "cuda_graphs": 5,
                "cuda_graphs_by": "target decode: 3, prefill: 2",
                "graph_seconds": 6.5,
                "graph_memory_gib": 0.07,
                "weights_gib": 0.10,
            },
        ),
        (
            "vllm",
            VLLM,
            {
                "cuda_graphs": 116,
                "cuda_graphs_by": "mixed prefill-decode, PIECEWISE: 81, decode, FULL: 35",
                "graph_seconds": 4,
                "graph_memory_gib": 0.89,
                "attention_backend": "FLASH_ATTN",
                "kv_cache_tokens": 262144,
                "weights_gib": 13.72,
                "quantisation_kernel": "MarlinLinearKernel",
            },
        ),
        (
            "vllm",
            VLLM_V2,
            {
                "cuda_graphs": 18,
                "cuda_graphs_by": "PIECEWISE: 11, FULL: 7",
                "graph_seconds": 0,
                "graph_memory_gib": 0.07,
                "attention_backend": "FLASH_ATTN",
                "kv_cache_tokens": 43606224,
                "weights_gib": 0.0,
                "sampling_backend": "flashinfer",
            },
        ),
        (
            "sglang",
            SGLANG_BEGUN,
            {"cuda_graphs": 0, "attention_backend": "fa3", "kv_cache_tokens": 65536, "weights_gib": 0.02},
        ),
    ],
)
def test_logs_of_real_servers(engine: str, log: str, expected: Chosen) -> None:
    assert expected == engine_named(engine).chosen_in_log(log)


# The messages of SGLang 0.5.14, srt/layers/quantization/awq/awq.py.
CONVERTED = "The model is convertible to awq_marlin during runtime. Using awq_marlin kernel."
FORCED = (
    "Detected that the model can run with awq_marlin, however you specified quantization=awq explicitly, "
    "so forcing awq. Use quantization=awq_marlin for faster inference"
)


@pytest.mark.parametrize(("line", "kernel"), [(CONVERTED, "awq_marlin"), (FORCED, "awq")])
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_kernel_of_a_quantisation_that_can_be_converted(engine: str, line: str, kernel: str) -> None:
    assert {"quantisation_kernel": kernel} == engine_named(engine).chosen_in_log(f"[2026-11-20 12:00:00] {line}\n")


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        (
            "sglang",
            "[2026-11-20 12:00:00] max_total_num_tokens=4096, chunked_prefill_size=2048, max_prefill_tokens=16384",
        ),
        ("vllm", "INFO 11-20 12:00:00 [scheduler.py:82] Chunked prefill is enabled with max_num_batched_tokens=2048."),
    ],
)
def test_the_pieces_of_long_prompts(engine: str, line: str) -> None:
    assert 2048 == engine_named(engine).chosen_in_log(line)["prefill_chunk"]
    assert "prefill_chunk" not in engine_named(engine).chosen_in_log(line.replace("=2048", "=-1"))


def test_a_capture_that_did_not_end_captured_nothing() -> None:
    cut = OLD_SGLANG[: OLD_SGLANG.index("[2025-08-25 15:31:27]")]

    assert 0 == engine_named("sglang").chosen_in_log(cut)["cuda_graphs"]
    assert 0 == engine_named("vllm").chosen_in_log(VLLM[: VLLM.index("100%")])["cuda_graphs"]


@pytest.mark.parametrize("log", ["", "nonsense", "\0\r\r", "Capture cuda graph bs [x]"])
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_other_text_gives_nothing(engine: str, log: str) -> None:
    assert {} == engine_named(engine).chosen_in_log(log)


def test_the_servers_own_account() -> None:
    said = {
        "attention_backend": "fa3",
        "disable_cuda_graph": False,
        "tokenizer": {"x": 1},
        "internal_states": [{"max_total_num_tokens": 65536, "memory_usage": {"weight": 0.1, "graph": None}}],
    }

    chosen = engine_named("sglang").chosen_in_account(json.dumps(said).encode())

    assert {
        "attention_backend": "fa3",
        "cuda_graphs_disabled": False,
        "kv_cache_tokens": 65536,
        "memory_weight_gib": 0.1,
    } == chosen


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'"x"'])
def test_another_body_gives_nothing(body: bytes) -> None:
    assert {} == engine_named("sglang").chosen_in_account(body)
