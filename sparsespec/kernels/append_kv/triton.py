"""Implements `append_kv` for a GPU: norm, rotation and scatter in one launch, each number read and written once.

A program takes one token and a few heads, in float32 throughout, so a token's result does not depend on what else is in
the step. The leading programs of a token take query heads, the trailing ones KV heads, keys and values alike.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.errors import BadOption

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HEADS = 8
"""Heads of a program: 8 heads of 128 are 2 KB in half precision, wide loads and still many programs."""


@triton.jit
def _rotate(a, b, cos, sin, weight, i, in_half, eps, HALF: tl.constexpr, NORMED: tl.constexpr):
    """Return both halves of heads, [HEADS, HALF_BLOCK] each, normed if `NORMED` and rotated."""
    a, b = a.to(tl.float32), b.to(tl.float32)
    if NORMED:
        mean = (tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF)
        scale = (1.0 / tl.sqrt(mean + eps))[:, None]
        a *= scale * tl.load(weight + i, mask=in_half, other=0.0).to(tl.float32)[None, :]
        b *= scale * tl.load(weight + HALF + i, mask=in_half, other=0.0).to(tl.float32)[None, :]
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def _append_kv(
    q, k, v, out, k_pages, v_pages, positions, slots, cos, sin, q_norm, k_norm,
    q_token, q_head, k_token, k_head, v_token, v_head,
    kp_page, kp_token, kp_head, vp_page, vp_token, vp_head, angle,
    n_slots, block_size, n_q_heads, n_kv_heads, eps,
    HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_parts = tl.cdiv(n_q_heads, HEADS)
    i = tl.arange(0, HALF_BLOCK)
    in_half = i < HALF
    position = tl.load(positions + token)
    c = tl.load(cos + position * angle + i, mask=in_half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + position * angle + i, mask=in_half, other=0.0).to(tl.float32)[None, :]
    if part < q_parts:
        head = part * HEADS + tl.arange(0, HEADS)
        mask = (head < n_q_heads)[:, None] & in_half[None, :]
        here = q + token * q_token + head[:, None] * q_head + i[None, :]
        a, b = tl.load(here, mask=mask, other=0.0), tl.load(here + HALF, mask=mask, other=0.0)
        a, b = _rotate(a, b, c, s, q_norm, i, in_half, eps, HALF, NORMED)
        # the result is contiguous, whatever q is a view of
        there = out + (token * n_q_heads + head[:, None]) * (2 * HALF) + i[None, :]
        tl.store(there, a.to(out.dtype.element_ty), mask=mask)
        tl.store(there + HALF, b.to(out.dtype.element_ty), mask=mask)
    else:
        head = (part - q_parts) * HEADS + tl.arange(0, HEADS)
        slot = tl.load(slots + token)
        # a slot outside the pool is a bug elsewhere; it must not become a write outside the pool
        valid = (slot >= 0) & (slot < n_slots)
        mask = (head < n_kv_heads)[:, None] & in_half[None, :]
        held = mask & valid
        here = k + token * k_token + head[:, None] * k_head + i[None, :]
        a, b = tl.load(here, mask=mask, other=0.0), tl.load(here + HALF, mask=mask, other=0.0)
        a, b = _rotate(a, b, c, s, k_norm, i, in_half, eps, HALF, NORMED)
        page, offset = slot // block_size, slot % block_size
        there = k_pages + page * kp_page + offset * kp_token + head[:, None] * kp_head + i[None, :]
        tl.store(there, a.to(k_pages.dtype.element_ty), mask=held)
        tl.store(there + HALF, b.to(k_pages.dtype.element_ty), mask=held)
        here = v + token * v_token + head[:, None] * v_head + i[None, :]
        there = v_pages + page * vp_page + offset * vp_token + head[:, None] * vp_head + i[None, :]
        tl.store(there, tl.load(here, mask=mask, other=0.0), mask=held)
        tl.store(there + HALF, tl.load(here + HALF, mask=mask, other=0.0), mask=held)


def append_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    positions: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """See `kernels/append_kv/api.py`; q, k and v may be views of one projection, each head contiguous."""
    normed = q_norm is not None and k_norm is not None
    _check(
        {"q": q, "k": k, "v": v, "k_pages": k_pages, "v_pages": v_pages},
        {"positions": positions, "slots": slots, "q_norm": q_norm, "k_norm": k_norm},
    )
    _check_tables(cos, sin)
    n, n_q_heads, head_dim = q.shape
    n_kv_heads, half = k.shape[1], head_dim // 2
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if not n:
        return out
    heads = max(1, min(HEADS, triton.next_power_of_2(max(n_q_heads, n_kv_heads))))
    grid = (n, triton.cdiv(n_q_heads, heads) + triton.cdiv(n_kv_heads, heads))
    _append_kv[grid](
        *(q, k, v, out, k_pages, v_pages, positions, slots, cos, sin),
        # without norms any pointer will do: the kernel reads none
        *((q_norm, k_norm) if normed else (q, k)),
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        *(stride for x in (k_pages, v_pages) for stride in x.stride()[:3]),
        cos.stride(0),
        k_pages.shape[0] * k_pages.shape[1],
        k_pages.shape[1],
        n_q_heads,
        n_kv_heads,
        eps,
        HALF=half,
        HALF_BLOCK=triton.next_power_of_2(half),
        HEADS=heads,
        NORMED=normed,
        num_warps=4 if heads * half >= 512 else 2,
    )
    return out


def _check(data: dict[str, Tensor], rows: dict[str, Tensor | None]) -> None:
    """Raise `BadOption`, naming the argument, where a launch would misread memory or round in secret."""
    q = data["q"]
    if q.dtype not in DTYPES:
        raise BadOption(f"append_kv impl='triton' takes q of float32, float16 or bfloat16, got {q.dtype}")
    if not q.is_cuda and isinstance(_append_kv, triton.JITFunction):
        raise BadOption(f"q must be on a CUDA device for impl='triton', got {q.device}")
    for name, x in data.items():
        if x.stride(-1) != 1 and x.numel():
            raise BadOption(f"{name} must be contiguous along the head dimension, got strides {x.stride()}")
    for name, x in rows.items():
        if x is not None and not x.is_contiguous():
            raise BadOption(f"{name} must be contiguous, got strides {x.stride()}")


def _check_tables(cos: Tensor, sin: Tensor) -> None:
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:
        raise BadOption(f"cos and sin must have rows alike and contiguous, got {cos.stride()} and {sin.stride()}")
