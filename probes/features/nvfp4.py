"""NVFP4: quantisation on the card and FP4 tensor-core products, against a plain reference; odd shapes included."""

FEATURE = "nvfp4"
REQUIRES = ("torch-device",)
TIMEOUT = 420
GPUS = 1
WARM = True

SHAPES = ((1, 256, 128), (17, 512, 384), (128, 1024, 256), (100, 96, 160), (33, 1056, 192))
"""The last two have a K that is no multiple of 64 or of 128: where NVFP4 gave garbage under torch.compile."""


def run(probe):
    torch = probe.module("torch")
    from probelib.context import NotRun, Unsupported

    major, minor = torch.cuda.get_device_capability()
    refused, found = [], []
    for name, load in (("vllm", vllm), ("sglang", sglang), ("flashinfer", flashinfer)):
        if probe.is_absent("sgl_kernel" if name == "sglang" else name):
            continue
        try:
            found.append((name, *load(probe, major * 10 + minor)))
        except Unsupported as error:
            refused.append(str(error))
        except NotRun as error:
            probe.note(str(error))
    if not found and major < 10:
        raise Unsupported("; ".join(refused) or f"compute capability {major}.{minor} has no FP4 tensor cores")
    if not found:
        raise NotRun("API not found: NVFP4 in vllm, sgl-kernel or flashinfer")
    generator = probe.generator()
    for name, quantise, multiply in found:
        check(probe, torch, generator, name, quantise, multiply)
    probe.metric("providers", " ".join(name for name, *_ in found))


def check(probe, torch, generator, name, quantise, multiply):
    from probelib.nvfp4 import LARGEST, unswizzle
    from probelib.reference import decode_e2m1

    def exact(packed, scales, rows, k, global_scale):
        scales = unswizzle(scales, rows, k // 16).double().repeat_interleave(16, 1)
        return decode_e2m1(packed.view(torch.uint8)[:rows, : k // 2]) * scales / global_scale.double()

    for m, k, n in SHAPES:
        x = torch.randn(m, k, device="cuda", generator=generator).bfloat16()
        w = torch.randn(n, k, device="cuda", generator=generator).bfloat16() * k**-0.5
        label = f"[{m}x{k}x{n}]"
        scale_x, scale_w = ((LARGEST / t.abs().amax()).float() for t in (x, w))
        (a, a_scales), (b, b_scales) = quantise(x, scale_x), quantise(w, scale_w)
        exact_x, exact_w = exact(a, a_scales, m, k, scale_x), exact(b, b_scales, n, k, scale_w)
        # FP4 keeps about one digit: some 10 % relative error is the format's own, garbage is 100 % and more.
        probe.compare(f"{name}.quant{label}", exact_x, x, tolerance=0.16)
        got = multiply(a, b, a_scales, b_scales, (1 / (scale_x * scale_w)).float())
        probe.compare(f"{name}.gemm{label}", got, exact_x @ exact_w.T, tolerance=1e-2)
        for _ in range(3):
            again = multiply(a, b, a_scales, b_scales, (1 / (scale_x * scale_w)).float())
            probe.require(f"{name}.repeat{label}", torch.equal(got, again), "the same product twice gives other values")


def vllm(probe, capability):
    import torch
    from probelib.context import Unsupported

    ops = probe.module("vllm._custom_ops")
    supports = probe.api(ops, "cutlass_scaled_mm_supports_fp4")
    if not supports(capability):
        raise Unsupported(f"vLLM declares FP4 products unsupported on sm_{capability}")
    return ops.scaled_fp4_quant, lambda a, b, sa, sb, alpha: ops.cutlass_scaled_fp4_mm(
        a, b, sa, sb, alpha, torch.bfloat16
    )


def sglang(probe, capability):
    probe.module("sgl_kernel")
    import torch
    from probelib.context import Unsupported
    from probelib.marlin import first

    if capability < 100:
        raise Unsupported(f"sgl-kernel builds FP4 for sm_100 and later, this is sm_{capability}")
    quantise = first("sglang.jit_kernel.nvfp4:scaled_fp4_quant", "sgl_kernel:scaled_fp4_quant")
    multiply = first("sglang.jit_kernel.nvfp4:cutlass_scaled_fp4_mm", "sgl_kernel:cutlass_scaled_fp4_mm")
    if quantise is None or multiply is None:
        from probelib.context import NotRun

        raise NotRun("API not found: scaled_fp4_quant and cutlass_scaled_fp4_mm of sglang")
    return quantise, lambda a, b, sa, sb, alpha: multiply(a, b, sa, sb, alpha, torch.bfloat16)


def flashinfer(probe, capability):
    import torch
    from probelib.context import Unsupported

    module = probe.module("flashinfer")
    quantise, multiply = probe.api(module, "nvfp4_quantize"), probe.api(module, "mm_fp4")
    if capability < 100:
        raise Unsupported(f"FlashInfer's mm_fp4 wants sm_100 or later, this is sm_{capability}")
    return quantise, lambda a, b, sa, sb, alpha: multiply(a, b.T, sa, sb.T, alpha, torch.bfloat16)
