"""FP8 matrix products (E4M3): torch, vLLM's CUTLASS, sgl-kernel's; scales per tensor, per row, and per block."""

FEATURE = "fp8-gemm"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = True

SHAPES = ((16, 512, 256), (128, 1024, 512), (48, 2048, 1536), (272, 256, 128))


def run(probe):
    torch = probe.module("torch")
    from probelib.context import Unsupported
    from probelib.timing import median_seconds

    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < (8, 9):
        raise Unsupported(f"compute capability {major}.{minor} has no FP8 tensor cores")
    generator = probe.generator()
    ran = []

    def random(rows, columns):
        return torch.randn(rows, columns, device="cuda", generator=generator)

    def per_row(x):
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 448
        return (x / scale).to(torch.float8_e4m3fn), scale.float()

    def product(a, scale_a, b, scale_b):
        return (a.double() * scale_a.double()) @ (b.double() * scale_b.double()).T

    for m, k, n in SHAPES:
        x, w = random(m, k), random(n, k)
        label = f"[{m}x{k}x{n}]"
        one = torch.tensor(0.02, device="cuda")
        a, b = ((t / one).to(torch.float8_e4m3fn) for t in (x, w))
        got = torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        got = got[0] if isinstance(got, tuple) else got
        probe.compare(f"torch.tensor{label}", got, product(a, one, b, one), tolerance=6e-3)
        (a, scale_a), (b, scale_b) = per_row(x), per_row(w)
        expected = product(a, scale_a, b, scale_b)
        try:
            got = torch._scaled_mm(a, b.T, scale_a=scale_a, scale_b=scale_b.T.contiguous(), out_dtype=torch.bfloat16)
        except RuntimeError as error:
            if "rowwise" not in str(error).lower():
                raise
            probe.note("torch refuses scales per row: " + str(error)[:200])
        else:
            probe.compare(f"torch.row{label}", got, expected, tolerance=6e-3)
        if not probe.is_absent("vllm"):
            ops = probe.module("vllm._custom_ops")
            supports = getattr(ops, "cutlass_scaled_mm_supports_fp8", None)
            if supports is not None and supports(major * 10 + minor):
                got = ops.cutlass_scaled_mm(a, b.T, scale_a, scale_b, torch.bfloat16)
                probe.compare(f"vllm.row{label}", got, expected, tolerance=6e-3)
                quantised, scale = ops.scaled_fp8_quant(x.bfloat16(), use_per_token_if_dynamic=True)
                back = quantised.double() * scale.double()
                probe.compare(f"vllm.quant{label}", back, x.bfloat16(), tolerance=4e-2)
                ran.append("vllm")
        if not probe.is_absent("sgl_kernel"):
            kernels = probe.module("sgl_kernel")
            if hasattr(kernels, "fp8_scaled_mm"):
                got = kernels.fp8_scaled_mm(a, b.T, scale_a, scale_b, torch.bfloat16)
                probe.compare(f"sgl_kernel.row{label}", got, expected, tolerance=6e-3)
                ran.append("sgl_kernel")
            blockwise(probe, torch, kernels, x, w, label)
    probe.metric("providers", " ".join(["torch", *sorted(set(ran))]))
    size = 4096
    a, b = random(size, size).to(torch.float8_e4m3fn), random(size, size).to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    plain_a, plain_b = a.bfloat16(), b.bfloat16()
    seconds = median_seconds(lambda: torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16))
    probe.metric("tflops", 2 * size**3 / seconds / 1e12)
    probe.faster("FP8 against bfloat16", seconds, median_seconds(lambda: plain_a @ plain_b.T))


def blockwise(probe, torch, kernels, x, w, label):
    """Scales per 1x128 of the activations and per 128x128 of the weights, as DeepSeek models want them."""
    if not hasattr(kernels, "fp8_blockwise_scaled_mm") or x.shape[1] % 128 or w.shape[0] % 128:
        return
    m, k = x.shape
    n = w.shape[0]
    xs = x.view(m, k // 128, 128)
    scale_x = (xs.abs().amax(-1) / 448).float()
    a = (xs / scale_x[..., None]).to(torch.float8_e4m3fn).view(m, k)
    ws = w.view(n // 128, 128, k // 128, 128)
    scale_w = (ws.abs().amax((1, 3)) / 448).float()
    b = (ws / scale_w[:, None, :, None]).to(torch.float8_e4m3fn).view(n, k)
    exact_a = (a.double().view(m, k // 128, 128) * scale_x[..., None].double()).view(m, k)
    exact_b = (b.double().view(n // 128, 128, k // 128, 128) * scale_w[:, None, :, None].double()).view(n, k)
    # The kernel reads scales column by column (the activations') and row by row of the transposed weights.
    column_major = scale_x.T.contiguous().T
    try:
        got = kernels.fp8_blockwise_scaled_mm(a, b.T, column_major, scale_w.T, torch.bfloat16)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented" not in str(error).lower() and "not supported" not in str(error).lower():
            raise
        probe.note("sgl-kernel declares FP8 by blocks unsupported here: " + str(error)[:200])
        return
    probe.compare(f"sgl_kernel.block{label}", got, exact_a @ exact_b.T, tolerance=6e-3)
