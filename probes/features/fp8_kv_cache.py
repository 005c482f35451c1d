"""FP8 key-value cache: pages written in FP8 by the engines' own kernels, and attention over them."""

FEATURE = "fp8-kv-cache"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    from probelib.context import NotRun
    from probelib.reference import attention

    generator = probe.generator()
    heads, kv_heads, width, page = 8, 2, 128, 16
    lengths = (1, 16, 33, 250)
    counts = [(length + page - 1) // page for length in lengths]
    total = sum(counts)
    order = torch.randperm(total, device="cuda", generator=generator).int()
    keys, values = (
        [torch.randn(length, kv_heads, width, device="cuda", generator=generator).bfloat16() for length in lengths]
        for _ in range(2)
    )
    ran = []
    cache = torch.zeros(total, 2, page, kv_heads, width, device="cuda", dtype=torch.float8_e4m3fn)
    start = 0
    slots = []
    for length, count in zip(lengths, counts):
        pages = order[start : start + count].long()
        at = torch.arange(length, device="cuda")
        slots.append(pages[at // page] * page + at % page)
        start += count
    slots = torch.cat(slots)
    flat_keys, flat_values = torch.cat(keys), torch.cat(values)
    if not probe.is_absent("vllm"):
        ops = probe.module("vllm._custom_ops")
        one = torch.ones(1, device="cuda")
        for name, scale in (("one", one), ("half", one * 0.5)):
            sides = [torch.zeros(total, page, kv_heads, width, device="cuda", dtype=torch.uint8) for _ in range(2)]
            ops.reshape_and_cache_flash(flat_keys, flat_values, *sides, slots, "fp8", scale, scale)
            for side, plain, label in zip(sides, (flat_keys, flat_values), "kv"):
                back = side.view(torch.float8_e4m3fn).flatten(0, 1)[slots].double() * scale.double()
                probe.compare(f"vllm.write.{label}[scale {name}]", back, plain, tolerance=4e-2)
            if name == "one":
                cache[:, 0], cache[:, 1] = (side.view(torch.float8_e4m3fn) for side in sides)
        ran.append("vllm")
    else:
        for side, plain in ((0, flat_keys), (1, flat_values)):
            cache[:, side].reshape(-1, kv_heads, width)
            cache[slots // page, side, slots % page] = plain.to(torch.float8_e4m3fn)
    if not probe.is_absent("flashinfer"):
        flashinfer = probe.module("flashinfer")
        workspace = torch.zeros(128 << 20, dtype=torch.uint8, device="cuda")
        indptr = torch.tensor([0, *counts], device="cuda").cumsum(0).int()
        last = torch.tensor([(length - 1) % page + 1 for length in lengths], dtype=torch.int32, device="cuda")
        q = torch.randn(len(lengths), heads, width, device="cuda", generator=generator).bfloat16()
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        with probe.phase("flashinfer_first"):
            wrapper.plan(
                indptr, order, last, heads, kv_heads, width, page, q_data_type=q.dtype, kv_data_type=cache.dtype
            )
            got = wrapper.run(q, cache)
            torch.cuda.synchronize()
        for row, (k, v) in enumerate(zip(keys, values)):
            # The reference sees the values that FP8 holds: what is judged is the attention, not the rounding.
            rounded = (side.to(torch.float8_e4m3fn).double() for side in (k, v))
            expected = attention(q[row : row + 1], *rounded, causal=False)
            probe.compare(f"flashinfer.decode[{lengths[row]}]", got[row : row + 1], expected, tolerance=3e-2)
        ran.append("flashinfer")
    if not ran:
        raise NotRun("neither vllm nor flashinfer is installed")
    probe.metric("providers", " ".join(ran))
    probe.metric("bytes_per_value", 1)
