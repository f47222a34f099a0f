"""Implements `rms_norm` for a GPU: one launch, with a residual or without, each number read and written once.

A program takes a row, in float32 throughout and in an order that the width fixes, so a row's result does not depend on
what else is in the step. With a residual the sum is rounded as it is stored, and normed as rounded.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.errors import BadOption

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDEST = 65536
"""Numbers of a row that registers of one program hold."""


@triton.jit
def _rms_norm(
    x, residual, weight, out, total, x_row, residual_row, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < WIDTH
    a = tl.load(x + row * x_row + i, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        a += tl.load(residual + row * residual_row + i, mask=inside, other=0.0).to(tl.float32)
        rounded = a.to(total.dtype.element_ty)
        tl.store(total + row * WIDTH + i, rounded, mask=inside)
        a = rounded.to(tl.float32)
    # a plain quotient or root of a GPU is off by units in the last place, and these are one a row
    scale = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(tl.sum(a * a, 0), WIDTH) + eps))
    a = a * scale * tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + i, a.to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `kernels/rms_norm/api.py`; x is contiguous, or `[N, W]` with rows apart."""
    return _launch(x, None, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `kernels/rms_norm/api.py`; x and residual are contiguous, or `[N, W]` with rows apart."""
    return _launch(x, residual, weight, eps)


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm, and the sum that was normed: x where there is no residual."""
    _check(x, weight)
    width = x.shape[-1]
    x_row = _row_stride("x", x)
    residual_row = x_row if residual is None else _row_stride("residual", residual)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = x if residual is None else torch.empty_like(out)
    if x.numel():
        block = triton.next_power_of_2(width)
        _rms_norm[(x.numel() // width,)](
            # without a residual any pointer will do: the kernel reads none
            x, x if residual is None else residual, weight, out, total, x_row, residual_row, eps,
            # 16 bytes a thread and load in half precision, as far as there are threads
            WIDTH=width, BLOCK=block, ADDED=residual is not None, num_warps=min(16, max(1, block // 256)),
        )  # fmt: skip
    return out, total


def _row_stride(name: str, x: Tensor) -> int:
    """Return how far apart rows are; raise `BadOption` where one stride does not say it."""
    if x.is_contiguous():
        return x.shape[-1]
    if x.ndim != 2 or x.stride(1) != 1:
        raise BadOption(f"{name} must be contiguous, or [N, W] with contiguous rows, got strides {x.stride()}")
    return x.stride(0)


def _check(x: Tensor, weight: Tensor) -> None:
    """Raise `BadOption`, naming the argument, where a launch would misread memory or could not be made."""
    if x.dtype not in DTYPES:
        raise BadOption(f"rms_norm impl='triton' takes x of float32, float16 or bfloat16, got {x.dtype}")
    if not x.is_cuda and isinstance(_rms_norm, triton.JITFunction):
        raise BadOption(f"x must be on a CUDA device for impl='triton', got {x.device}")
    if not weight.is_contiguous():
        raise BadOption(f"weight must be contiguous, got strides {weight.stride()}")
    if x.shape[-1] > WIDEST:
        raise BadOption(f"rms_norm impl='triton' takes rows of {WIDEST} numbers or fewer, got {x.shape[-1]}")
