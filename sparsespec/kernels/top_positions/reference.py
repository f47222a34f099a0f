"""Defines `top_positions` in plain torch, for any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def top_positions(scores: Tensor, below: Tensor, count: Tensor, k_max: int, pool: int) -> Tensor:
    """See `kernels/top_positions/api.py`."""
    length = scores.shape[-1]
    column = torch.arange(length, device=scores.device)
    legal = column < below[:, None]
    masked = scores.masked_fill(~legal, -torch.inf)
    if pool > 1 and length:
        flat = masked.reshape(-1, 1, length)
        pooled = torch.nn.functional.max_pool1d(flat, pool, stride=1, padding=pool // 2)
        masked = pooled.view_as(masked).masked_fill(~legal, -torch.inf)
    # a stable sort keeps the lower position in front where scores tie
    best = masked.sort(dim=-1, descending=True, stable=True).indices[..., :k_max]
    wanted = count.expand(scores.shape[0], -1)[:, None, :, None]
    spare = torch.arange(best.shape[-1], device=scores.device) >= wanted
    best = best.masked_fill(spare, length).sort(dim=-1).values.masked_fill(spare, 0)
    return torch.nn.functional.pad(best, (0, k_max - best.shape[-1]))
