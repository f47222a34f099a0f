"""Dense causal attention over one row without a cache: what these tests hand to `forward`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsespec.models.transformer import Attend, Transformer

Mask = Callable[[int], Tensor]
"""`mask(n) -> [n, n]` of bool: which keys (columns) each query (row) reads."""


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def sinks_and_recent(n_sinks: int, n_recent: int) -> Mask:
    """Read the first keys and the newest ones, including self."""

    def mask(n: int) -> Tensor:
        far = causal(n).tril(-n_recent)
        far[:, :n_sinks] = False
        return causal(n) & ~far

    return mask


def attend(model: Transformer, mask: Mask = causal) -> Attend:
    """Norm, rotate and attend: tokens are one row from position 0."""
    config = model.config
    cos, sin = model.rope

    def rotated(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            x = F.rms_norm(x, weight.shape, weight, config.rms_eps)
        a, b = x.chunk(2, dim=-1)
        c, s = cos[: len(x), None], sin[: len(x), None]
        return torch.cat((a * c - b * s, b * c + a * s), dim=-1)

    def run(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rotated(q, model.q_norm(layer)), rotated(k, model.k_norm(layer))
        k, v = (x.repeat_interleave(config.group, dim=1) for x in (k, v))
        scores = torch.einsum("nhd,mhd->hnm", q, k) / config.head_dim**0.5
        scores = scores.masked_fill(~mask(len(q)), float("-inf"))
        return torch.einsum("hnm,mhd->nhd", scores.softmax(dim=-1), v)

    return run


def logits(model: Transformer, tokens: Tensor, mask: Mask = causal) -> Tensor:
    """Return `[N, V]` of one row."""
    return model.logits(model.forward(tokens, attend(model, mask)))
