"""`linear` for the few rows of a decoding step on a CPU: BLAS is asked the other way round.

With a `[out, in]` weight, `x @ Wᵀ` of a few rows runs in a kernel that stays well below the memory rate, and `(W @
xᵀ)ᵀ` does not. For the matrices of a 135M model in float32 on two cores, the second order took 0.5 of the time at 2
to 4 rows, 0.8 at 9 and 0.95 at 128, and 1.6 at 199; on one thread 0.75 at 2 to 4 rows and no less beyond. So four
rows cost what one costs. One row is a matrix-vector product. Computing it as two equal rows took 0.7 of its time on
idle cores and ten times as long on busy ones, where threads of a matrix product wait for one another, so that is
not done.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FEW = 4  # rows that one pass over the weight serves
_MANY = 128  # above this both orders are bound by arithmetic


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weightᵀ (+ bias)`, contiguous; equal to the reference within rounding."""
    most = _MANY if torch.get_num_threads() > 1 else _FEW
    if x.ndim != 2 or not 1 <= x.shape[0] <= most:
        return F.linear(x, weight, bias)
    y = torch.mv(weight, x[0])[None] if x.shape[0] == 1 else torch.mm(weight, x.t()).t().contiguous()
    return y if bias is None else y.add_(bias)
