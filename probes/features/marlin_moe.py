"""Marlin INT4 mixture of experts: fused kernels against dequantised experts; here sm_120 went silently wrong."""

FEATURE = "marlin-moe"
REQUIRES = ("torch-device", "marlin")
TIMEOUT = 420
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    from probelib.calls import call
    from probelib.context import NotRun
    from probelib.int4 import quantise
    from probelib.marlin import providers
    from probelib.reference import moe

    generator = probe.generator()
    ran = []
    for marlin in providers(probe):
        if marlin.fused_moe is None:
            continue
        ran.append(marlin.name)
        with probe.phase(marlin.name):
            for tokens, k, n, experts, top_k, group in (
                (1, 256, 128, 8, 2, 128),
                (33, 512, 256, 8, 2, 64),
                (123, 256, 256, 16, 4, 128),
            ):
                x = torch.randn(tokens, k, device="cuda", generator=generator).bfloat16()
                packed, exact = [], []
                for rows, columns in ((k, 2 * n), (n, k)):
                    parts, values = [], []
                    for _ in range(experts):
                        weight = torch.randn(rows, columns, device="cuda", generator=generator).bfloat16() * rows**-0.5
                        codes, scales, zeros, dequantised = quantise(weight, group, zero_points=True)
                        parts.append(marlin.awq(codes, scales, zeros, group))
                        values.append(dequantised.T)
                    packed.append([torch.stack(part).contiguous() for part in zip(*parts)])
                    exact.append(torch.stack(values))
                logits = torch.randn(tokens, experts, device="cuda", generator=generator)
                weights, ids = torch.softmax(logits, -1).topk(top_k)
                weights = (weights / weights.sum(-1, keepdim=True)).float()
                (w1, s1, z1), (w2, s2, z2) = packed
                got = call(
                    marlin.fused_moe, hidden_states=x, w1=w1, w2=w2, bias1=None, bias2=None, w1_scale=s1, w2_scale=s2,
                    gating_output=logits, topk_weights=weights, topk_ids=ids.int(), quant_type_id=marlin.types.uint4.id,
                    w1_zeros=z1, w2_zeros=z2, num_bits=4, is_k_full=True, global_num_experts=experts,
                )  # fmt: skip
                expected = moe(x, *exact, weights, ids)
                label = f"moe.{marlin.name}[{tokens}x{k}x{n} {top_k} of {experts}]"
                probe.compare(label, got, expected, tolerance=2e-2)
    if not ran:
        raise NotRun("API not found: fused_marlin_moe")
    probe.metric("providers", " ".join(ran))
