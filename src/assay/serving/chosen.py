"""What a server really chose, read from its log and from its own account of itself; nothing is taken from its flags.

The lines are those of SGLang 0.3 to 0.5.14 and vLLM 0.6 to 0.26; a server that says something else gives fewer keys,
never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from assay.foundation.foreign import read_json
from assay.serving.profile import Engine

__all__ = ["Chosen", "from_log", "from_server_info"]

Chosen = dict[str, bool | int | float | str]

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
# SGLang until 0.5.13: `Capture cuda graph bs [1, 2, 4]`; from 0.5.14: `Capture target decode CUDA graph begin. ...
# bs=[1, 2, 4]` and `... num_tokens=[4, 8]` for prefill.
_SGLANG_SIZES: Final = re.compile(
    r"Capture (?P<name>[a-z ]*?)(?:CUDA|cuda) graph (?:begin\..*?(?:bs|num_tokens)=|bs )\[(?P<sizes>[\d, ]*)\]"
)
_SGLANG_END: Final = re.compile(
    r"Capture (?P<name>[a-z ]*?)(?:CUDA|cuda) graph end\. (?:Time elapsed: |elapsed=)(?P<seconds>[\d.]+) ?s"
    r".*?mem usage=(?P<memory>[\d.]+) GB"
)
_SGLANG_DEFAULT: Final = re.compile(r"Use (?P<backend>\w+) (?:attention )?backend by default")
_SGLANG_KV: Final = re.compile(r"KV Cache is allocated\..*?#tokens: (?P<tokens>\d+)")
_SGLANG_POOL: Final = re.compile(r"max_total_num_tokens=(?P<tokens>\d+)")
_SGLANG_CHUNK: Final = re.compile(r"\bchunked_prefill_size=(?P<tokens>\d+)")
_SGLANG_WEIGHTS: Final = re.compile(r"Load weight end\..*?mem usage=(?P<memory>[\d.]+) GB")
_VLLM_BACKEND: Final = re.compile(r"Using (?:AttentionBackendEnum\.)?(?P<backend>[A-Z0-9_]+|Flash Attention|FlashInfer)"
                                  r" (?:attention )?backend")  # fmt: skip
_VLLM_GRAPHS: Final = re.compile(
    r"Capturing CUDA graphs? ?(?:shapes|\((?P<name>[^)]*)\))?:?\s+100%.*?(?P<count>\d+)/(?P<total>\d+)"
)
_VLLM_END: Final = re.compile(r"Graph capturing finished in (?P<seconds>\d+) secs?, took (?P<memory>-?[\d.]+) GiB")
_VLLM_KV: Final = re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens")
_VLLM_CHUNK: Final = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(?P<tokens>\d+)")
_VLLM_WEIGHTS: Final = re.compile(r"Model loading took (?P<memory>[\d.]+) ?GiB")
_VLLM_MODE: Final = re.compile(r"cudagraph_mode['\"]?[:=] ?<CUDAGraphMode\.(?P<mode>[A-Z_]+)")
_KERNEL: Final = re.compile(r"Using (?P<kernel>\w*(?:LinearKernel|ScaledMM\w*|Marlin\w*)) for (?P<method>\w+)")
# SGLang 0.5.14, srt/layers/quantization/awq/awq.py and gptq/gptq.py.
_CONVERTED: Final = re.compile(
    r"(?:The model is convertible to \w+ during runtime\. Using |explicitly, so forcing )(?P<kernel>\w+)"
)
_MOE: Final = re.compile(r"Using '?(?P<kernel>[\w ]+?)'? \w* ?MoE backend")
_SAMPLER: Final = re.compile(r"Using FlashInfer for top-p & top-k sampling")
_TOLD: Final = {
    "attention_backend": "attention_backend",
    "decode_attention_backend": "decode_attention_backend",
    "prefill_attention_backend": "prefill_attention_backend",
    "sampling_backend": "sampling_backend",
    "grammar_backend": "grammar_backend",
    "schedule_policy": "schedule_policy",
    "quantization": "quantization",
    "kv_cache_dtype": "kv_cache_dtype",
    "disable_radix_cache": "radix_cache_disabled",
    "disable_cuda_graph": "cuda_graphs_disabled",
    "enable_torch_compile": "torch_compile",
    "mem_fraction_static": "mem_fraction_static",
    "max_total_num_tokens": "kv_cache_tokens",
    "fp8_gemm_runner_backend": "fp8_gemm_backend",
    "moe_runner_backend": "moe_backend",
    "version": "version",
}


def from_log(engine: Engine, log: str) -> Chosen:
    """Return what a server's log tells of its choices.

    `cuda_graphs` is the number of graphs captured, 0 if the log shows the start-up and no capture; `..._by` splits it.
    """
    text = _ANSI.sub("", log.replace("\r", "\n"))
    return _sglang(text) if engine == "sglang" else _vllm(text)


def _sglang(text: str) -> Chosen:
    chosen: Chosen = {}
    sizes: dict[str, int] = {}
    for match in _SGLANG_SIZES.finditer(text):
        sizes[match["name"].strip() or "decode"] = len([part for part in match["sizes"].split(",") if part.strip()])
    ends = list(_SGLANG_END.finditer(text))
    finished = {match["name"].strip() or "decode" for match in ends}
    captured = {name: count for name, count in sizes.items() if name in finished}
    _graphs(chosen, captured, ready="Load weight end" in text)
    if ends:
        chosen["graph_seconds"] = round(sum(float(match["seconds"]) for match in ends), 2)
        chosen["graph_memory_gib"] = round(sum(float(match["memory"]) for match in ends), 2)
    _take(chosen, "attention_backend", _SGLANG_DEFAULT, text, "backend")
    _number(chosen, "kv_cache_tokens", _SGLANG_KV, text, "tokens")
    _number(chosen, "kv_cache_tokens", _SGLANG_POOL, text, "tokens")
    _number(chosen, "prefill_chunk", _SGLANG_CHUNK, text, "tokens")
    _number(chosen, "weights_gib", _SGLANG_WEIGHTS, text, "memory")
    _take(chosen, "quantisation_kernel", _KERNEL, text, "kernel")
    _take(chosen, "quantisation_kernel", _CONVERTED, text, "kernel")
    return chosen


def _vllm(text: str) -> Chosen:
    chosen: Chosen = {}
    captured = {
        (match["name"] or "decode").strip(): int(match["total"])
        for match in _VLLM_GRAPHS.finditer(text)
        if match["count"] == match["total"]
    }
    _graphs(chosen, captured, ready="Model loading took" in text)
    if match := _VLLM_END.search(text):
        chosen["graph_seconds"] = int(match["seconds"])
        chosen["graph_memory_gib"] = float(match["memory"])
    _take(chosen, "attention_backend", _VLLM_BACKEND, text, "backend")
    _number(chosen, "kv_cache_tokens", _VLLM_KV, text, "tokens")
    _number(chosen, "prefill_chunk", _VLLM_CHUNK, text, "tokens")
    _number(chosen, "weights_gib", _VLLM_WEIGHTS, text, "memory")
    _take(chosen, "graph_mode", _VLLM_MODE, text, "mode")
    _take(chosen, "quantisation_kernel", _KERNEL, text, "kernel")
    _take(chosen, "quantisation_kernel", _CONVERTED, text, "kernel")
    _take(chosen, "moe_backend", _MOE, text, "kernel")
    if _SAMPLER.search(text):
        chosen["sampling_backend"] = "flashinfer"
    return chosen


def _graphs(chosen: Chosen, captured: Mapping[str, int], *, ready: bool) -> None:
    if captured:
        chosen["cuda_graphs"] = sum(captured.values())
        chosen["cuda_graphs_by"] = ", ".join(f"{name}: {count}" for name, count in captured.items())
    elif ready:
        chosen["cuda_graphs"] = 0


def _take(chosen: Chosen, key: str, pattern: re.Pattern[str], text: str, group: str) -> None:
    if key not in chosen and (match := pattern.search(text)):
        chosen[key] = match[group]


def _number(chosen: Chosen, key: str, pattern: re.Pattern[str], text: str, group: str) -> None:
    if key not in chosen and (match := pattern.search(text)):
        digits = match[group].replace(",", "")
        chosen[key] = float(digits) if "." in digits else int(digits)


def from_server_info(body: bytes) -> Chosen:
    """Return what SGLang's /server_info (before: /get_server_info) tells; nothing from any other body."""
    try:
        said = read_json(body, constants=True)
    except ValueError:
        return {}
    if not isinstance(said, dict):
        return {}
    chosen: Chosen = {}
    for name, key in _TOLD.items():
        value = said.get(name)
        if isinstance(value, bool | int | float | str):
            chosen[key] = value
    states = said.get("internal_states")
    if isinstance(states, list) and states and isinstance(states[0], dict):
        for name in ("max_total_num_tokens", "effective_max_running_requests_per_dp", "graph"):
            value = states[0].get(name)
            if isinstance(value, int | float):
                chosen.setdefault("kv_cache_tokens" if name == "max_total_num_tokens" else name, value)
        memory = states[0].get("memory_usage")
        if isinstance(memory, dict):
            chosen |= {f"memory_{part}_gib": value for part, value in memory.items() if isinstance(value, int | float)}
    return chosen
