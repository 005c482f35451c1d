"""sgl-kernel: norms, activation, rotary embedding, sampling, mixture-of-experts routing, AWQ dequantisation."""

FEATURE = "sgl-kernel"
REQUIRES = ("torch-device",)
TIMEOUT = 240
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    kernels = probe.module("sgl_kernel")
    from probelib import reference
    from probelib.int4 import pack_awq, quantise

    probe.metric("sgl_kernel", getattr(kernels, "__version__", ""))
    generator = probe.generator()
    missing = []

    def random(*shape):
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    def has(*names):
        lacking = [name for name in names if not hasattr(kernels, name)]
        missing.extend(lacking)
        return not lacking

    if has("rmsnorm"):
        for rows, width in ((1, 128), (37, 4096), (130, 1000)):
            x, weight = random(rows, width), random(width)
            probe.compare(
                f"rmsnorm[{rows}x{width}]",
                kernels.rmsnorm(x, weight, 1e-6),
                reference.rms_norm(x, weight, 1e-6),
                tolerance=6e-3,
            )
    if has("fused_add_rmsnorm"):
        x, residual, weight = random(33, 2048), random(33, 2048), random(2048)
        total = x.double() + residual.double()
        kernels.fused_add_rmsnorm(x, residual, weight, 1e-6)
        probe.compare("fused_add.residual", residual, total, tolerance=6e-3)
        probe.compare("fused_add_rmsnorm", x, reference.rms_norm(total, weight, 1e-6), tolerance=1e-2)
    if has("silu_and_mul"):
        for rows, width in ((1, 256), (77, 2816)):
            x = random(rows, 2 * width)
            probe.compare(
                f"silu_and_mul[{rows}x{width}]", kernels.silu_and_mul(x), reference.silu_and_mul(x), tolerance=8e-3
            )
    if has("top_k_renorm_prob") or has("top_k_renorm_probs"):
        probabilities = torch.softmax(torch.randn(50, 1031, device="cuda", generator=generator) * 3, -1)
        ordered, index = probabilities.double().sort(-1, descending=True)
        kept = torch.where(torch.arange(1031, device="cuda") < 20, ordered, 0.0)
        expected = torch.zeros_like(ordered).scatter_(1, index, kept / kept.sum(-1, keepdim=True))
        top_k = getattr(kernels, "top_k_renorm_prob", None) or kernels.top_k_renorm_probs
        probe.compare("top_k_renorm", top_k(probabilities, 20), expected, tolerance=1e-4)
        kept = torch.where(ordered.cumsum(-1) - ordered < 0.8, ordered, 0.0)
        expected = torch.zeros_like(ordered).scatter_(1, index, kept / kept.sum(-1, keepdim=True))
        top_p = getattr(kernels, "top_p_renorm_prob", None) or kernels.top_p_renorm_probs
        probe.compare("top_p_renorm", top_p(probabilities, 0.8), expected, tolerance=1e-2)
    if has("topk_softmax"):
        logits = torch.randn(65, 64, device="cuda", generator=generator)
        weights = torch.full((65, 6), float("nan"), device="cuda")
        ids = torch.full((65, 6), -1, dtype=torch.int32, device="cuda")
        kernels.topk_softmax(weights, ids, logits, True)
        values, experts = torch.softmax(logits.double(), -1).topk(6)
        probe.compare("topk_softmax.weights", weights, values / values.sum(-1, keepdim=True), tolerance=1e-5)
        probe.equal("topk_softmax.ids", ids.long().tolist(), experts.tolist())
    if has("awq_dequantize"):
        weight = torch.randn(256, 128, device="cuda", generator=generator).half()
        codes, scales, zeros, exact = quantise(weight, 64, zero_points=True)
        got = kernels.awq_dequantize(pack_awq(codes), scales, pack_awq(zeros))
        probe.compare("awq_dequantize", got, exact, tolerance=1e-3)
    if has("rotary_embedding"):
        rotary(probe, torch, kernels, random)
    if has("moe_align_block_size"):
        align(probe, torch, kernels, generator)
    probe.metric("operations_compared", probe.compared)
    if missing:
        probe.note("not in this version: " + ", ".join(sorted(set(missing))))


def rotary(probe, torch, kernels, random):
    from probelib.calls import call
    from probelib.reference import rope_neox

    tokens, heads, kv_heads, width = 33, 8, 2, 64
    q, k = random(tokens, heads * width), random(tokens, kv_heads * width)
    positions = torch.randperm(512, device="cuda")[:tokens]
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device="cuda") / width)
    angles = torch.arange(512, device="cuda").float()[:, None] * frequency
    table = torch.cat((angles.cos(), angles.sin()), -1)
    expected = [rope_neox(t.view(tokens, -1, width), positions).flatten(1) for t in (q, k)]
    call(
        kernels.rotary_embedding, positions=positions, query=q, key=k, head_size=width, cos_sin_cache=table.bfloat16(),
        is_neox=True,
    )  # fmt: skip
    probe.compare("rotary.query", q, expected[0], tolerance=1e-2)
    probe.compare("rotary.key", k, expected[1], tolerance=1e-2)


def align(probe, torch, kernels, generator):
    """Tokens sorted by expert into padded blocks: every token once, every block of one expert."""
    from probelib.calls import call

    tokens, top_k, experts, block = 61, 4, 16, 16
    ids = torch.stack(
        [torch.randperm(experts, device="cuda", generator=generator)[:top_k] for _ in range(tokens)]
    ).int()
    room = tokens * top_k + (experts + 1) * (block - 1)
    padding = tokens * top_k
    order = torch.full((room,), padding, dtype=torch.int32, device="cuda")
    blocks = torch.full(((room + block - 1) // block,), -1, dtype=torch.int32, device="cuda")
    total = torch.full((1,), -1, dtype=torch.int32, device="cuda")
    scratch = torch.zeros(experts + 2, dtype=torch.int32, device="cuda")
    # SGLang counts one expert more than there are: the slot of the tokens that were filtered out.
    call(
        kernels.moe_align_block_size, topk_ids=ids, num_experts=experts + 1, block_size=block, sorted_token_ids=order,
        experts_ids=blocks, expert_ids=blocks, num_tokens_post_pad=total, cumsum_buffer=scratch,
        token_cnts_buffer=torch.zeros((experts + 2) * (experts + 1), dtype=torch.int32, device="cuda"),
    )  # fmt: skip
    count = int(total.item())
    probe.require("align.total", 0 < count <= room and count % block == 0, f"{count} padded tokens")
    used = order[:count].tolist()
    flat = ids.flatten().tolist()
    probe.equal("align.every token once", sorted(i for i in used if i < padding), list(range(padding)))
    owners = blocks[: count // block].tolist()
    # Whether the ids are shifted by one for the filtered slot differs by version: one shift must fit all blocks.
    shifts = {
        owner - flat[i] for at, owner in enumerate(owners) for i in used[at * block : (at + 1) * block] if i < padding
    }
    probe.require("align.blocks of one expert", shifts in ({0}, {1}, {-1}), f"expert ids differ by {sorted(shifts)}")
