"""Marlin kernels as vLLM and SGLang carry them (in sgl-kernel before 0.4, compiled at run time by SGLang after)."""

import importlib
from dataclasses import dataclass
from typing import Any

from probelib.calls import call
from probelib.context import NotRun

VLLM = "vllm.model_executor.layers.quantization.utils.marlin_utils"
SGLANG = "sglang.srt.layers.quantization.marlin_utils"


@dataclass
class Marlin:
    """One provider's functions."""

    name: str
    utils: Any
    types: Any
    gemm: Any
    awq_repack: Any
    gptq_repack: Any
    fused_moe: Any

    def workspace(self, blocks=4):
        import torch

        for name in ("marlin_make_workspace_new", "marlin_make_workspace"):
            function = getattr(self.utils, name, None)
            if function is not None:
                return call(function, device=torch.device("cuda"), max_blocks_per_sm=blocks)
        raise NotRun("API not found: marlin_make_workspace")

    def awq(self, codes, scales, zeros, group):
        """Return the kernel's (weight, scales, zero points) of one AWQ matrix [k, n]."""
        from probelib.int4 import pack_awq

        k, n = codes.shape
        weight = call(self.awq_repack, b_q_weight=pack_awq(codes), size_k=k, size_n=n, num_bits=4)
        permuted = call(self.utils.marlin_permute_scales, s=scales, size_k=k, size_n=n, group_size=group)
        points = call(
            self.utils.awq_to_marlin_zero_points, q_zp_packed=pack_awq(zeros), size_k=k // group, size_n=n, num_bits=4
        )
        return weight, permuted, points

    def gptq(self, codes, scales, group):
        """Return the kernel's (weight, scales) of one symmetric GPTQ matrix [k, n]."""
        import torch

        from probelib.int4 import pack_gptq

        k, n = codes.shape
        none = torch.empty(0, dtype=torch.int32, device="cuda")
        weight = call(self.gptq_repack, b_q_weight=pack_gptq(codes), perm=none, size_k=k, size_n=n, num_bits=4)
        return weight, call(self.utils.marlin_permute_scales, s=scales, size_k=k, size_n=n, group_size=group)

    def multiply(self, x, weight, scales, zeros, kind, n, *, workspace=None):
        import torch

        none = torch.empty(0, dtype=torch.int32, device="cuda")
        workspace = self.workspace(1) if workspace is None else workspace
        return call(
            self.gemm, a=x, c=None, b_q_weight=weight, b_bias=None, b_scales=scales, a_scales=None, global_scale=None,
            b_zeros=none if zeros is None else zeros, g_idx=none, perm=none, workspace=workspace, b_q_type=kind,
            size_m=x.shape[0], size_n=n, size_k=x.shape[1], is_k_full=True, use_atomic_add=False, use_fp32_reduce=True,
            is_zp_float=False,
        )  # fmt: skip


def first(*paths):
    """Return the first of several `module:attribute` that exist, or None; a module that fails to load fails."""
    for path in paths:
        module, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    return None


def providers(probe):
    """Return the providers that the image has, each complete."""
    found = []
    if not probe.is_absent("vllm"):
        ops = probe.module("vllm._custom_ops")
        found.append(
            Marlin(
                name="vllm",
                utils=importlib.import_module(VLLM),
                types=first("vllm.scalar_type:scalar_types"),
                gemm=getattr(ops, "marlin_gemm", None) or getattr(ops, "gptq_marlin_gemm", None),
                awq_repack=getattr(ops, "awq_marlin_repack", None),
                gptq_repack=getattr(ops, "gptq_marlin_repack", None),
                fused_moe=first(
                    "vllm.model_executor.layers.fused_moe.experts.marlin_moe:fused_marlin_moe",
                    "vllm.model_executor.layers.fused_moe.fused_marlin_moe:fused_marlin_moe",
                ),
            )
        )
    if not probe.is_absent("sglang") and not probe.is_absent("sgl_kernel"):
        found.append(
            Marlin(
                name="sglang",
                utils=importlib.import_module(SGLANG),
                types=first("sgl_kernel.scalar_type:scalar_types"),
                gemm=first(
                    "sglang.kernels.ops.gemm.gptq_marlin:gptq_marlin_gemm",
                    "sglang.jit_kernel.gptq_marlin:gptq_marlin_gemm",
                    "sgl_kernel:gptq_marlin_gemm",
                ),
                awq_repack=first(
                    "sglang.kernels.ops.quantization.awq_marlin_repack:awq_marlin_repack",
                    "sglang.jit_kernel.awq_marlin_repack:awq_marlin_repack",
                    "sgl_kernel:awq_marlin_repack",
                ),
                gptq_repack=first(
                    "sglang.kernels.ops.quantization.gptq_marlin_repack:gptq_marlin_repack",
                    "sglang.jit_kernel.gptq_marlin_repack:gptq_marlin_repack",
                    "sgl_kernel:gptq_marlin_repack",
                ),
                fused_moe=first(
                    "sglang.srt.layers.moe.fused_moe_triton.fused_marlin_moe:fused_marlin_moe",
                    "sglang.srt.layers.moe.fused_marlin_moe:fused_marlin_moe",
                ),
            )
        )
    if not found:
        raise NotRun("neither vllm nor sglang with sgl-kernel is installed")
    usable = [one for one in found if one.gemm and one.awq_repack and one.gptq_repack and one.types]
    if not usable:
        raise NotRun("API not found: Marlin in " + ", ".join(one.name for one in found))
    return usable
