"""Attention of torch itself (scaled_dot_product_attention) through each of its back ends, against float64."""

FEATURE = "torch-native-attention"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 1
WARM = True

SHAPES = ((64, 64, 8, 8, 64), (33, 129, 8, 2, 128), (1, 257, 16, 4, 64), (128, 128, 4, 1, 128))
BACKENDS = ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION")


def run(probe):
    torch = probe.module("torch")
    from probelib.reference import attention
    from torch.nn.attention import SDPBackend, sdpa_kernel

    generator = probe.generator()
    accepted = {name: 0 for name in BACKENDS if hasattr(SDPBackend, name)}
    for dtype, tolerance in ((torch.bfloat16, 1.2e-2), (torch.float16, 2e-3)):
        for queries, keys, heads, kv_heads, width in SHAPES:
            q = torch.randn(queries, heads, width, device="cuda", generator=generator).to(dtype)
            k, v = (torch.randn(keys, kv_heads, width, device="cuda", generator=generator).to(dtype) for _ in range(2))
            expected = attention(q, k, v, causal=False)
            batch = [tensor.transpose(0, 1)[None] for tensor in (q, k, v)]
            batch[1:] = [tensor.repeat_interleave(heads // kv_heads, dim=1) for tensor in batch[1:]]
            for name in accepted:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    try:
                        got = torch.nn.functional.scaled_dot_product_attention(*batch)
                    except RuntimeError as error:
                        if "No available kernel" not in str(error):
                            raise
                        continue
                accepted[name] += 1
                label = f"{name.lower()}[{str(dtype)[6:]} {queries}x{keys}x{heads}/{kv_heads}x{width}]"
                probe.compare(label, got[0].transpose(0, 1), expected, tolerance=tolerance)
    for name, count in accepted.items():
        probe.metric(f"shapes.{name.lower()}", count)
    square = [torch.randn(2, 8, 256, 64, device="cuda", generator=generator).bfloat16() for _ in range(3)]
    got = torch.nn.functional.scaled_dot_product_attention(*square, is_causal=True)
    for index in range(2):
        expected = attention(*(tensor[index].transpose(0, 1) for tensor in square), causal=True)
        probe.compare("causal", got[index].transpose(0, 1), expected, tolerance=1.2e-2)
    probe.require("a fused back end", any(accepted[n] for n in accepted if n != "MATH"), "only the plain one accepts")
