"""Defines `append_kv` in plain torch, for any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """See `kernels/append_kv/api.py`."""
    if q_norm is not None and k_norm is not None:
        q = torch.nn.functional.rms_norm(q, q_norm.shape, q_norm, eps)
        k = torch.nn.functional.rms_norm(k, k_norm.shape, k_norm, eps)
    c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    slot_shape = (-1, *k_pages.shape[2:])
    k_pages.view(slot_shape).index_copy_(0, slots, _rotate(k, c, s))
    v_pages.view(slot_shape).index_copy_(0, slots, v)
    return _rotate(q, c, s)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
