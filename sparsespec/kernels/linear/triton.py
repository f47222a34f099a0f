"""Implements `linear` for a GPU so that a row's bits do not depend on how many rows go with it.

The sum over the inner width is cut into `splits` spans, whose number follows from the shape of the weight alone. Each
span is summed block by block in ascending order, and the spans' sums are folded in ascending order, in float32. What
does depend on the number of rows changes no order: the size of a tile, and who sums the spans. Few tiles leave each
span to a program of its own and fold with a second launch; many tiles do all their spans, and fold in registers.
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
from sparsespec.kernels.linear.triton_tiles import BLOCK_K, Tiles, splits_of, tiles_for

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = not isinstance(tl.cdiv, triton.JITFunction)
FOLD = 1024
"""Numbers that a program of the fold takes."""


@triton.jit
def _operands(
    x, weight, row, column, at, m, n, end, x_row, weight_row,
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
            a = tl.load(x_at, mask=(rows[:, None] < m) & (i[None, :] < end), other=0.0)
            b = tl.load(weight_at, mask=(columns[:, None] < n) & (i[None, :] < end), other=0.0)
    return a, b


@triton.jit
def _sum_span(
    x, weight, row, column, first, m, n, end, x_row, weight_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIBED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Return the tile's sum over first … end - 1, in ascending order whatever the tile."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for at in tl.range(first, end, BLOCK_K):
        a, b = _operands(
            x, weight, row, column, at, m, n, end, x_row, weight_row, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIBED, EVEN
        )
        total = tl.dot(a, b.T, total, input_precision="ieee")
    return total


@triton.jit
def _sum_spans(
    x, weight, parked, row, column, span, m, n, k, x_row, weight_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr,
    PARKED: tl.constexpr, DESCRIBED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Return the fold of all spans' sums; parked, it lies in memory while the next one is made in all registers."""
    own = parked + tl.program_id(0).to(tl.int64) * (BLOCK_M * BLOCK_N)
    own += tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for split in tl.range(0, SPLITS, num_stages=1):
        newest = _sum_span(
            x, weight, row, column, split * span, m, n, tl.minimum(k, (split + 1) * span), x_row, weight_row,
            BLOCK_M, BLOCK_N, BLOCK_K, DESCRIBED, EVEN,
        )  # fmt: skip
        if PARKED:
            total = newest
            if split > 0:
                total = tl.load(own) + newest
                tl.debug_barrier()
            if split < SPLITS - 1:
                tl.store(own, total)
                tl.debug_barrier()
        else:
            # not added to 0, which would change the sign of another 0
            total = tl.where(split > 0, total + newest, newest)
    return total


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
    x, weight, bias, out, parked, m, n, k, span, x_row, weight_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    SPLITS: tl.constexpr, SPREAD: tl.constexpr, PARKED: tl.constexpr, BIASED: tl.constexpr,
    DESCRIBED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row, column = _tile(m, n, BLOCK_M, BLOCK_N, GROUP)
    split = tl.program_id(1)
    if SPREAD or SPLITS == 1:
        total = _sum_span(
            x, weight, row, column, split * span, m, n, tl.minimum(k, (split + 1) * span), x_row, weight_row,
            BLOCK_M, BLOCK_N, BLOCK_K, DESCRIBED, EVEN,
        )  # fmt: skip
    else:
        total = _sum_spans(
            x, weight, parked, row, column, span, m, n, k, x_row, weight_row,
            BLOCK_M, BLOCK_N, BLOCK_K, SPLITS, PARKED, DESCRIBED, EVEN,
        )  # fmt: skip
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    # spread, out is [splits, m, n] float32: sums of spans
    place = (split.to(tl.int64) * m + rows)[:, None] * n + columns[None, :]
    if BIASED and not SPREAD:
        total += tl.load(bias + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["size"])
def _fold(
    sums, bias, out, size, n, SPLITS: tl.constexpr, BIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.load(sums + i, mask=inside, other=0.0)
    for later in tl.static_range(1, SPLITS):
        total += tl.load(sums + later * size.to(tl.int64) + i, mask=inside, other=0.0)
    if BIASED:
        total += tl.load(bias + i % n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=inside)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels/linear/api.py`; x and weight have contiguous rows, which may lie apart."""
    _check(x, weight, bias)
    m, (n, k) = x.shape[0], weight.shape
    return product(x, weight, bias, tiles_for(m, n, k, x.dtype.itemsize))


def product(x: Tensor, weight: Tensor, bias: Tensor | None, tiles: Tiles) -> Tensor:
    """Return the product by tiles of the caller's choice; all give the same bits, and none is checked."""
    m, (n, k) = x.shape[0], weight.shape
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    step, splits = BLOCK_K[x.dtype.itemsize], splits_of(n, k)
    spread, parked = splits > 1 and tiles.spread, splits > 1 and tiles.parked and not tiles.spread
    n_tiles = triton.cdiv(m, tiles.height) * triton.cdiv(n, tiles.width)
    sums = out
    if spread or parked:
        size = (splits, m, n) if spread else (n_tiles, tiles.height, tiles.width)
        sums = torch.empty(size, dtype=torch.float32, device=x.device)
    a, b = x, weight
    described = all(_can_be_described(y) for y in (x, weight))
    if described:
        a, b = (_described(y, block) for y, block in ((x, (tiles.height, step)), (weight, (tiles.width, step))))
    grid = (n_tiles, splits if spread else 1)
    _multiply[grid](
        # without a bias any pointer will do: the kernel reads none
        a, b, out if bias is None else bias, sums if spread else out, sums, m, n, k,
        triton.cdiv(triton.cdiv(k, step), splits) * step, x.stride(0), weight.stride(0),
        BLOCK_M=tiles.height, BLOCK_N=tiles.width, BLOCK_K=step, GROUP=tiles.group,
        SPLITS=splits, SPREAD=spread, PARKED=parked, BIASED=bias is not None,
        DESCRIBED=described, EVEN=k % step == 0, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    if spread:
        _fold[(triton.cdiv(m * n, FOLD),)](
            sums, out if bias is None else bias, out, m * n, n, SPLITS=splits, BIASED=bias is not None, BLOCK=FOLD
        )
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
