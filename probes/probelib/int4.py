"""INT4 weights as AWQ and GPTQ checkpoints hold them, with the float64 values that they stand for."""

import torch

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibble i of a packed AWQ word holds this column of its eight."""


def quantise(weight, group, *, zero_points):
    """Quantise [k, n] by groups along k; return (codes, scales, zeros or None, dequantised float64)."""
    k, n = weight.shape
    grouped = weight.double().view(k // group, group, n)
    if zero_points:
        low, high = grouped.amin(1), grouped.amax(1)
        scales = ((high - low) / 15).clamp(min=1e-6).to(weight.dtype)
        zeros = (-low / scales.double()).round().clamp(0, 15)
    else:
        scales = (grouped.abs().amax(1) / 7).clamp(min=1e-6).to(weight.dtype)
        zeros = torch.full_like(grouped.amin(1), 8.0)
    codes = (grouped / scales.double()[:, None] + zeros[:, None]).round().clamp(0, 15)
    exact = (codes - zeros[:, None]) * scales.double()[:, None]
    return codes.view(k, n).int(), scales, zeros.int() if zero_points else None, exact.view(k, n)


def pack_awq(codes):
    """Pack [rows, n] codes to int32 [rows, n / 8] in AWQ's order."""
    words = codes.view(codes.shape[0], -1, 8).to(torch.int64)
    packed = sum(words[:, :, column] << (4 * nibble) for nibble, column in enumerate(AWQ_ORDER))
    return _int32(packed)


def pack_gptq(codes):
    """Pack [k, n] codes to int32 [k / 8, n], rows from the lowest nibble up."""
    words = codes.view(-1, 8, codes.shape[1]).to(torch.int64)
    return _int32(sum(words[:, row] << (4 * row) for row in range(8)))


def _int32(packed):
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32).contiguous()
