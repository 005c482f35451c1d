"""FlashInfer: prefill, paged decode, norm, sampling; what was built just now is told apart from the prebuilt."""

FEATURE = "flashinfer"
REQUIRES = ("torch-device",)
TIMEOUT = 420
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    flashinfer = probe.module("flashinfer")
    from probelib.reference import attention, rms_norm

    probe.metric("flashinfer", flashinfer.__version__)
    probe.metric("prebuilt.jit_cache", not probe.is_absent("flashinfer_jit_cache"))
    probe.metric("prebuilt.cubin", not probe.is_absent("flashinfer_cubin"))
    before = built_modules()
    generator = probe.generator()

    def random(*shape):
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    with probe.phase("prefill_first"):
        q, k, v = random(77, 8, 128), random(131, 2, 128), random(131, 2, 128)
        got = flashinfer.single_prefill_with_kv_cache(q, k, v, causal=True)
        torch.cuda.synchronize()
    probe.compare("prefill[77x131x8/2x128]", got, attention(q, k, v), tolerance=1.2e-2)
    for queries, keys in ((1, 1), (128, 128), (33, 400)):
        q, k, v = random(queries, 8, 128), random(keys, 2, 128), random(keys, 2, 128)
        got = flashinfer.single_prefill_with_kv_cache(q, k, v, causal=True)
        probe.compare(f"prefill[{queries}x{keys}x8/2x128]", got, attention(q, k, v), tolerance=1.2e-2)
    workspace = torch.zeros(128 << 20, dtype=torch.uint8, device="cuda")
    lengths, page = (1, 16, 17, 255, 300), 16
    counts = [(length + page - 1) // page for length in lengths]
    total = sum(counts)
    indptr = torch.tensor([0, *counts], device="cuda").cumsum(0).int()
    order = torch.randperm(total, device="cuda", generator=generator).int()
    last = torch.tensor([(length - 1) % page + 1 for length in lengths], dtype=torch.int32, device="cuda")
    cache = random(total, 2, page, 2, 128)
    q = random(len(lengths), 8, 128)
    for tensor_cores in (False, True):
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=tensor_cores)
        name = "decode_tensor_cores" if tensor_cores else "decode"
        with probe.phase(f"{name}_first"):
            wrapper.plan(indptr, order, last, 8, 2, 128, page, q_data_type=q.dtype, kv_data_type=cache.dtype)
            got = wrapper.run(q, cache)
            torch.cuda.synchronize()
        for row, length in enumerate(lengths):
            pages = order[indptr[row] : indptr[row + 1]].long()
            k, v = (cache[pages, side].flatten(0, 1)[:length] for side in (0, 1))
            expected = attention(q[row : row + 1], k, v, causal=False)
            probe.compare(f"{name}[{length}]", got[row : row + 1], expected, tolerance=1.2e-2)
    with probe.phase("norm_first"):
        x, weight = random(37, 4096), random(4096)
        got = flashinfer.rmsnorm(x, weight, 1e-6)
        torch.cuda.synchronize()
    probe.compare("rmsnorm", got, rms_norm(x, weight, 1e-6), tolerance=6e-3)
    with probe.phase("sampling_first"):
        sampling(probe, torch, flashinfer, generator)
    after = built_modules()
    probe.metric("jit_modules_built", len(after - before))
    probe.metric("jit_modules_cached", len(before))


def sampling(probe, torch, flashinfer, generator):
    """Renormalisation against sorting in float64; drawn tokens lie in the allowed set and follow the distribution."""
    rows, vocabulary, top_k, top_p = 64, 1031, 20, 0.8
    probabilities = torch.softmax(torch.randn(rows, vocabulary, device="cuda", generator=generator) * 3, -1)
    exact = probabilities.double()
    ordered, index = exact.sort(-1, descending=True)
    kept = torch.where(torch.arange(vocabulary, device="cuda") < top_k, ordered, 0.0)
    expected = torch.zeros_like(exact).scatter_(1, index, kept / kept.sum(-1, keepdim=True))
    probe.compare("top_k_renorm", flashinfer.top_k_renorm_probs(probabilities, top_k), expected, tolerance=1e-4)
    kept = torch.where(ordered.cumsum(-1) - ordered < top_p, ordered, 0.0)
    nucleus = torch.zeros_like(exact).scatter_(1, index, kept / kept.sum(-1, keepdim=True))
    probe.compare("top_p_renorm", flashinfer.top_p_renorm_probs(probabilities, top_p), nucleus, tolerance=1e-2)
    draw = probe.api(flashinfer, "top_k_top_p_sampling_from_probs", "sampling.top_k_top_p_sampling_from_probs")
    many = probabilities[:1].repeat(20000, 1).contiguous()
    tokens = draw(many, top_k, top_p)
    tokens = (tokens[0] if isinstance(tokens, tuple) else tokens).long()
    seen = torch.bincount(tokens, minlength=vocabulary).double() / tokens.numel()
    kept = torch.where(torch.arange(vocabulary, device="cuda") < top_k, ordered[:1], 0.0)
    share = kept / kept.sum(-1, keepdim=True)
    kept = torch.where(share.cumsum(-1) - share < top_p, share, 0.0)
    law = torch.zeros_like(exact[:1]).scatter_(1, index[:1], kept / kept.sum(-1, keepdim=True))[0]
    # "top_k_first" against "joint" differ in where the nucleus ends: the rarest kept token may be in or out.
    forbidden = seen[law == 0].sum().item()
    probe.require("sampling support", forbidden < 0.05, f"{forbidden:.1%} of the tokens lie outside of top-k and top-p")
    probe.compare("sampling law", seen[:, None], law[:, None], tolerance=0.15)


def built_modules():
    import os

    try:
        from flashinfer.jit import env
    except ImportError:
        return set()
    folder = str(getattr(env, "FLASHINFER_JIT_DIR", ""))
    return {name for base, _, names in os.walk(folder) for name in names if name.endswith(".so")}
