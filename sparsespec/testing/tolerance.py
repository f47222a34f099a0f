"""How far a kernel may be from the truth: a few times as far as the reference is, in the same float type.

The truth is float64. The reference's own error in a float type is measured on the same problem, so no tolerance is
tuned by hand and none hides an error that the float type does not explain.
"""

from __future__ import annotations

import torch
from torch import Tensor

TIMES = {torch.float64: 8.0, torch.float32: 8.0, torch.float16: 3.0, torch.bfloat16: 3.0}
"""How many times the reference's error is allowed. More for wide types, where a product's order of summation is all
there is to err by, and a library's blocked sums err less than a plain chain of additions."""
FLOOR = {torch.float64: 1e-11, torch.float32: 5e-7, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""What is allowed where the reference happens to be exact: a unit in the last place, a few in float32."""
KEPT = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-10}
"""What scores may err besides: they may be kept in half precision until the sum of exponentials is known."""


def allowed(dtype: torch.dtype, measured: float) -> float:
    """Return the error allowed in `dtype`, where the reference was measured to err by `measured`."""
    return TIMES[dtype] * measured + FLOOR[dtype]


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error of a number as a share of the largest number of its vector, the last axis.

    No vector counts as smaller than what is usual in `want`, or cancellation would be taken for an error. Where only
    one of two numbers is NaN the error is infinite.
    """
    return float(errors(got, want).max()) if want.numel() else 0.0


def errors(got: Tensor, want: Tensor) -> Tensor:
    """Return `error` of each vector, without the last axis."""
    return element_errors(got, want).amax(-1)


def element_errors(got: Tensor, want: Tensor) -> Tensor:
    """Return the error of each number, as `error` measures it."""
    got, want = got.to(want.device, torch.float64), want.to(torch.float64)
    if not want.numel():
        return want
    there = want.masked_fill(want.isnan(), 0)
    usual = there.square().sum().div(max(1, int((there != 0).sum()))).sqrt()
    size = torch.maximum(there.abs().amax(-1), usual).clamp(min=torch.finfo(torch.float64).tiny)
    off = (got.masked_fill(want.isnan(), 0) - there).abs()
    return off.masked_fill(got.isnan() != want.isnan(), torch.inf) / size[..., None]


def log_error(got: Tensor, want: Tensor) -> float:
    """Return the largest error of logarithms, relative to values near 1; NaN is infinitely far."""
    if not want.numel():
        return 0.0
    want = want.to(torch.float64)
    off = (got.to(want.device, torch.float64) - want).abs() / (1 + want.abs())
    return float(off.masked_fill(off.isnan(), torch.inf).max())
