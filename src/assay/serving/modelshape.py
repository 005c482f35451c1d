"""What a model's config.json says of the memory it needs: weights, and KV cache per token."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from assay.errors import UsageError

__all__ = ["ModelShape", "shape_of"]

_BYTES: Final = {
    "float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0, "auto": 2.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "float8_e4m3fn": 1.0, "bf16": 2.0,
}  # fmt: skip
"""Bytes of one element by its type's name."""

_QUANTISED: Final = {
    # method: bytes per weight of the linear layers it packs, scales and zero points included.
    "awq": 0.5 + 2.5 / 128,
    "gptq": 0.5 + 2.5 / 128,
    "awq_marlin": 0.5 + 2.5 / 128,
    "gptq_marlin": 0.5 + 2.5 / 128,
    "fp8": 1.0,
    "modelopt": 1.0,
    "nvfp4": 0.5 + 1 / 16,
    "modelopt_fp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "bitsandbytes": 0.5 + 4 / 64,
    "compressed-tensors": 1.0,
}

_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_LARGEST: Final = 10**9
"""No layer, head, vocabulary or context of a model is larger; what follows is multiplied."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model as memory sees it."""

    weight_bytes: int
    kv_bytes_per_token: int
    """In the type that the KV cache is kept in."""
    context: int
    """Tokens that the model was made for."""
    vocabulary: int
    hidden: int
    inner: int
    """The widest layer's width."""
    estimated: bool
    """The weights were estimated from the configuration, not read from files."""
    layers: int
    sliding: int = 0
    """The layers of them that look back `window` tokens only."""
    window: int = 0

    def windowed_bytes(self, tokens: int, step: int) -> int:
        """Return the cache of one request where sliding layers keep no more than they need.

        Such a server keeps groups of equally many layers; `step` is the most tokens that are computed at once.
        """
        full = self.layers - self.sliding
        group = min(full, self.sliding) or self.layers
        kept = min(self.window - 1 + step, tokens)
        slots = _padded(full, group) * tokens + _padded(self.sliding, group) * kept
        return math.ceil(slots * self.kv_bytes_per_token / self.layers)

    def activation_bytes(self, prefill_tokens: int, requests: int) -> int:
        """Return about what a forward pass needs beside weights and cache.

        Two layers' worth of activations in 16 bit for the largest prefill, and logits in 32 bit for every running
        request; measured servers need more with graphs, which the caller adds.
        """
        return prefill_tokens * (4 * self.hidden + 2 * self.inner) * 2 + requests * self.vocabulary * 4 * 2


def _padded(layers: int, group: int) -> int:
    return math.ceil(layers / group) * group


def _sliding(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """Return how many layers look back over a window only, and the window; (0, 0) where none is known to.

    The defaults are those of the configuration classes of transformers 4.57. A model that is not known to slide counts
    as one that does not, which needs more memory.
    """
    window = _number(config, "sliding_window", default=0)
    if not window:
        return 0, 0
    kind = str(config.get("model_type"))
    types = config.get("layer_types")
    count = 0
    if isinstance(types, list):
        count = types.count("sliding_attention")
    elif kind in {"gpt_oss", "gemma2"}:
        count = (layers + 1) // 2
    elif kind in {"gemma3", "gemma3_text"}:
        count = layers - layers // _number(config, "sliding_window_pattern", default=6)
    elif kind.startswith("qwen") and str(config.get("use_sliding_window", "false")).lower() == "true":
        count = max(0, layers - _number(config, "max_window_layers", default=28))
    elif kind in {"mistral", "mixtral", "phi3", "starcoder2"}:
        count = layers
    return (count, window) if count else (0, 0)


def _number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if value is not None and not isinstance(value, bool | dict | list):
            # Numbers of the models that ship with assay come out of YAML as text.
            number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
            if not isinstance(number, int | float) or not 0 <= number <= _LARGEST:
                raise UsageError(f"{name} in the model's config.json is not a number from 0 to {_LARGEST}")
            return int(number)
    if default is None:
        raise UsageError(f"the model's config.json does not say {names[0]}; name the memory with --memory-fraction")
    return default


def shape_of(config: Mapping[str, Any], *, weight_bytes: int | None = None, kv_type: str | None = None) -> ModelShape:
    """Return a model's shape from its config.json.

    Args:
        config: the parsed config.json; a multimodal model's `text_config` is used where there is one.
        weight_bytes: the size of the weight files, if they are known.
        kv_type: the type of the KV cache; the model's own without it.

    Raises:
        UsageError: the configuration lacks what is needed.
    """
    outer = config
    if isinstance(config.get("text_config"), Mapping):
        config = {**config, **config["text_config"]}
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    layers = _number(config, "num_hidden_layers", "n_layer")
    heads = _number(config, "num_attention_heads", "n_head")
    kv_heads = _number(config, "num_key_value_heads", default=heads)
    width = _number(config, "head_dim", default=hidden // max(heads, 1))
    if not hidden or not heads or not layers:
        raise UsageError("the model's config.json is invalid: its size, layers or heads are zero")
    inner = _number(config, "intermediate_size", "ffn_dim", default=4 * hidden)
    vocabulary = _number(config, "vocab_size")
    element = _BYTES.get(str(config.get("torch_dtype") or config.get("dtype") or "bfloat16"), 2.0)
    cached = _BYTES.get(kv_type or "auto", element) if kv_type and kv_type != "auto" else element
    if config.get("kv_lora_rank") is not None:
        # Multi-head latent attention keeps one compressed vector and the rotary part (DeepSeek-V2, section 2.1).
        per_token = (
            layers * (_number(config, "kv_lora_rank") + _number(config, "qk_rope_head_dim", default=64)) * cached
        )
    else:
        per_token = 2 * layers * kv_heads * width * cached
    reckoned = _weights(config, outer, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, width=width,
                        inner=inner, vocabulary=vocabulary, element=element)  # fmt: skip
    sliding, window = _sliding(config, layers)
    return ModelShape(
        weight_bytes=weight_bytes if weight_bytes is not None else reckoned,
        kv_bytes_per_token=int(per_token),
        context=_number(config, "max_position_embeddings", "n_positions", default=2048),
        vocabulary=vocabulary,
        hidden=hidden,
        inner=inner,
        estimated=weight_bytes is None,
        layers=layers,
        sliding=sliding,
        window=window,
    )


def _weights(
    config: Mapping[str, Any],
    outer: Mapping[str, Any],
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    width: int,
    inner: int,
    vocabulary: int,
    element: float,
) -> int:
    """Return the estimated bytes of a decoder's weights from its shape (gated MLP, as in Llama)."""
    experts = _number(config, "num_local_experts", "num_experts", "n_routed_experts", default=0)
    expert_inner = _number(config, "moe_intermediate_size", default=inner)
    attention = hidden * width * (2 * heads + 2 * kv_heads)
    dense = 3 * hidden * inner
    routed = experts * 3 * hidden * expert_inner
    tied = str(config.get("tie_word_embeddings", "false")).lower() == "true"
    embeddings = vocabulary * hidden * (1 if tied else 2)
    method = outer.get("quant_method") or (outer.get("quantization_config") or {}).get("quant_method")
    packed = _QUANTISED.get(str(method), element) if method else element
    if method == "mxfp4":
        # Only the experts are packed; attention stays as it was (gpt-oss).
        return int(layers * (attention * element + (routed or dense) * packed) + embeddings * element)
    per_layer = attention + (routed if experts else dense)
    return int(layers * per_layer * packed + embeddings * element)
