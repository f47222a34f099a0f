"""Implements `linear` for a GPU so that a row's bits do not depend on how many rows go with it.

Each result is one sum over the inner width in ascending order, in float32, by one program. What does depend on the
number of rows, the size of a tile, changes no order. Where tiles are few, nothing but loads on their way keeps the
memory busy: as many as the shared memory holds are faster there than programs for parts of the width.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.linear.triton_tiles import BLOCK_K, Tiles, tiles_for

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = not isinstance(tl.cdiv, triton.JITFunction)


@triton.jit
def _operands(
    x, weight, row, column, at, m, n, k, x_row, weight_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIBED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Return a block of x and one of the weight, 0 outside of them."""
    if DESCRIBED:
        a = x.load([row, at])
        b = weight.load([column, at])
    else:
        rows, columns, i = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N), at + tl.arange(0, BLOCK_K)
        x_at = x + rows.to(tl.int64)[:, None] * x_row + i[None, :]
        weight_at = weight + columns.to(tl.int64)[:, None] * weight_row + i[None, :]
        if EVEN:
            a = tl.load(x_at, mask=rows[:, None] < m, other=0.0)
            b = tl.load(weight_at, mask=columns[:, None] < n, other=0.0)
        else:
            a = tl.load(x_at, mask=(rows[:, None] < m) & (i[None, :] < k), other=0.0)
            b = tl.load(weight_at, mask=(columns[:, None] < n) & (i[None, :] < k), other=0.0)
    return a, b


@triton.jit
def _tile(m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Return the first row and column of this program's tile: programs side by side share columns of the weight."""
    across = tl.cdiv(n, BLOCK_N)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    height = tl.minimum(tl.cdiv(m, BLOCK_M) - first, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    return (first + within % height) * BLOCK_M, within // height * BLOCK_N


# The number of rows changes with every step and is worth no kernel of its own.
@triton.jit(do_not_specialize=["m"])
def _multiply(
    x, weight, bias, out, m, n, k, x_row, weight_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    BIASED: tl.constexpr, DESCRIBED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row, column = _tile(m, n, BLOCK_M, BLOCK_N, GROUP)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for at in tl.range(0, k, BLOCK_K):
        a, b = _operands(
            x, weight, row, column, at, m, n, k, x_row, weight_row, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIBED, EVEN
        )
        if a.dtype == tl.float32:
            # one chain over all of the width would err by several times what blocked sums do; the bound on imprecise
            # steps keeps the compiler from making one of them again
            total += tl.dot(a, b.T, input_precision="ieee", max_num_imprecise_acc=1)
        else:
            total = tl.dot(a, b.T, total)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    if BIASED:
        total += tl.load(bias + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
    place = rows.to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(rows[:, None] < m) & (columns[None, :] < n))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels/linear/api.py`; x and weight have contiguous rows, which may lie apart."""
    _check(x, weight, bias)
    return product(x, weight, bias, tiles_for(len(x), len(weight), x.dtype.itemsize))


def product(x: Tensor, weight: Tensor, bias: Tensor | None, tiles: Tiles) -> Tensor:
    """Return the product by tiles of the caller's choice; all give the same bits, and none is checked."""
    m, (n, k) = x.shape[0], weight.shape
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    step = BLOCK_K[x.dtype.itemsize]
    a, b = x, weight
    described = all(_can_be_described(y) for y in (x, weight))
    if described:
        a, b = (_described(y, block) for y, block in ((x, (tiles.height, step)), (weight, (tiles.width, step))))
    _multiply[(triton.cdiv(m, tiles.height) * triton.cdiv(n, tiles.width),)](
        # without a bias any pointer will do: the kernel reads none
        a, b, out if bias is None else bias, out, m, n, k, x.stride(0), weight.stride(0),
        BLOCK_M=tiles.height, BLOCK_N=tiles.width, BLOCK_K=step, GROUP=tiles.group, BIASED=bias is not None,
        DESCRIBED=described, EVEN=k % step == 0, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def _can_be_described(x: Tensor) -> bool:
    """Say whether the copy engine of a Hopper GPU takes x: half types, and rows that begin at 16 bytes."""
    return x.dtype.itemsize == 2 and x.numel() > 0 and x.data_ptr() % 16 == 0 and x.stride(0) % 8 == 0


def _described(x: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise `BadOption`, naming the argument, where a launch would misread memory or could not be made."""
    if x.dtype not in DTYPES:
        raise BadOption(f"linear impl='triton' takes x of float32, float16 or bfloat16, got {x.dtype}")
    if not x.is_cuda and not INTERPRETED:
        raise BadOption(f"x must be on a CUDA device for impl='triton', got {x.device}")
    for name, y in (("x", x), ("weight", weight)):
        if y.ndim != 2 or (y.shape[1] > 1 and y.stride(1) != 1):
            raise BadOption(f"{name} must be 2-D with contiguous rows, got {list(y.shape)} with strides {y.stride()}")
    if bias is not None and not bias.is_contiguous():
        raise BadOption(f"bias must be contiguous, got strides {bias.stride()}")
