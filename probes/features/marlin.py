"""Marlin INT4: AWQ and GPTQ matrices through the engines' own repacking and kernels, against dequantised weights."""

FEATURE = "marlin"
REQUIRES = ("torch-device",)
TIMEOUT = 420
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    from probelib.int4 import quantise
    from probelib.marlin import providers
    from probelib.timing import median_seconds

    generator = probe.generator()
    for marlin in providers(probe):
        with probe.phase(f"{marlin.name}"):
            for dtype, tolerance in ((torch.bfloat16, 1.2e-2), (torch.float16, 2e-3)):
                for m, k, n, group in (
                    (1, 256, 512, 128),
                    (17, 1024, 320, 128),
                    (64, 512, 1024, 64),
                    (129, 2048, 192, 32),
                ):
                    x = torch.randn(m, k, device="cuda", generator=generator).to(dtype)
                    weight = torch.randn(k, n, device="cuda", generator=generator).to(dtype) * k**-0.5
                    codes, scales, zeros, exact = quantise(weight, group, zero_points=True)
                    packed = marlin.awq(codes, scales, zeros, group)
                    got = marlin.multiply(x, *packed, marlin.types.uint4, n)
                    label = f"[{str(dtype)[6:]} {m}x{k}x{n} group {group}]"
                    probe.compare(f"awq.{marlin.name}{label}", got, x.double() @ exact, tolerance=tolerance)
                    codes, scales, _, exact = quantise(weight, group, zero_points=False)
                    packed = marlin.gptq(codes, scales, group)
                    got = marlin.multiply(x, *packed, None, marlin.types.uint4b8, n)
                    probe.compare(f"gptq.{marlin.name}{label}", got, x.double() @ exact, tolerance=tolerance)
        m, k, n, group = 1, 8192, 8192, 128
        x = torch.randn(m, k, device="cuda", generator=generator).bfloat16()
        weight = torch.randn(k, n, device="cuda", generator=generator).bfloat16() * k**-0.5
        codes, scales, zeros, _ = quantise(weight, group, zero_points=True)
        packed = marlin.awq(codes, scales, zeros, group)
        # Weights that fit into the L2 cache would hide what INT4 saves: 128 MiB in bfloat16 do not.
        workspace = marlin.workspace(1)
        seconds = median_seconds(
            lambda: marlin.multiply(x, *packed, marlin.types.uint4, n, workspace=workspace), graph=True
        )
        plain = median_seconds(lambda: x @ weight, graph=True)
        probe.faster(f"{marlin.name} INT4 against bfloat16 at one token", seconds, plain)
    probe.metric("providers", " ".join(marlin.name for marlin in providers(probe)))
