"""`rms_norm` in plain torch: the definition of the op.

The mean of squares and the product with the weight are taken in at least float32 (float64 for
float64 input) and rounded once, at the end, to the input's dtype. A residual sum is rounded to
the dtype before it is normed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `x / sqrt(mean(x²) + eps) * weight` over the last axis; same shape and dtype as x."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm of `residual + x`, and `residual + x`."""
    total = residual + x
    return rms_norm(total, weight, eps), total
