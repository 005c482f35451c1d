"""Attention in Triton: causal prefill and paged decode with grouped heads, as the engines' Triton back ends do it."""

FEATURE = "triton-attention"
REQUIRES = ("torch-device", "triton")
TIMEOUT = 180
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    probe.module("triton")
    from probelib import triton_programs as programs
    from probelib.reference import attention

    generator = probe.generator()

    def random(*shape):
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    for length, heads, kv_heads, width in ((64, 4, 4, 64), (129, 8, 2, 128), (333, 8, 1, 64), (17, 2, 2, 256)):
        q, k, v = random(length, heads, width), random(length, kv_heads, width), random(length, kv_heads, width)
        out = torch.full_like(q, float("nan"))
        bm = 64 if width <= 128 else 32
        programs.prefill[((length + bm - 1) // bm, heads)](
            q, k, v, out, length, width**-0.5, HEADS=heads, KV_HEADS=kv_heads, D=width, BM=bm, BN=32
        )
        probe.compare(f"prefill[{length}x{heads}/{kv_heads}x{width}]", out, attention(q, k, v), tolerance=1.5e-2)
    for lengths, heads, kv_heads, width in (((1, 16, 17, 300), 8, 2, 128), ((5, 64), 4, 4, 64)):
        page, rows = 16, len(lengths)
        per_row = (max(lengths) + page - 1) // page
        pages = rows * per_row
        k_cache, v_cache = random(pages, page, kv_heads, width), random(pages, page, kv_heads, width)
        table = torch.randperm(pages, device="cuda", generator=generator).int().view(rows, per_row)
        q = random(rows, heads, width)
        out = torch.full((rows, heads, width), float("nan"), device="cuda")
        programs.paged_decode[(rows, heads)](
            q, k_cache, v_cache, table, torch.tensor(lengths, dtype=torch.int32, device="cuda"), out, width**-0.5,
            per_row, HEADS=heads, KV_HEADS=kv_heads, D=width, PAGE=page,
        )  # fmt: skip
        for row, length in enumerate(lengths):
            k, v = (cache[table[row].long()].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
            expected = attention(q[row : row + 1], k, v, causal=False)
            probe.compare(f"decode[{length}x{heads}/{kv_heads}x{width}]", out[row : row + 1], expected, tolerance=1e-4)
