"""NVFP4: FP4 values in groups of 16 with an FP8 scale each and one FP32 scale; a plain reference."""

import torch

from probelib.reference import decode_e2m1, encode_e2m1

GROUP = 16
LARGEST = 448.0 * 6.0


def quantise(x):
    """Quantise [rows, k]; return (packed bytes, FP8 scales [rows, k / 16], FP32 scale, dequantised float64)."""
    rows, k = x.shape
    grouped = x.double().view(rows, k // GROUP, GROUP)
    global_scale = (grouped.abs().amax() / LARGEST).float()
    scales = (grouped.abs().amax(-1) / 6.0 / global_scale.double()).float().clamp(max=448).to(torch.float8_e4m3fn)
    step = scales.double()[..., None] * global_scale.double()
    packed = encode_e2m1(torch.where(step > 0, grouped / step.clamp(min=1e-30), 0.0).view(rows, k))
    exact = (decode_e2m1(packed).view(rows, k // GROUP, GROUP) * step).view(rows, k)
    return packed, scales, global_scale, exact


def swizzle(scales):
    """Return scales [rows, groups] in the 128x4 tiles that sm_100 and sm_120 read, padded with zeros."""
    rows, groups = scales.shape
    padded_rows, padded_groups = (rows + 127) // 128 * 128, (groups + 3) // 4 * 4
    padded = torch.zeros(padded_rows, padded_groups, dtype=torch.uint8, device=scales.device)
    padded[:rows, :groups] = scales.view(torch.uint8)
    tiled = padded.view(padded_rows // 128, 4, 32, padded_groups // 4, 4).permute(0, 3, 2, 1, 4).contiguous()
    return tiled.view(padded_rows, padded_groups).view(torch.float8_e4m3fn)


def unswizzle(tiled, rows, groups):
    """Undo `swizzle` and cut off the padding."""
    padded_rows, padded_groups = (rows + 127) // 128 * 128, (groups + 3) // 4 * 4
    raw = tiled.view(torch.uint8).reshape(padded_rows // 128, padded_groups // 4, 32, 4, 4)
    plain = raw.permute(0, 3, 2, 1, 4).reshape(padded_rows, padded_groups)
    return plain[:rows, :groups].contiguous().view(torch.float8_e4m3fn)
