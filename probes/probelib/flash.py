"""flash-attn as a stand-alone package, and as vLLM and sgl-kernel carry it, under one call."""

import importlib

from probelib.calls import missing_api
from probelib.context import NotRun, Unsupported


def vllm_interface():
    """Return the module of FlashAttention that vLLM carries or asks for, or None; one that does not load fails."""
    for name in ("vllm.vllm_flash_attn.flash_attn_interface", "vllm_flash_attn.flash_attn_interface"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if not missing_api(error):
                raise
    return None


def providers(probe, version):
    """Yield (name, function of q, k, v, cumulative lengths, longest, causal) for FlashAttention 2 or 3."""
    if not probe.is_absent("vllm"):
        interface = vllm_interface()
        if interface is not None:
            reason = getattr(interface, "fa_version_unsupported_reason", lambda _: None)(version)
            if reason:
                yield "vllm", Unsupported(f"vLLM's FlashAttention {version}: {reason}")
            else:

                def vllm(q, k, v, starts_q, starts_k, longest_q, longest_k, causal):
                    return interface.flash_attn_varlen_func(
                        q, k, v, max_seqlen_q=longest_q, cu_seqlens_q=starts_q, max_seqlen_k=longest_k,
                        cu_seqlens_k=starts_k, causal=causal, fa_version=version,
                    )  # fmt: skip

                yield "vllm", vllm
    name = "flash_attn" if version == 2 else "flash_attn_interface"
    if not probe.is_absent(name):
        # sgl-kernel 0.3.9 installs a flash_attn that holds CuTe kernels and nothing else.
        packed = getattr(probe.module(name), "flash_attn_varlen_func", None)
        if packed is None:
            probe.note(f"{name} is there without flash_attn_varlen_func")
        else:

            def alone(q, k, v, starts_q, starts_k, longest_q, longest_k, causal):
                got = packed(q, k, v, starts_q, starts_k, longest_q, longest_k, causal=causal)
                return got[0] if isinstance(got, tuple) else got

            yield name, alone
    if version == 3 and not probe.is_absent("sgl_kernel"):
        try:
            module = importlib.import_module("sgl_kernel.flash_attn")
        except ImportError as error:
            probe.note(f"sgl_kernel.flash_attn: {error}")
            return
        function = getattr(module, "flash_attn_varlen_func", None)
        if function is None:
            return

        def sgl(q, k, v, starts_q, starts_k, longest_q, longest_k, causal):
            got = function(q, k, v, starts_q, starts_k, max_seqlen_q=longest_q, max_seqlen_k=longest_k, causal=causal)
            return got[0] if isinstance(got, tuple) else got

        yield "sgl_kernel", sgl


def check(probe, version):
    """Compare every provider with float64 attention over packed sequences of odd lengths."""
    torch = probe.module("torch")
    from probelib.reference import attention
    from probelib.timing import median_seconds

    generator = probe.generator()
    refused, ran = [], []
    for name, function in providers(probe, version):
        if isinstance(function, Exception):
            refused.append(str(function))
            continue
        ran.append(name)
        for dtype, tolerance in ((torch.bfloat16, 1.2e-2), (torch.float16, 2e-3)):
            for heads, kv_heads, width, causal in ((8, 2, 128, True), (4, 4, 64, True), (16, 1, 64, False)):
                lengths_q, lengths_k = (1, 17, 128, 65), (33, 17, 300, 65)
                starts_q, starts_k = (
                    torch.tensor([0, *lengths], device="cuda").cumsum(0).int() for lengths in (lengths_q, lengths_k)
                )
                q = torch.randn(sum(lengths_q), heads, width, device="cuda", generator=generator).to(dtype)
                k, v = (
                    torch.randn(sum(lengths_k), kv_heads, width, device="cuda", generator=generator).to(dtype)
                    for _ in range(2)
                )
                got = function(q, k, v, starts_q, starts_k, max(lengths_q), max(lengths_k), causal)
                for i in range(len(lengths_q)):
                    rows, keys = slice(starts_q[i], starts_q[i + 1]), slice(starts_k[i], starts_k[i + 1])
                    expected = attention(q[rows], k[keys], v[keys], causal=causal)
                    label = f"{name}[{lengths_q[i]}x{lengths_k[i]}x{heads}/{kv_heads}x{width}]"
                    probe.compare(label, got[rows], expected, tolerance=tolerance)
        length = 2048
        q, k, v = (torch.randn(length, 16, 128, device="cuda", generator=generator).bfloat16() for _ in range(3))
        starts = torch.tensor([0, length], dtype=torch.int32, device="cuda")
        seconds = median_seconds(lambda: function(q, k, v, starts, starts, length, length, True))
        probe.metric(f"tflops.{name}", 2 * 2 * 16 * length * length * 128 / 2 / seconds / 1e12)
    probe.metric("providers", " ".join(ran))
    if not ran and refused:
        raise Unsupported("; ".join(refused))
    if not ran:
        raise NotRun(f"API not found: FlashAttention {version} in vllm, flash_attn or sgl_kernel")
