"""Independent references in float64, written for plainness, never for speed."""

import torch


def attention(query, key, value, *, causal=True, scale=None):
    """Attention of one sequence. query [q, heads, d], key and value [k, kv_heads, d]; returns float64 [q, heads, d].

    Causal: the last query sees all keys.
    """
    query, key, value = (tensor.to(torch.float64) for tensor in (query, key, value))
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
    scale = scale or query.shape[-1] ** -0.5
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    if causal:
        rows, columns = scores.shape[1:]
        hidden = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(columns - rows + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


def rms_norm(x, weight, eps):
    x = x.to(torch.float64)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.to(torch.float64)


def silu_and_mul(x):
    gate, up = x.to(torch.float64).chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def rope_neox(x, positions, *, base=10000.0, interleaved=False):
    """Rotate [tokens, heads, d] by position: halves (NeoX) or neighbouring pairs."""
    x = x.to(torch.float64)
    d = x.shape[-1]
    frequency = base ** (-torch.arange(0, d, 2, dtype=torch.float64, device=x.device) / d)
    angle = positions.to(torch.float64)[:, None] * frequency
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def moe(x, w1, w2, topk_weights, topk_ids):
    """Mixture of experts, SiLU-gated. x [t, k], w1 [e, 2n, k], w2 [e, k, n]; returns float64 [t, k]."""
    x = x.to(torch.float64)
    out = torch.zeros_like(x)
    for expert in range(w1.shape[0]):
        token, slot = (topk_ids == expert).nonzero(as_tuple=True)
        if token.numel():
            hidden = silu_and_mul(x[token] @ w1[expert].to(torch.float64).T)
            out.index_add_(
                0, token, (hidden @ w2[expert].to(torch.float64).T) * topk_weights[token, slot, None].double()
            )
    return out


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The eight magnitudes of FP4 E2M1, by code."""


def decode_e2m1(packed):
    """Unpack bytes of two FP4 values, low nibble first, into float64 twice as wide."""
    table = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=torch.float64, device=packed.device)
    low, high = packed.to(torch.int64) & 15, packed.to(torch.int64) >> 4
    return torch.stack((table[low], table[high]), dim=-1).flatten(-2)


def encode_e2m1(x):
    """Round to the nearest FP4 value and pack two to a byte, low nibble first."""
    table = torch.tensor(E2M1, dtype=torch.float64, device=x.device)
    magnitude = x.to(torch.float64).abs().clamp(max=6.0)
    code = (magnitude[..., None] - table).abs().argmin(-1) + 8 * (x < 0).to(torch.int64)
    return (code[..., 0::2] | (code[..., 1::2] << 4)).to(torch.uint8)
