"""vLLM: log formats from 0.6 to 0.26; flags are in knowledge/server_flags.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from assay.engines.engine import MemoryFlags, ServingEngine
from assay.engines.knowledge import at_least
from assay.engines.logs import CONVERTED, KERNEL, Chosen, graphs, number, plain, take

__all__ = ["ENGINE", "Vllm"]

_BACKEND: Final = re.compile(
    r"Using (?:AttentionBackendEnum\.)?(?P<backend>[A-Z0-9_]+|Flash Attention|FlashInfer) (?:attention )?backend"
)
_GRAPHS: Final = re.compile(
    r"Capturing CUDA graphs? ?(?:shapes|\((?P<name>[^)]*)\))?:?\s+100%.*?(?P<count>\d+)/(?P<total>\d+)"
)
_END: Final = re.compile(r"Graph capturing finished in (?P<seconds>\d+) secs?, took (?P<memory>-?[\d.]+) GiB")
_KV: Final = re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens")
_CHUNK: Final = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(?P<tokens>\d+)")
_WEIGHTS: Final = re.compile(r"Model loading took (?P<memory>[\d.]+) ?GiB")
_MODE: Final = re.compile(r"cudagraph_mode['\"]?[:=] ?<CUDAGraphMode\.(?P<mode>[A-Z_]+)")
_MOE: Final = re.compile(r"Using '?(?P<kernel>[\w ]+?)'? \w* ?MoE backend")
_SAMPLER: Final = re.compile(r"Using FlashInfer for top-p & top-k sampling")
_WINDOWS_SINCE: Final = "0.11.0"
"""The oldest release whose source was read to keep the windows of sliding layers only."""
_WHOLE_CACHE: Final = frozenset({"disable-hybrid-kv-cache-manager", "kv-transfer-config", "kv-events-config"})
"""Flags with which it keeps all tokens of all layers (0.11.0, config/__init__.py)."""


class Vllm(ServingEngine):
    """vLLM (https://docs.vllm.ai).

    It refuses min_p with speculative decoding (https://github.com/vllm-project/vllm/issues/42744).
    """

    name = "vllm"
    memory = MemoryFlags(
        fraction="gpu-memory-utilization",
        context="max-model-len",
        requests="max-num-seqs",
        prefill="max-num-batched-tokens",
        no_graphs=frozenset({"enforce-eager"}),
        parallel=("tensor-parallel-size", "tp"),
    )
    packages = ("vllm",)
    hosts = ("vllm.ai",)
    api_key_variables = ("VLLM_API_KEY",)
    version_said = re.compile(r"(?:vLLM API server version|LLM engine \(v?|vllm-openai:v?)\s*(\d+\.\d[\w.+]*\w)")

    def chosen_in_log(self, log: str) -> Chosen:
        """Return the server's choices from its log."""
        text = plain(log)
        chosen: Chosen = {}
        captured = {
            (match["name"] or "decode").strip(): int(match["total"])
            for match in _GRAPHS.finditer(text)
            if match["count"] == match["total"]
        }
        graphs(chosen, captured, ready="Model loading took" in text)
        if match := _END.search(text):
            chosen["graph_seconds"] = int(match["seconds"])
            chosen["graph_memory_gib"] = float(match["memory"])
        take(chosen, "attention_backend", _BACKEND, text, "backend")
        number(chosen, "kv_cache_tokens", _KV, text, "tokens")
        number(chosen, "prefill_chunk", _CHUNK, text, "tokens")
        number(chosen, "weights_gib", _WEIGHTS, text, "memory")
        take(chosen, "graph_mode", _MODE, text, "mode")
        take(chosen, "quantisation_kernel", KERNEL, text, "kernel")
        take(chosen, "quantisation_kernel", CONVERTED, text, "kernel")
        take(chosen, "moe_backend", _MOE, text, "kernel")
        if _SAMPLER.search(text):
            chosen["sampling_backend"] = "flashinfer"
        return chosen

    def keeps_seeds(self, account: bytes) -> bool:
        """Return True: it heeds the seed of a request."""
        del account
        return True

    def keeps_windows_only(self, version: str, flags: Mapping[str, object]) -> bool:
        """Whether it keeps no more of the layers with a sliding window than they need.

        Since 0.11.0 (`SlidingWindowSpec` in v1/kv_cache_interface.py, and groups of equally many layers in
        v1/core/kv_cache_utils.py). Other releases are taken to keep all tokens, which is never too little.
        """
        return at_least(version, _WINDOWS_SINCE) and not _WHOLE_CACHE & set(flags)

    # memory_base: gpu-memory-utilization is all that it takes over the whole card (0.26.0, v1/worker/utils.py).


ENGINE: Final[ServingEngine] = Vllm()
