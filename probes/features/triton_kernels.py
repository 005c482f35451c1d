"""Triton: compile and run a matrix product, a reduction, and tiles up to the card's shared memory."""

FEATURE = "triton"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    triton = probe.module("triton")
    probe.metric("triton", triton.__version__)
    import os

    # Kernels of another run must not stand in for a compiler that no longer works.
    os.environ["TRITON_CACHE_DIR"] = os.path.join(probe.folder, "triton-cache")
    from probelib import triton_programs as programs

    generator = probe.generator()
    with probe.phase("first_compile"):
        x = torch.randn(123, 457, device="cuda", generator=generator)
        y = torch.full_like(x, float("nan"))
        programs.softmax[(x.shape[0],)](x, y, x.shape[1], BLOCK=512)
        torch.cuda.synchronize()
    probe.compare("softmax", y, x.double().softmax(-1), tolerance=1e-5)
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 1.2e-2), (torch.float32, 3e-3)):
        for m, k, n in ((256, 512, 384), (33, 77, 65)):
            a = torch.randn(m, k, device="cuda", generator=generator).to(dtype)
            b = torch.randn(k, n, device="cuda", generator=generator).to(dtype)
            c = torch.full((m, n), float("nan"), device="cuda", dtype=dtype)
            programs.launch_matmul(a, b, c, 64, 64, 32, 2)
            probe.compare(f"matmul.{str(dtype)[6:]}[{m}x{k}x{n}]", c, a.double() @ b.double(), tolerance=tolerance)
    limit = torch.cuda.get_device_properties(0)
    limit = getattr(limit, "shared_memory_per_block_optin", 0)
    probe.metric("shared_memory_per_block", limit)
    largest, refused = 0, ""
    a, b = (torch.randn(512, 512, device="cuda", generator=generator).bfloat16() for _ in range(2))
    for stages in (2, 3, 4, 5, 6, 8):
        c = torch.full((512, 512), float("nan"), device="cuda", dtype=torch.bfloat16)
        try:
            compiled = programs.launch_matmul(a, b, c, 128, 128, 64, stages)
        except Exception as error:
            if type(error).__name__ != "OutOfResources":
                raise
            refused = f"{stages} stages: {error}"
            break
        probe.compare(f"matmul.stages[{stages}]", c, a.double() @ b.double(), tolerance=1.2e-2)
        largest = max(largest, compiled.metadata.shared)
    probe.metric("shared_memory_used", largest)
    if refused:
        probe.note("refused as it should be beyond the card's shared memory: " + refused[:200])
