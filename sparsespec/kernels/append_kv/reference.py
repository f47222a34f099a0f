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
    a, b = torch.cat((q, k), dim=1).chunk(2, dim=-1)
    c, s = (table.index_select(0, positions).unsqueeze(1) for table in (cos, sin))
    rotated = torch.cat((a * c - b * s, b * c + a * s), dim=-1)
    slot_shape = (-1, *k_pages.shape[2:])
    k_pages.view(slot_shape).index_copy_(0, slots, rotated[:, q.shape[1] :])
    v_pages.view(slot_shape).index_copy_(0, slots, v)
    return rotated[:, : q.shape[1]]
