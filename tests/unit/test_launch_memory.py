"""Memory is planned before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from assay.errors import UsageError
from assay.serving.memory import CONTEXT_BYTES, Tenant, plan_memory
from assay.serving.modelshape import ModelShape, shape_of

GIB = 1 << 30
MODELS: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "knowledge" / "models.yaml").read_text())["models"]
TINY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
QWEN = "Qwen/Qwen2.5-3B-Instruct"
YI = "01-ai/Yi-6B-Chat"
AWQ = "Qwen/Qwen3-32B-AWQ"


def shape(name: str) -> ModelShape:
    return shape_of(MODELS[name]["config"])


def tenant(name: str, context: int = 2048, requests: int = 4, **more: Any) -> Tenant:
    return Tenant(name=name, shape=shape(name), context=context, requests=requests, **{"engine": "sglang", **more})


@pytest.mark.parametrize(
    ("model", "gib", "kv"),
    [
        # 1.10, 3.09, 6.06, 32.8 and 20.9 billion parameters, in 16 bit, 4 bit (AWQ) and MXFP4.
        (TINY, 2.05, 22 * 2 * 4 * 64 * 2),
        (QWEN, 5.75, 36 * 2 * 2 * 128 * 2),
        (YI, 11.29, 32 * 2 * 4 * 128 * 2),
        ("Qwen/Qwen3-32B", 61.02, 64 * 2 * 8 * 128 * 2),
        (AWQ, 18.0, 64 * 2 * 8 * 128 * 2),
        ("openai/gpt-oss-20b", 12.8, 24 * 2 * 8 * 64 * 2),
    ],
)
def test_shapes_of_the_users_models(model: str, gib: float, kv: int) -> None:
    found = shape(model)

    assert pytest.approx(gib, rel=0.01) == found.weight_bytes / GIB
    assert kv == found.kv_bytes_per_token
    assert found.estimated


def test_memory_estimate_is_close_to_the_users_measurements() -> None:
    """The documents: TinyLlama 2.15 GB, Qwen2.5-3B 5.88 GB (as SGLang logs weights), Qwen3-32B-AWQ 20.9 GB in all."""
    assert pytest.approx(2.15, rel=0.06) == shape(TINY).weight_bytes / GIB
    assert pytest.approx(5.88, rel=0.03) == shape(QWEN).weight_bytes / GIB
    share = plan_memory(32 * GIB, [tenant(AWQ, 3072, 1, graphs=False, prefill=1664, pool=3072)]).shares[0]
    assert pytest.approx(20.9, rel=0.05) == share.total / GIB


def test_latent_attention_and_fp8_caches() -> None:
    mla = {**MODELS[QWEN]["config"], "kv_lora_rank": 512, "qk_rope_head_dim": 64}

    assert 36 * 576 * 2 == shape_of(mla).kv_bytes_per_token
    assert shape(QWEN).kv_bytes_per_token / 2 == shape_of(MODELS[QWEN]["config"], kv_type="fp8").kv_bytes_per_token


GPT_OSS = "openai/gpt-oss-20b"


@pytest.mark.parametrize(
    ("more", "sliding"),
    [
        ({"model_type": "gpt_oss", "num_hidden_layers": "24"}, (12, 128)),
        ({"model_type": "gemma2", "num_hidden_layers": 26}, (13, 128)),
        ({"model_type": "gemma3_text", "num_hidden_layers": 26}, (22, 128)),
        ({"model_type": "gemma3_text", "num_hidden_layers": 62, "sliding_window_pattern": 6}, (52, 128)),
        ({"model_type": "x", "layer_types": ["sliding_attention"] * 30 + ["full_attention"] * 6}, (30, 128)),
        ({"model_type": "x", "layer_types": ["full_attention"] * 36}, (0, 0)),
        ({"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 21}, (0, 0)),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 21}, (15, 128)),
        ({"model_type": "mistral"}, (36, 128)),
        ({"model_type": "mistral", "sliding_window": None}, (0, 0)),
        ({"model_type": "unknown"}, (0, 0)),
    ],
)
def test_layers_that_slide(more: dict[str, Any], sliding: tuple[int, int]) -> None:
    found = shape_of({**MODELS[QWEN]["config"], "sliding_window": 128, **more})

    assert sliding == (found.sliding, found.window)


def test_vllm_keeps_the_window_of_sliding_layers_only() -> None:
    """gpt-oss-20b: 12 layers of 24 look back 128 tokens; a layer takes 2 KiB for a token."""
    whole = tenant(GPT_OSS, 32768, prefill=2048)
    windowed = tenant(GPT_OSS, 32768, prefill=2048, windowed=True)

    layer = 2 * 8 * 64 * 2
    assert 24 * layer == whole.kv_bytes_per_token
    assert 12 * layer * (32768 + 127 + 2048) == windowed.shape.windowed_bytes(32768, 2048)
    assert pytest.approx(12 * layer * (1 + 2175 / 32768), abs=1) == windowed.kv_bytes_per_token
    # A request that is no longer than the window and a prefill takes all layers in full.
    assert 24 * layer == tenant(GPT_OSS, 2048, prefill=2048, windowed=True).kv_bytes_per_token


def test_vllms_groups_of_layers_are_filled_up() -> None:
    """Gemma 3 27B: 52 sliding layers and 10 others make groups of 10, so 8 layers are padding."""
    config = {**MODELS[QWEN]["config"], "model_type": "gemma3_text", "sliding_window": 1024, "num_hidden_layers": 62}
    found = shape_of(config)

    assert found.kv_bytes_per_token // 62 * (10 * 8192 + 60 * (1023 + 2048)) == found.windowed_bytes(8192, 2048)


def test_a_model_without_windows_needs_the_same_either_way() -> None:
    assert tenant(QWEN).kv_bytes_per_token == tenant(QWEN, windowed=True).kv_bytes_per_token


def test_a_multimodal_models_text_counts() -> None:
    assert shape(QWEN) == shape_of({"model_type": "x", "text_config": MODELS[QWEN]["config"]})


def test_known_file_sizes_replace_the_estimate() -> None:
    found = shape_of(MODELS[QWEN]["config"], weight_bytes=123)

    assert (123, False) == (found.weight_bytes, found.estimated)


def test_an_unknown_configuration_is_reported() -> None:
    with pytest.raises(UsageError, match="hidden_size"):
        shape_of({"model_type": "x"})


def test_a_model_that_does_not_fit_is_reported_beforehand() -> None:
    with pytest.raises(UsageError) as caught:
        plan_memory(32 * GIB, [tenant("Qwen/Qwen3-32B", 8192)])

    assert "does not fit: 65." in caught.value.message
    assert "weights 61.02" in caught.value.message
    assert "4 bits" in str(caught.value.hint)


def test_three_models_share_a_card_with_a_fifth_free() -> None:
    plan = plan_memory(32 * GIB, [tenant(TINY, requests=64), tenant(QWEN, requests=32), tenant(YI, requests=16)])

    assert sum(share.total for share in plan.shares) + plan.free == plan.card
    assert 0.2 <= plan.free / plan.card < 0.25
    assert all(share.cache_tokens >= 2048 for share in plan.shares)


def test_the_users_split_leaves_less_than_they_think() -> None:
    """0.10, 0.25 and 0.45 with 20 % free: SGLang's share is of what is free at start, and is not all that it takes."""
    with pytest.raises(UsageError, match=r"not fit|need"):
        plan_memory(
            32 * GIB,
            [tenant(TINY, fraction=0.10), tenant(QWEN, fraction=0.25), tenant(YI, fraction=0.45)],
        )


def test_sglangs_fraction_is_of_what_is_free_when_it_starts() -> None:
    first, second = plan_memory(32 * GIB, [tenant(QWEN), tenant(TINY)]).shares

    free = 32 * GIB - first.total - CONTEXT_BYTES
    assert pytest.approx((second.weights + second.cache) / free, abs=0.0011) == second.fraction


def test_vllms_fraction_is_of_the_card() -> None:
    (share,) = plan_memory(32 * GIB, [tenant(QWEN, engine="vllm")]).shares

    assert pytest.approx(share.total / (32 * GIB), abs=0.0011) == share.fraction


def test_a_share_that_is_too_small_is_reported_with_what_it_needs() -> None:
    with pytest.raises(UsageError) as caught:
        plan_memory(32 * GIB, [tenant(QWEN, fraction=0.1)])

    assert "weights and one request" in caught.value.message
    assert str(caught.value.hint).startswith("give it 0.")


def test_cache_is_not_larger_than_the_pool() -> None:
    (share,) = plan_memory(32 * GIB, [tenant(AWQ, 1024, 64, pool=3072)]).shares

    assert 3072 == share.cache_tokens


@given(
    st.lists(st.sampled_from([TINY, QWEN, YI, AWQ, "openai/gpt-oss-20b"]), min_size=1, max_size=3, unique=True),
    st.integers(8, 140),
    st.integers(256, 16384),
    st.integers(1, 128),
    st.sampled_from(["sglang", "vllm"]),
)
def test_a_plan_is_never_more_than_the_card(
    models: list[str], gib: int, context: int, requests: int, engine: str
) -> None:
    tenants = [tenant(name, context, requests, engine=engine, windowed=engine == "vllm") for name in models]
    try:
        plan = plan_memory(gib * GIB, tenants)
    except UsageError:
        assume(False)

    reserve = 0.06 if len(models) == 1 else 0.20
    assert plan.free >= int(plan.card * reserve) - 1
    for one, share in zip(tenants, plan.shares, strict=True):
        assert share.cache_tokens >= one.context
        assert 0 < share.fraction <= 1
        assert share.cache_tokens <= one.context * one.requests


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_one_memory_leaves_a_part_to_the_system(engine: str) -> None:
    card, share = int(121.6 * GIB), 0.17
    one = tenant(QWEN, 8192, 4, engine=engine)
    plain, shared = plan_memory(card, [one]), plan_memory(card, [one], system_share=share)

    assert shared.free >= int(card * share)
    assert any("CPU and GPU share this memory" in note for note in shared.notes)
    assert plain.notes == shared.notes[1:]
    most = card if engine == "vllm" else card - int(card * share) - CONTEXT_BYTES
    assert shared.shares[0].fraction * most <= card * (1 - share)


def test_model_that_fits_the_card_but_not_beside_the_system_is_refused() -> None:
    one = tenant(QWEN, 8192, 1)
    card = int(plan_memory(80 * GIB, [one]).shares[0].total / 0.94) + GIB

    assert plan_memory(card, [one]).shares
    with pytest.raises(UsageError, match="does not fit"):
        plan_memory(card, [one], system_share=0.5)
