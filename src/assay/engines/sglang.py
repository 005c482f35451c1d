"""SGLang: log formats from 0.3 to 0.5.14; flags are in knowledge/server_flags.yaml."""

from __future__ import annotations

import re
from typing import Any, Final

from assay.engines.engine import MemoryFlags, ServingEngine
from assay.engines.logs import CONVERTED, KERNEL, Chosen, graphs, number, plain, take
from assay.foundation.foreign import read_json

__all__ = ["ENGINE", "Sglang"]

# Until 0.5.13: `Capture cuda graph bs [1, 2, 4]`; from 0.5.14: `Capture target decode CUDA graph begin. ...
# bs=[1, 2, 4]` and `... num_tokens=[4, 8]` for prefill.
_SIZES: Final = re.compile(
    r"Capture (?P<name>[a-z ]*?)(?:CUDA|cuda) graph (?:begin\..*?(?:bs|num_tokens)=|bs )\[(?P<sizes>[\d, ]*)\]"
)
_END: Final = re.compile(
    r"Capture (?P<name>[a-z ]*?)(?:CUDA|cuda) graph end\. (?:Time elapsed: |elapsed=)(?P<seconds>[\d.]+) ?s"
    r".*?mem usage=(?P<memory>[\d.]+) GB"
)
_DEFAULT: Final = re.compile(r"Use (?P<backend>\w+) (?:attention )?backend by default")
_KV: Final = re.compile(r"KV Cache is allocated\..*?#tokens: (?P<tokens>\d+)")
_POOL: Final = re.compile(r"max_total_num_tokens=(?P<tokens>\d+)")
_CHUNK: Final = re.compile(r"\bchunked_prefill_size=(?P<tokens>\d+)")
_WEIGHTS: Final = re.compile(r"Load weight end\..*?mem usage=(?P<memory>[\d.]+) GB")
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


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = read_json(body, constants=True)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


class Sglang(ServingEngine):
    """SGLang (https://docs.sglang.io). 0.5.2 keeps all tokens of layers with a sliding window (server_args.py)."""

    name = "sglang"
    memory = MemoryFlags(
        fraction="mem-fraction-static",
        context="context-length",
        requests="max-running-requests",
        prefill="chunked-prefill-size",
        pool="max-total-tokens",
        no_graphs=frozenset({"disable-cuda-graph", "disable-decode-cuda-graph"}),
        parallel=("tensor-parallel-size", "tp-size", "tp"),
    )
    packages = ("sglang", "sgl-kernel", "sglang-kernel")
    hosts = ("sgl-project.github.io",)
    # 0.5.14 takes the port 10,000 above its own for gRPC, and ends with `SGLANG_GRPC_PORT must be between 1 and 65535`
    # where that is none.
    ports_beside = (10_000,)
    account_paths = ("/server_info", "/get_server_info")
    version_said = re.compile(r"(?:lmsysorg/sglang:v?|sglang version:? ?v?)(\d+\.\d[\w.+-]*\w)")

    def chosen_in_log(self, log: str) -> Chosen:
        """Return the server's choices from its log."""
        text = plain(log)
        chosen: Chosen = {}
        sizes: dict[str, int] = {}
        for match in _SIZES.finditer(text):
            sizes[match["name"].strip() or "decode"] = len([part for part in match["sizes"].split(",") if part.strip()])
        ends = list(_END.finditer(text))
        finished = {match["name"].strip() or "decode" for match in ends}
        captured = {name: count for name, count in sizes.items() if name in finished}
        graphs(chosen, captured, ready="Load weight end" in text)
        if ends:
            chosen["graph_seconds"] = round(sum(float(match["seconds"]) for match in ends), 2)
            chosen["graph_memory_gib"] = round(sum(float(match["memory"]) for match in ends), 2)
        take(chosen, "attention_backend", _DEFAULT, text, "backend")
        number(chosen, "kv_cache_tokens", _KV, text, "tokens")
        number(chosen, "kv_cache_tokens", _POOL, text, "tokens")
        number(chosen, "prefill_chunk", _CHUNK, text, "tokens")
        number(chosen, "weights_gib", _WEIGHTS, text, "memory")
        take(chosen, "quantisation_kernel", KERNEL, text, "kernel")
        # 0.5.14, srt/layers/quantization/awq/awq.py and gptq/gptq.py.
        take(chosen, "quantisation_kernel", CONVERTED, text, "kernel")
        return chosen

    def chosen_in_account(self, body: bytes) -> Chosen:
        """Return what /server_info (before: /get_server_info) tells; nothing from any other body."""
        said = _object(body)
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
                sizes = {part: value for part, value in memory.items() if isinstance(value, int | float)}
                chosen |= {f"memory_{part}_gib": value for part, value in sizes.items()}
        return chosen

    def keeps_seeds(self, account: bytes) -> bool:
        """Whether the server was started with --enable-deterministic-inference, by its own account.

        See https://docs.sglang.io/advanced_features/deterministic_inference.html; /v1/completions may ignore a seed
        even then, and gives one answer to every seed (https://github.com/sgl-project/sglang/issues/15481).
        """
        return _object(account).get("enable_deterministic_inference") is True

    def memory_base(self, card: int, before: int, fixed: int, context: int) -> tuple[int, int]:
        """Return what is free when it starts, so that the order of starting counts, and 0.

        mem-fraction-static is weights and cache over that (0.5.14, model_runner_kv_cache_mixin.py).
        """
        del fixed
        return card - before - context, 0


ENGINE: Final[ServingEngine] = Sglang()
