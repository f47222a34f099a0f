"""Implements `top_positions` for a GPU: one program per list, all layers in one launch.

A score becomes an int32 key that orders as it does. The key of the last chosen score is searched: each round counts the
keys at or above two pivots, which cut the range in three, and the search ends as soon as a count is the one asked for:
after 10 to 14 of at most 21 rounds, as a rule. Keys stay in registers; contexts longer than `LARGEST_BLOCK` are read
again in each round.
One ordered pass, over the cached scores, then writes the chosen positions; it takes ties in the order of positions.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.errors import BadOption

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_BLOCK = 32768
"""Scores that a program can keep in registers; longer lists are read again in each round, `STREAMED_BLOCK` at once."""
STREAMED_BLOCK = 4096
WRITE_BLOCK = 2048
"""Scores of a step of the writing pass; its packed prefix sum can count to 32,767."""

_LOWEST = tl.constexpr(-(2**31))  # the key of what must not be chosen; no score has it
_HIGHEST = tl.constexpr(2**31 - 1)  # the key of every NaN, which torch sorts above infinity
_INFINITY = tl.constexpr(0x7F800000)  # the bits of infinity, above which all are NaN


@triton.jit
def _load_keys(scores, at, below, UNIT: tl.constexpr, POOL: tl.constexpr):
    """Return the keys [BLOCK] of the pooled scores at positions `at`, `_LOWEST` at and above `below`."""
    best = tl.full(at.shape, _LOWEST, tl.int32)
    # whole units are loaded, so that a thread may load several scores at once
    limit = tl.cdiv(below, UNIT) * UNIT
    for shift in tl.static_range(POOL):
        p = at + (shift - POOL // 2)
        mask = (p >= 0) & (p < limit) if POOL > 1 else p < limit
        bits = tl.load(scores + p, mask=mask, other=0.0).to(tl.float32).to(tl.int32, bitcast=True)
        # integers only, so that no compiler setting for floats can change the order; negative numbers order backwards
        key = bits ^ ((bits >> 31) & _HIGHEST)
        key = tl.where(bits == _LOWEST, 0, key)  # -0 equals 0
        key = tl.where((bits & _HIGHEST) > _INFINITY, _HIGHEST, key)
        best = tl.maximum(best, tl.where((p >= 0) & (p < below), key, _LOWEST))
    # what is at or above `below` may have neighbours below it
    return tl.where(at < below, best, _LOWEST) if POOL > 1 else best


@triton.jit
def _count_from(
    keys, first, second, scores, below,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, POOL: tl.constexpr, IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Return how many keys are at or above `first`, and how many at or above `second`."""
    n, m = 0, 0
    if IN_REGISTERS:
        # both in one sum: up to 32,768 of them, and as many times -65,536, are an int32
        both = tl.sum((keys >= first).to(tl.int32) - ((keys >= second).to(tl.int32) << 16))
        n = both & 0xFFFF
        m = -((both - n) >> 16)
    else:
        for start in range(0, below, BLOCK):
            more = _load_keys(scores, start + tl.arange(0, BLOCK), below, UNIT, POOL)
            n += tl.sum((more >= first).to(tl.int32))
            m += tl.sum((more >= second).to(tl.int32))
    return n, m


@triton.jit
def _last_chosen(
    keys, count, scores, below, BLOCK: tl.constexpr, UNIT: tl.constexpr, POOL: tl.constexpr, IN_REGISTERS: tl.constexpr
):
    """Return a key such that all above it are chosen, and how many of those that equal it are."""
    low = tl.where(count > 0, _LOWEST, _HIGHEST).to(tl.int64)
    high = tl.full((), _HIGHEST, tl.int64)
    n, beyond = below, 0  # keys at or above `low`, and above `high`
    while (low < high) & (n != count):
        third = high - low
        first, second = low + (third + 2) // 3, low + (2 * third + 2) // 3
        n1, n2 = _count_from(
            keys, first.to(tl.int32), second.to(tl.int32), scores, below, BLOCK, UNIT, POOL, IN_REGISTERS
        )
        beyond = tl.where(n2 >= count, beyond, tl.where(n1 >= count, n2, n1))
        high = tl.where(n2 >= count, high, tl.where(n1 >= count, second, first) - 1)
        low = tl.where(n2 >= count, second, tl.where(n1 >= count, first, low))
        n = tl.where(n2 >= count, n2, tl.where(n1 >= count, n1, n))
    # either all from `low` on are chosen, or `low` is where ties are cut; nothing has the lowest key
    exact = (n == count) & (low > _LOWEST)
    return tl.where(exact, low - 1, low).to(tl.int32), tl.where(n == count, 0, count - beyond)


@triton.jit
def _write(scores, below, last, need, out, BLOCK: tl.constexpr, UNIT: tl.constexpr, POOL: tl.constexpr):
    """Write the positions of all keys above `last` and of the first `need` keys that equal it, ascending."""
    above_seen = 0
    ties_seen = 0
    for start in range(0, below, BLOCK):
        at = start + tl.arange(0, BLOCK)
        keys = _load_keys(scores, at, below, UNIT, POOL)
        above = keys > last
        tie = (keys == last) & (at < below)
        # two counts in one scan: keys above in the high half, ties in the low one
        packed = (above.to(tl.int32) << 16) + tie.to(tl.int32)
        before = tl.cumsum(packed, 0) - packed
        ties_before = ties_seen + (before & 0xFFFF)
        index = above_seen + (before >> 16) + tl.minimum(ties_before, need)
        tl.store(out + index, at.to(tl.int64), mask=above | (tie & (ties_before < need)))
        total = tl.sum(packed)
        above_seen += total >> 16
        ties_seen += total & 0xFFFF


# Lengths change with every step, and a kernel for each kind of integer would be compiled in the middle of serving:
# `UNIT` says all that the compiler needs to know about them.
@triton.jit(
    do_not_specialize=[
        "n_groups",
        "n_rows",
        "length",
        "k_max",
        "layer_units",
        "group_units",
        "row_units",
        "count_stride",
    ]
)
def _top_positions(
    scores, below_of, count_of, out, n_groups, n_rows, length, k_max, layer_units, group_units, row_units, count_stride,
    BLOCK: tl.constexpr, WRITE_BLOCK: tl.constexpr, UNIT: tl.constexpr, POOL: tl.constexpr, IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row, group = program % n_rows, program // n_rows % n_groups
    layer = program // n_rows // n_groups
    units = layer.to(tl.int64) * layer_units + group.to(tl.int64) * group_units + row.to(tl.int64) * row_units
    scores += units * UNIT
    out += program.to(tl.int64) * k_max
    # a caller's broken promise must not become an access out of bounds
    below = tl.minimum(tl.load(below_of + row), length).to(tl.int32)
    count = tl.minimum(tl.load(count_of + layer * count_stride + row), tl.minimum(below, k_max)).to(tl.int32)

    # rows that choose nothing, most of them in many a step, read nothing either
    below = tl.where(count > 0, below, 0)
    keys = below  # means nothing
    if IN_REGISTERS:
        keys = _load_keys(scores, tl.arange(0, BLOCK), below, UNIT, POOL)
    last, need = _last_chosen(keys, count, scores, below, BLOCK, UNIT, POOL, IN_REGISTERS)
    # read once more, from the cache: a scan over all keys at once would need more registers than there are
    _write(scores, below, last, need, out, WRITE_BLOCK, UNIT, POOL)
    for start in range(0, k_max, WRITE_BLOCK):
        index = start + tl.arange(0, WRITE_BLOCK)
        tl.store(out + index, tl.zeros((WRITE_BLOCK,), tl.int64), mask=(index >= count) & (index < k_max))


def top_positions(scores: Tensor, below: Tensor, count: Tensor, k_max: int, pool: int) -> Tensor:
    """See `kernels/top_positions/api.py`; scores float32, float16 or bfloat16, contiguous along S."""
    _check(scores, below, count)
    layers, groups, rows, length = scores.shape
    out = torch.empty((layers, groups, rows, k_max), dtype=torch.int64, device=scores.device)
    if not out.numel():
        return out
    unit = 4 if not (scores.data_ptr() % 16 or any(n % 4 for n in (length, *scores.stride()[:3]))) else 1
    block, warps = _launch_shape(length)
    _top_positions[(layers * groups * rows,)](
        scores,
        below,
        count,
        out,
        groups,
        rows,
        length,
        k_max,
        *(stride // unit for stride in scores.stride()[:3]),
        rows if count.dim() == 2 else 0,
        BLOCK=block,
        WRITE_BLOCK=min(block, WRITE_BLOCK),
        UNIT=unit,
        POOL=pool,
        IN_REGISTERS=length <= block,
        num_warps=warps,
    )
    return out


def _launch_shape(length: int) -> tuple[int, int]:
    """Return the scores of a block and the warps of a program: 32 scores a thread, where there are that many."""
    if length > LARGEST_BLOCK:
        return STREAMED_BLOCK, 8
    block = max(16, 1 << (length - 1).bit_length()) if length else 16
    return block, max(1, min(block // 1024, 16))


def _check(scores: Tensor, below: Tensor, count: Tensor) -> None:
    """Raise `BadOption` where a kernel launch would misread memory."""
    if scores.dtype not in DTYPES:
        raise BadOption(f"top_positions impl='triton' takes scores of float32, float16 or bfloat16, got {scores.dtype}")
    if scores.stride(-1) != 1 and scores.shape[-1] > 1:
        raise BadOption(f"scores must be contiguous along their last axis, got strides {scores.stride()}")
    for name, x in (("below", below), ("count", count)):
        if x.dtype != torch.int64 or not x.is_contiguous():
            raise BadOption(f"{name} must be contiguous int64, got {x.dtype} with strides {x.stride()}")
        if x.device != scores.device:
            raise BadOption(f"{name} must be on the scores' device {scores.device}, got {x.device}")
    if not scores.is_cuda and isinstance(_top_positions, triton.JITFunction):
        raise BadOption(f"scores must be on a CUDA device for impl='triton', got {scores.device}")
