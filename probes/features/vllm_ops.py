"""vLLM's custom operations: norms, activation, rotary embedding, cache writes, expert routing and fused experts."""

import importlib.util

FEATURE = "vllm-ops"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    vllm = probe.module("vllm")
    ops = probe.module("vllm._custom_ops")
    # The library that holds the operations differs by version. One that does not load is broken, whoever goes on
    # without it; an operation that the loaded ones lack has moved.
    for library in ("vllm._C", "vllm._C_stable_libtorch"):
        if importlib.util.find_spec(library):
            probe.module(library)
    silu_and_mul = probe.api(torch, "ops._C.silu_and_mul")
    from probelib import reference
    from probelib.calls import call

    probe.metric("vllm", vllm.__version__)
    generator = probe.generator()

    def random(*shape):
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    for rows, width in ((1, 128), (37, 4096), (130, 1000)):
        x, weight = random(rows, width), random(width)
        out = torch.full_like(x, float("nan"))
        ops.rms_norm(out, x, weight, 1e-6)
        probe.compare(f"rms_norm[{rows}x{width}]", out, reference.rms_norm(x, weight, 1e-6), tolerance=6e-3)
    x, residual, weight = random(33, 2048), random(33, 2048), random(2048)
    total = x.double() + residual.double()
    ops.fused_add_rms_norm(x, residual, weight, 1e-6)
    probe.compare("fused_add.residual", residual, total, tolerance=6e-3)
    probe.compare("fused_add_rms_norm", x, reference.rms_norm(total, weight, 1e-6), tolerance=1e-2)
    for rows, width in ((1, 256), (77, 2816)):
        x = random(rows, 2 * width)
        out = torch.full((rows, width), float("nan"), device="cuda", dtype=x.dtype)
        silu_and_mul(out, x)
        probe.compare(f"silu_and_mul[{rows}x{width}]", out, reference.silu_and_mul(x), tolerance=8e-3)
    tokens, heads, kv_heads, width = 33, 8, 2, 64
    q, k = random(tokens, heads * width), random(tokens, kv_heads * width)
    positions = torch.randperm(512, device="cuda", generator=generator)[:tokens]
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device="cuda") / width)
    angles = torch.arange(512, device="cuda").float()[:, None] * frequency
    table = torch.cat((angles.cos(), angles.sin()), -1).bfloat16()
    expected = [reference.rope_neox(t.view(tokens, -1, width), positions).flatten(1) for t in (q, k)]
    ops.rotary_embedding(positions, q, k, width, table, True)
    probe.compare("rotary.query", q, expected[0], tolerance=1e-2)
    probe.compare("rotary.key", k, expected[1], tolerance=1e-2)
    cache_writes(probe, torch, ops, random, generator)
    logits = torch.randn(65, 64, device="cuda", generator=generator)
    weights = torch.full((65, 6), float("nan"), device="cuda")
    ids, source = (torch.full((65, 6), -1, dtype=torch.int32, device="cuda") for _ in range(2))
    call(
        ops.topk_softmax, topk_weights=weights, topk_ids=ids, token_expert_indices=source,
        token_expert_indicies=source, gating_output=logits, renormalize=True,
    )  # fmt: skip
    values, experts = torch.softmax(logits.double(), -1).topk(6)
    got = (
        weights
        if not torch.allclose(weights.sum(-1), values.sum(-1).float())
        else weights / weights.sum(-1, keepdim=True)
    )
    probe.compare("topk_softmax.weights", got, values / values.sum(-1, keepdim=True), tolerance=1e-5)
    probe.equal("topk_softmax.ids", ids.long().tolist(), experts.tolist())
    fused_experts(probe, torch, random, generator)
    probe.metric("operations_compared", probe.compared)


def cache_writes(probe, torch, ops, random, generator):
    tokens, pages, page, kv_heads, width = 45, 8, 16, 2, 64
    keys, values = random(tokens, kv_heads, width), random(tokens, kv_heads, width)
    caches = [
        torch.full((pages, page, kv_heads, width), float("nan"), device="cuda", dtype=keys.dtype) for _ in range(2)
    ]
    slots = torch.randperm(pages * page, device="cuda", generator=generator)[:tokens]
    one = torch.ones(1, device="cuda")
    ops.reshape_and_cache_flash(keys, values, *caches, slots, "auto", one, one)
    for cache, plain, name in zip(caches, (keys, values), "kv"):
        flat = cache.flatten(0, 1)
        probe.compare(f"cache.{name}", flat[slots], plain, tolerance=1e-7)
        untouched = torch.ones(pages * page, dtype=torch.bool, device="cuda")
        untouched[slots] = False
        probe.require(
            f"cache.{name}.others", flat[untouched].isnan().all().item(), "slots outside the mapping were written"
        )


def fused_experts(probe, torch, random, generator):
    from probelib.marlin import first
    from probelib.reference import moe

    function = first("vllm.model_executor.layers.fused_moe.fused_moe:fused_experts",
                     "vllm.model_executor.layers.fused_moe:fused_experts")  # fmt: skip
    if function is None:
        probe.note("API not found: fused_experts")
        return
    for tokens, k, n, experts, top_k in ((1, 128, 64, 8, 2), (33, 256, 128, 8, 2), (100, 192, 96, 16, 4)):
        x = random(tokens, k)
        w1, w2 = random(experts, 2 * n, k) * k**-0.5, random(experts, k, n) * n**-0.5
        weights, ids = torch.softmax(torch.randn(tokens, experts, device="cuda", generator=generator), -1).topk(top_k)
        got = function(x.clone(), w1, w2, weights.float(), ids.int())
        expected = moe(x, w1, w2, weights, ids)
        probe.compare(f"fused_experts[{tokens}x{k}x{n} {top_k} of {experts}]", got, expected, tolerance=2e-2)
