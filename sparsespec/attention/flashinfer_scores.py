"""Scores from a log-sum-exp in base 2, by one more reading of the keys of scored rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scored_queries(live: int, ends: tuple[int, int]) -> list[int]:
    """Return which of `live` queries are scored: the first `ends[0]` and the last `ends[1]` of them, each once."""
    first, last = ends
    return sorted({*range(min(first, live)), *range(max(0, live - last), live)})


def mean_probabilities(q: Tensor, keys: Tensor, lse: Tensor, positions: Tensor, *, scale: float, groups: int) -> Tensor:
    """Return the mean probability that queries give each position, [groups, m], in float32 or wider.

    Args:
        q: The scored queries of one row, [n, Hq, D].
        keys: Keys at positions 0 … m - 1, [m, Hkv, D].
        lse: [n, Hq], logarithm to base 2 of the sum of exp(scale * q·k), as FlashInfer gives it.
        positions: Position of each query, [n]; what is behind it gets 0.
        scale: What products are multiplied by.
        groups: Lists of positions; the mean goes over the heads that share one.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    n, _, head_dim = q.shape
    m, n_kv_heads, _ = keys.shape
    x = q.to(wide).mul(scale * math.log2(math.e)).view(n, n_kv_heads, -1, head_dim)
    logits = torch.einsum("nhgd,mhd->nhgm", x, keys.to(wide))
    hidden = torch.arange(m, device=q.device) > positions[:, None]
    p = (logits - lse.to(wide).view(n, n_kv_heads, -1, 1)).exp2_().masked_fill_(hidden[:, None, None], 0)
    return p.mean((0, 2)).unflatten(0, (groups, -1)).mean(1)
