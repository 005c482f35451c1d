"""MXFP4 weights (FP4 in groups of 32 with a power of two each) times bfloat16 in Triton's scaled dot product."""

FEATURE = "mxfp4"
REQUIRES = ("torch-device", "triton")
TIMEOUT = 240
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    triton = probe.module("triton")
    probe.api(triton, "language.dot_scaled")
    from probelib import triton_programs as programs
    from probelib.reference import decode_e2m1, encode_e2m1

    generator = probe.generator()
    for k, n in ((256, 128), (1024, 256), (512, 64)):
        x = torch.randn(32, k, device="cuda", generator=generator).bfloat16()
        w = torch.randn(n, k, device="cuda", generator=generator).double()
        groups = w.view(n, k // 32, 32)
        exponent = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
        scales = (exponent + 127).to(torch.uint8)
        packed = encode_e2m1((groups / torch.exp2(exponent)[..., None]).view(n, k))
        exact = (decode_e2m1(packed).view(n, k // 32, 32) * torch.exp2(exponent)[..., None]).view(n, k)
        out = torch.full((32, n), float("nan"), device="cuda")
        with probe.phase(f"{k}x{n}"):
            programs.matmul_mxfp4[(n // 64,)](x, packed, scales, out, n, k, M=32, BN=64, BK=128)
            torch.cuda.synchronize()
        probe.compare(f"product[32x{k}x{n}]", out, x.double() @ exact.T, tolerance=1e-2)
