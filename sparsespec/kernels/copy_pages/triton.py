"""Implements `copy_pages` for a GPU: one launch for all pages and layers; bits are moved, never converted.

A program copies one page of one layer. Programs of pairs that do not count end at once, so the grid is the same for
every count and a recorded launch follows what is in `pairs`.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.errors import BadOption

BLOCK = 2048
"""Numbers of a step: 16 bytes a thread for half types and four warps, twice over."""
AS_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _copy_pages(
    source, target, pairs, count, source_layer, target_layer, source_page, target_page, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    pair, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    if pair < tl.load(count):
        source += layer * source_layer + tl.load(pairs + 2 * pair) * source_page
        target += layer * target_layer + tl.load(pairs + 2 * pair + 1) * target_page
        for start in range(0, size, BLOCK):
            i = start + tl.arange(0, BLOCK)
            tl.store(target + i, tl.load(source + i, mask=i < size, other=0), mask=i < size)


def copy_pages(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    """See `kernels/copy_pages/api.py`; the pages of a layer may be apart, each page is contiguous."""
    _check(source, target, pairs)
    if not len(pairs) or not source.numel():
        return
    size = source[0, 0].numel()
    # integers of the same width, so that a NaN keeps its bits
    kind = AS_INTEGERS[source.element_size()]
    _copy_pages[(len(pairs), len(source))](
        source.view(kind), target.view(kind), pairs, count,
        source.stride(0), target.stride(0), source.stride(1), target.stride(1), size,
        BLOCK=min(BLOCK, triton.next_power_of_2(size)), num_warps=4,
    )  # fmt: skip


def _check(source: Tensor, target: Tensor, pairs: Tensor) -> None:
    """Raise `BadOption`, naming the argument, where a launch would misread memory."""
    for name, pool in (("source", source), ("target", target)):
        if pool.numel() and not pool[0, 0].is_contiguous():
            raise BadOption(f"{name} must have contiguous pages, got strides {pool.stride()}")
    if not pairs.is_contiguous():
        raise BadOption(f"pairs must be contiguous, got strides {pairs.stride()}")
    if source.element_size() not in AS_INTEGERS:
        raise BadOption(f"source must have numbers of 1, 2, 4 or 8 bytes, got {source.dtype}")
    if not source.is_cuda and isinstance(_copy_pages, triton.JITFunction):
        raise BadOption(f"source must be on a CUDA device for impl='triton', got {source.device}")
