"""`linear` in plain torch: the definition of the op."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weightᵀ (+ bias)`."""
    return F.linear(x, weight, bias)
