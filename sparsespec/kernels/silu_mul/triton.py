"""Implements `silu_mul` for a GPU: one launch, each number read and written once.

A program takes a block of a row's columns; numbers do not meet, so a row's result does not depend on what else is in
the step. Silu is taken in float32 and rounded to the dtype before the product, as the reference rounds it.
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
BLOCK = 1024
"""Columns of a program: 16 bytes a thread and load in half precision, for four warps."""


@triton.jit
def _silu_mul(gate_up, out, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < WIDTH
    here = gate_up + row * stride + i
    gate = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(here + WIDTH, mask=inside, other=0.0).to(tl.float32)
    silu = tl.div_rn(gate, 1.0 + tl.exp(-gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * WIDTH + i, (silu * up).to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `kernels/silu_mul/api.py`; gate_up is contiguous, or `[N, 2 * I]` with rows apart."""
    _check(gate_up)
    width = gate_up.shape[-1] // 2
    out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        stride = 2 * width if gate_up.is_contiguous() else gate_up.stride(0)
        block = min(BLOCK, triton.next_power_of_2(width))
        _silu_mul[(out.numel() // width, triton.cdiv(width, block))](
            gate_up, out, stride, WIDTH=width, BLOCK=block, num_warps=max(1, block // 256)
        )
    return out


def _check(gate_up: Tensor) -> None:
    """Raise `BadOption`, naming the argument, where a launch would misread memory or could not be made."""
    if gate_up.dtype not in DTYPES:
        raise BadOption(f"silu_mul impl='triton' takes gate_up of float32, float16 or bfloat16, got {gate_up.dtype}")
    if not gate_up.is_cuda and isinstance(_silu_mul, triton.JITFunction):
        raise BadOption(f"gate_up must be on a CUDA device for impl='triton', got {gate_up.device}")
    if not gate_up.is_contiguous() and (gate_up.ndim != 2 or gate_up.stride(1) != 1):
        strides = gate_up.stride()
        raise BadOption(f"gate_up must be contiguous, or [N, 2 * I] with contiguous rows, got strides {strides}")
