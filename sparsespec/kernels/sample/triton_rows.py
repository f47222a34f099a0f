"""How kernels of `sample` see logits: rows cut into spans, spans read in tiles, and the best logit of each.

A row is cut into spans of `SPAN` tokens, which depend on V only, and each span has a program. Maxima do not depend on
their order, and sums are taken in an order that V fixes: a row's result depends on that row only.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.sample.triton_cut import GROUP, is_searched

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SPAN = 16384
"""Tokens of a program."""
TILE = 1024
"""Tokens of a step of a program, a multiple of four and of `GROUP`."""
WARPS = 4


@triton.jit
def load(logits, at, vocab):
    """Return the logits [BLOCK] at tokens `at` in float32; -inf behind the last, and +inf for NaN."""
    x = tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    return tl.where(x == x, x, float("inf"))


@triton.jit
def peak_of(peaks, row, N_SPANS: tl.constexpr, SPANS: tl.constexpr):
    """Return the best logit of a row."""
    span = tl.arange(0, SPANS)
    return tl.max(tl.load(peaks + row * N_SPANS + span, mask=span < N_SPANS, other=float("-inf")), 0)


@triton.jit
def peak_and_groups(
    logits, groups, wanted, first, end, vocab, N_GROUPS: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Return the best logit from `first` to `end`, and write that of each group of `GROUP` tokens if it is wanted."""
    best = tl.full((TILE,), float("-inf"), tl.float32)
    for start in range(first, end, TILE):
        x = load(logits, start + tl.arange(0, TILE), vocab)
        best = tl.maximum(best, x)
        if wanted:
            group = start // GROUP + tl.arange(0, TILE // GROUP)
            most = tl.max(tl.reshape(x, (TILE // GROUP, GROUP)), 1)
            tl.store(groups + group, most, mask=group < N_GROUPS)
    return tl.max(best, 0)


@triton.jit
def _peaks(
    logits, stride, temperature, top_k, top_p, peaks, groups, vocab,
    N_SPANS: tl.constexpr, N_GROUPS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Find the best logit of each span, and of each group of tokens where a search will need it."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    wanted = is_searched(tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row), vocab)
    first, end = span * SPAN, tl.minimum(span * SPAN + SPAN, vocab)
    best = peak_and_groups(
        logits + row * stride, groups + row * N_GROUPS, wanted, first, end, vocab, N_GROUPS, TILE, GROUP
    )
    tl.store(peaks + program, best)


class Shape(NamedTuple):
    """How rows are cut: by the vocabulary only."""

    n_rows: int
    vocab: int
    n_spans: int
    spans: int
    n_groups: int


def best_logits(logits: Tensor, shape: Shape, filters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the best logits of spans [T, n_spans], and of groups [T, n_groups] where `filters` need them."""
    peaks = torch.empty((shape.n_rows, shape.n_spans), dtype=torch.float32, device=logits.device)
    groups = torch.empty((shape.n_rows, shape.n_groups), dtype=torch.float32, device=logits.device)
    _peaks[(shape.n_rows * shape.n_spans,)](
        logits, logits.stride(0), *filters, peaks, groups, shape.vocab,
        N_SPANS=shape.n_spans, N_GROUPS=shape.n_groups, SPAN=SPAN, TILE=TILE, GROUP=GROUP, num_warps=WARPS,
    )  # fmt: skip
    return peaks, groups


def shape_of(logits: Tensor) -> Shape:
    """Return how the rows of logits [T, V] are cut."""
    n_rows, vocab = logits.shape
    n_spans = -(-vocab // SPAN)
    return Shape(n_rows, vocab, n_spans, 1 << (n_spans - 1).bit_length(), -(-vocab // GROUP))


def check(logits: Tensor, dtype: torch.dtype, columns: dict[str, Tensor]) -> None:
    """Raise `BadOption` where a kernel launch would misread memory."""
    if logits.dtype not in DTYPES:
        raise BadOption(f"sample impl='triton' takes logits of float32, float16 or bfloat16, got {logits.dtype}")
    if not 0 < logits.shape[1] < 2**30:
        raise BadOption(f"sample impl='triton' takes 1 … 2**30 - 1 logits a row, got {logits.shape[1]}")
    if logits.stride(1) != 1 and logits.shape[1] > 1:
        raise BadOption(f"logits must be contiguous along their last axis, got strides {logits.stride()}")
    for name, x in columns.items():
        if x.dtype != dtype or not x.is_contiguous():
            raise BadOption(f"{name} must be contiguous {dtype}, got {x.dtype} with strides {x.stride()}")
        if x.device != logits.device:
            raise BadOption(f"{name} must be on the logits' device {logits.device}, got {x.device}")
    if not logits.is_cuda and isinstance(_peaks, triton.JITFunction):
        raise BadOption(f"logits must be on a CUDA device for impl='triton', got {logits.device}")
