"""`rms_norm` in plain torch: the definition of the op.

The mean of squares and the product with the weight are taken in at least float32 (float64 for
float64 input) and rounded once, at the end, to the input's dtype.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `x / sqrt(mean(x²) + eps) * weight` over the last axis; same shape and dtype as x."""
    return F.rms_norm(x, weight.shape, weight, eps)
