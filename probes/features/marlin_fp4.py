"""Marlin FP4: NVFP4 weights with 16-bit activations through vLLM's own preparation and kernel."""

FEATURE = "marlin-fp4"
REQUIRES = ("torch-device",)
TIMEOUT = 240
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    from probelib.calls import call
    from probelib.context import NotRun, Unsupported
    from probelib.marlin import first
    from probelib.nvfp4 import quantise

    where = "vllm.model_executor.layers.quantization.utils.marlin_utils_fp4"
    if probe.is_absent("vllm"):
        raise NotRun("package vllm is not installed")
    prepare, apply = first(f"{where}:prepare_fp4_layer_for_marlin"), first(f"{where}:apply_fp4_marlin_linear")
    if prepare is None or apply is None:
        raise NotRun(f"API not found: {where}")
    supported = first(f"{where}:is_fp4_marlin_supported")
    if supported is not None and not supported():
        raise Unsupported("vLLM: Marlin FP4 is not supported on this compute capability")
    generator = probe.generator()
    for m, k, n in ((1, 256, 512), (17, 1024, 384), (100, 512, 256)):
        weight = torch.randn(n, k, device="cuda", generator=generator) * k**-0.5
        packed, scales, global_scale, exact = quantise(weight)
        layer = torch.nn.Module()
        parameter = torch.nn.Parameter
        layer.params_dtype = torch.bfloat16
        layer.orig_dtype = torch.bfloat16
        layer.input_size_per_partition, layer.output_size_per_partition = k, n
        layer.weight = parameter(packed, requires_grad=False)
        layer.weight_scale = parameter(scales, requires_grad=False)
        # vLLM before 0.12 named it as ModelOpt does; both are there so that either version finds its own.
        layer.weight_global_scale = parameter(global_scale.float(), requires_grad=False)
        layer.weight_scale_2 = parameter(global_scale.float(), requires_grad=False)
        call(prepare, layer=layer, input_dtype=None)
        scale = getattr(layer, "weight_global_scale", None)
        # From vLLM 0.32 on the kernel makes its own.
        workspace = getattr(layer, "workspace", None)
        x = torch.randn(m, k, device="cuda", generator=generator).bfloat16()
        got = call(
            apply, input=x, weight=layer.weight, weight_scale=layer.weight_scale, weight_global_scale=scale,
            weight_scale_2=layer.weight_scale_2, workspace=workspace, size_n=n, size_k=k, bias=None,
        )  # fmt: skip
        probe.compare(f"nvfp4 weights[{m}x{k}x{n}]", got, x.double() @ exact.T, tolerance=1.5e-2)
