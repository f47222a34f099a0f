"""What kernels err by: a run's logits against those of the same weights in a wider float type.

The truth is a plain causal forward over the whole text, without pages, batches or rounds, in float32 for half types and
in float64 for float32; weights and rotary tables are the run's own numbers. A number added to all logits of a position
changes no probability. So an error is that of a gap: of all pairs among the best `CONTENDERS` tokens, the most that the
gap of two is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsespec.kernels.append_kv.api import append_kv
from sparsespec.models.transformer import Transformer

CONTENDERS = 64
"""Best tokens of a position among which gaps are looked at."""
PIECE = 512
"""Positions whose logits are made at once."""


class Quantiles(NamedTuple):
    """Quantiles of errors, in logits."""

    p50: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, errors: Tensor) -> Quantiles:
        """Return the quantiles of `errors`, any shape and at least one of them."""
        ordered = errors.flatten().double().cpu().sort().values
        p50, p99, p999, most = (float(ordered[round(q * (len(ordered) - 1))]) for q in (0.5, 0.99, 0.999, 1.0))
        return cls(p50, p99, p999, most)

    def __str__(self) -> str:
        return f"p50 {self.p50:.2g}, p99 {self.p99:.2g}, p99.9 {self.p999:.2g}, max {self.max:.2g}"


def gap_errors(logits: Tensor, truth: Tensor) -> Tensor:
    """Return by how much the gap of two contenders differs at most, [T] float64; contenders are the best of `truth`."""
    ids = truth.topk(min(CONTENDERS, truth.shape[1]), dim=1).indices
    off = logits.gather(1, ids).double() - truth.gather(1, ids).double()
    return off.amax(1) - off.amin(1)


def widened(model: Transformer) -> Transformer:
    """Return the model with its own numbers in a wider type."""
    wide = model.to(torch.float64 if model.dtype in (torch.float32, torch.float64) else torch.float32)
    wide.rope = (model.rope[0].to(wide.dtype), model.rope[1].to(wide.dtype))
    return wide


@torch.inference_mode()
def errors_of(wide: Transformer, prompt: Sequence[int], output: Sequence[int], logits: Tensor) -> Tensor:
    """Return the gap errors [T] float64 of the logits [T, V] that the T tokens of `output` were sampled from."""
    text = torch.tensor([*prompt, *output[:-1]], device=wide.device)
    hidden = wide.forward(text, lambda *qkv: _attend(wide, *qkv))[len(prompt) - 1 :]
    pieces = zip(hidden.split(PIECE), logits.split(PIECE), strict=True)
    return torch.cat([gap_errors(mine, wide.logits(h)) for h, mine in pieces])


def _attend(model: Transformer, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally; norms and rotation are those of the op `append_kv`, into a cache of one page."""
    cache = torch.empty(2, 1, *k.shape, dtype=k.dtype, device=k.device)
    at = torch.arange(len(q), device=q.device)
    q = append_kv(
        q, k, v, cache[0], cache[1], positions=at, slots=at, cos=model.rope[0], sin=model.rope[1],
        q_norm=model.q_norm(layer), k_norm=model.k_norm(layer), eps=model.rms_eps, impl="reference",
    )  # fmt: skip
    q, k, v = (x.transpose(0, 1)[None] for x in (q, cache[0, 0], cache[1, 0]))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
