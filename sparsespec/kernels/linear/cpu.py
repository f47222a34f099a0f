"""`linear` for the few rows of a decoding step on a CPU: BLAS is asked in the way that reads the weight fastest.

One row is a matrix-vector product, which BLAS computes on one thread; as a batch of row blocks, one a thread, it took
0.6 of the time on two cores. For a few rows, `x @ Wᵀ` with a `[out, in]` weight stays well below the memory rate and
`(W @ xᵀ)ᵀ` does not: on two cores the second order took 0.5 of the time at 2 to 4 rows, 0.8 at 9 and 0.95 at 128, and
1.6 at 199; on one thread 0.75 at 2 to 4 rows and no less beyond. Measured with the matrices of a 135M model in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FEW = 4  # rows that one pass over the weight serves
_MANY = 128  # above this both orders are bound by arithmetic


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weightᵀ (+ bias)`, contiguous; equal to the reference within rounding."""
    threads = torch.get_num_threads()
    if x.ndim != 2 or not 1 <= x.shape[0] <= (_MANY if threads > 1 else _FEW):
        return F.linear(x, weight, bias)
    y = torch.mm(weight, x.t()).t().contiguous() if x.shape[0] > 1 else _one_row(x, weight, threads)
    return y if bias is None else y.add_(bias)


def _one_row(x: Tensor, weight: Tensor, threads: int) -> Tensor:
    out, width = weight.shape
    if threads == 1 or out % threads:
        return torch.mv(weight, x[0])[None]
    blocks = weight.view(threads, out // threads, width)
    return torch.bmm(blocks, x.t().expand(threads, width, 1)).view(1, out)
