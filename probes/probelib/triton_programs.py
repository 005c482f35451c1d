"""Triton kernels for the probes, in a module of their own: Triton reads a kernel's source from its file."""

import triton
import triton.language as tl


@triton.jit
def softmax(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(x_ptr + row * columns + offsets, mask=inside, other=float("-inf"))
    e = tl.exp(x - tl.max(x, 0))
    tl.store(y_ptr + row * columns + offsets, e / tl.sum(e, 0), mask=inside)


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        a = tl.load(
            a_ptr + rows[:, None] * k + inner[None, :], mask=(rows[:, None] < m) & (inner[None, :] < k), other=0.0
        )
        b = tl.load(
            b_ptr + inner[:, None] * n + columns[None, :], mask=(inner[:, None] < k) & (columns[None, :] < n), other=0.0
        )
        total += tl.dot(a, b)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c_ptr + rows[:, None] * n + columns[None, :], total.to(c_ptr.dtype.element_ty), mask=inside)


def launch_matmul(a, b, c, bm, bn, bk, stages):
    m, k = a.shape
    n = b.shape[1]
    grid = (triton.cdiv(m, bm), triton.cdiv(n, bn))
    return matmul[grid](a, b, c, m, n, k, BM=bm, BN=bn, BK=bk, num_stages=stages, num_warps=8 if bm == 128 else 4)


@triton.jit
def paged_decode(
    q_ptr, k_ptr, v_ptr, table_ptr, length_ptr, out_ptr, scale, pages_per_row,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    length = tl.load(length_ptr + row)
    width, slots = tl.arange(0, D), tl.arange(0, PAGE)
    q = tl.load(q_ptr + (row * HEADS + head) * D + width).to(tl.float32) * scale
    peak = -float("inf")
    weight = 0.0
    total = tl.zeros((D,), dtype=tl.float32)
    for start in range(0, length, PAGE):
        page = tl.load(table_ptr + row * pages_per_row + start // PAGE)
        base = ((page * PAGE + slots) * KV_HEADS + kv_head) * D
        inside = start + slots < length
        k = tl.load(k_ptr + base[:, None] + width[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        v = tl.load(v_ptr + base[:, None] + width[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.where(inside, tl.sum(q[None, :] * k, 1), -float("inf"))
        new_peak = tl.maximum(peak, tl.max(score, 0))
        share = tl.exp(score - new_peak)
        keep = tl.exp(peak - new_peak)
        weight = weight * keep + tl.sum(share, 0)
        total = total * keep + tl.sum(share[:, None] * v, 0)
        peak = new_peak
    tl.store(out_ptr + (row * HEADS + head) * D + width, total / weight)


@triton.jit
def prefill(
    q_ptr, k_ptr, v_ptr, out_ptr, length, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    rows, width = block * BM + tl.arange(0, BM), tl.arange(0, D)
    inside = rows < length
    q = tl.load(q_ptr + (rows[:, None] * HEADS + head) * D + width[None, :], mask=inside[:, None], other=0.0)
    peak = tl.full((BM,), -float("inf"), dtype=tl.float32)
    weight = tl.zeros((BM,), dtype=tl.float32)
    total = tl.zeros((BM, D), dtype=tl.float32)
    for start in range(0, tl.minimum((block + 1) * BM, length), BN):
        columns = start + tl.arange(0, BN)
        there = columns < length
        at = (columns[:, None] * KV_HEADS + kv_head) * D + width[None, :]
        k = tl.load(k_ptr + at, mask=there[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=there[:, None], other=0.0)
        score = tl.dot(q, tl.trans(k)) * scale
        score = tl.where((columns[None, :] <= rows[:, None]) & there[None, :], score, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(score, 1))
        share = tl.exp(score - new_peak[:, None])
        keep = tl.exp(peak - new_peak)
        weight = weight * keep + tl.sum(share, 1)
        total = total * keep[:, None] + tl.dot(share.to(v.dtype), v)
        peak = new_peak
    at = (rows[:, None] * HEADS + head) * D + width[None, :]
    tl.store(out_ptr + at, (total / weight[:, None]).to(out_ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit
def matmul_mxfp4(
    a_ptr, b_ptr, scale_ptr, c_ptr, n, k, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    rows, columns = tl.arange(0, M), tl.program_id(0) * BN + tl.arange(0, BN)
    total = tl.zeros((M, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        packed = start // 2 + tl.arange(0, BK // 2)
        groups = start // 32 + tl.arange(0, BK // 32)
        a = tl.load(a_ptr + rows[:, None] * k + inner[None, :])
        b = tl.load(b_ptr + columns[None, :] * (k // 2) + packed[:, None])
        scale = tl.load(scale_ptr + columns[:, None] * (k // 32) + groups[None, :])
        total = tl.dot_scaled(a, None, "bf16", b, scale, "e2m1", acc=total)
    tl.store(c_ptr + rows[:, None] * n + columns[None, :], total)
