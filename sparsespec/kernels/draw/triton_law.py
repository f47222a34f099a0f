"""Looks at laws without drawing: how sure one is of its best token.

Logits are float32, float16 or bfloat16. A row with NaN, with +inf or without a finite logit has no law: NaN.
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

from sparsespec.kernels.draw.triton_rows import SPAN, TILE, WARPS, check, load, peak_of, shape_of


@triton.jit
def _weights(
    logits, stride, firsts, emitteds, wanteds, peaks, weights, vocab,
    NEWEST: tl.constexpr, N_SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Find the best logit of each span, and sum exp(logit - best) over it.

    With `NEWEST`, for the logit row of the newest token of each row that is wanted; others look like those without law.
    """
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    first, end = span * SPAN, tl.minimum(span * SPAN + SPAN, vocab)
    peak = tl.full((), float("inf"), tl.float32)
    wanted = True
    if NEWEST:
        emitted = tl.load(emitteds + row)
        wanted = (emitted > 0) & (tl.load(wanteds + row) != 0)
        row = tl.load(firsts + row) + emitted - 1
    if wanted:
        logits += row * stride
        best = tl.full((TILE,), float("-inf"), tl.float32)
        for start in range(first, end, TILE):
            best = tl.maximum(best, load(logits, start + tl.arange(0, TILE), vocab))
        peak = tl.max(best, 0)
    total = tl.zeros((TILE,), tl.float32)
    # a span may be masked as a whole, and weighs nothing then
    if tl.abs(peak) < float("inf"):
        for start in range(first, end, TILE):
            total += tl.exp(load(logits, start + tl.arange(0, TILE), vocab) - peak)
    tl.store(peaks + program, peak)
    tl.store(weights + program, tl.sum(total, 0))


@triton.jit
def _invert(peaks, weights, out, N_SPANS: tl.constexpr, SPANS: tl.constexpr):
    """Write one over the summed weights of each row, NaN without a finite best logit."""
    row = tl.program_id(0).to(tl.int64)
    span = tl.arange(0, SPANS)
    out += row
    tl.store(out, float("nan"))
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    if tl.abs(peak) < float("inf"):
        here = row * N_SPANS + span
        weight = tl.load(weights + here, mask=span < N_SPANS, other=0.0)
        best = tl.load(peaks + here, mask=span < N_SPANS, other=float("-inf"))
        tl.store(out, 1.0 / tl.sum(weight * tl.exp(best - peak), 0))


def top_probability(logits: Tensor) -> Tensor:
    """See `kernels/draw/api.py`; rows of logits contiguous. NaN for a row without a law."""
    return _top_probability(logits, len(logits), None)


def confidence(logits: Tensor, first: Tensor, emitted: Tensor, wanted: Tensor) -> Tensor:
    """See `kernels/draw/api.py`; rows of logits contiguous. NaN for a row without a law."""
    check(logits, torch.int64, {"first": first, "emitted": emitted, "wanted": wanted})
    return _top_probability(logits, len(first), (first, emitted, wanted))


def _top_probability(logits: Tensor, n_rows: int, newest: tuple[Tensor, ...] | None) -> Tensor:
    check(logits, torch.float64, {})
    shape = shape_of(logits)
    out = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    if not n_rows:
        return out
    peaks, weights = torch.empty((2, n_rows, shape.n_spans), dtype=torch.float32, device=logits.device)
    _weights[(n_rows * shape.n_spans,)](
        logits, logits.stride(0), *(newest or (peaks, peaks, peaks)), peaks, weights, shape.vocab,
        NEWEST=newest is not None, N_SPANS=shape.n_spans, SPAN=SPAN, TILE=TILE, num_warps=WARPS,
    )  # fmt: skip
    _invert[(n_rows,)](peaks, weights, out, N_SPANS=shape.n_spans, SPANS=shape.spans, num_warps=1)
    return out
