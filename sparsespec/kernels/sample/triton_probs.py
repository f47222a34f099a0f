"""Looks at distributions without sampling: probabilities, that of the best token, log-probabilities of the best tokens.

The best tokens of a row are taken one by one: the best group of tokens is known beforehand, the best token of it is
found by reading the group, and what remains of the group then competes with the others again.

Logits are float32, float16 or bfloat16. A row with NaN, with +inf or without a finite logit has no distribution: NaN.
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

from sparsespec.kernels.sample.triton_cut import GROUP, find_cut, key_of
from sparsespec.kernels.sample.triton_rows import SPAN, TILE, WARPS, Shape, best_logits, check, load, peak_of, shape_of

TAKING_WARPS = 16
"""Warps of a program that keeps the best logits of all groups of a row in registers."""

_TAKEN = tl.constexpr(-2147483648)  # the rank of what is left where nothing is
_NO_TOKEN = tl.constexpr(2147483647)


@triton.jit
def _weights(
    logits, stride, firsts, emitteds, wanteds, peaks, weights, vocab,
    NEWEST: tl.constexpr, N_SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Find the best logit of each span, and sum exp(logit - best) over it.

    With `NEWEST`, for the logit row of the newest token of each row that is wanted; the others look like rows without a
    distribution.
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


@triton.jit
def _rank(x):
    """Return float32 numbers as integers in the same order, all above `_TAKEN`; 0 and -0 are equal."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _logprobs(
    logits, stride, chosens, peaks, weights, groups, ids, values, chosen_values, vocab, n,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, N_GROUPS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Write the log-probability of the chosen token of each row, and its `n` best tokens and theirs."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    span = tl.arange(0, SPANS)
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    total = tl.full((), 0.0, tl.float32)
    if tl.abs(peak) < float("inf"):
        weight = tl.load(weights + row * N_SPANS + span, mask=span < N_SPANS, other=0.0)
        best = tl.load(peaks + row * N_SPANS + span, mask=span < N_SPANS, other=float("-inf"))
        total = tl.log(tl.sum(weight * tl.exp(best - peak), 0))
    else:
        peak = tl.full((), float("nan"), tl.float32)
    tl.store(chosen_values + row, load(logits, tl.load(chosens + row), vocab) - peak - total)
    group = tl.arange(0, GROUPS)
    left = _rank(tl.load(groups + row * N_GROUPS + group, mask=group < N_GROUPS, other=0.0))
    left = tl.where(group < N_GROUPS, left, _TAKEN)
    last_rank, last = tl.full((), _TAKEN, tl.int32), tl.full((), -1, tl.int32)
    for i in range(0, n):
        most = tl.max(left, 0)
        where = tl.min(tl.where(left == most, group, _NO_TOKEN), 0)
        at = where * GROUP + tl.arange(0, GROUP)
        rank = tl.where(at < vocab, _rank(load(logits, at, vocab)), _TAKEN)
        # of equal ones those up to the last taken are gone
        gone = (most == last_rank) & (at <= last)
        token = tl.min(tl.where((rank == most) & (gone == 0), at, _NO_TOKEN), 0)
        tl.store(ids + row * n + i, token.to(tl.int64))
        tl.store(values + row * n + i, load(logits, token, vocab) - peak - total)
        behind = (rank < most) | ((rank == most) & (at > token))
        left = tl.where(group == where, tl.max(tl.where(behind, rank, _TAKEN), 0), left)
        last_rank, last = most, token


@triton.jit
def _mass(x, at, vocab, peak, t, cut, last):
    """Return exp(processed logit) of logits x [TILE], 0 where a filter masks."""
    key = key_of(x, peak, t)
    kept = (at < vocab) & (x > float("-inf")) & ((key < cut) | ((key == cut) & (at <= last)))
    return tl.where(kept, tl.exp(0.0 - key.to(tl.float32, bitcast=True)), 0.0)


@triton.jit
def _masses(
    logits, stride, temperature, peaks, cuts, lasts, masses, leasts, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sum the masses of each span; of a row of temperature 0, find the lowest token of each that has the best logit."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    logits += row * stride
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    t = tl.load(temperature + row).to(tl.float32)
    cut, last = tl.load(cuts + row), tl.load(lasts + row)
    total = tl.zeros((TILE,), tl.float32)
    least = tl.full((TILE,), _NO_TOKEN, tl.int32)
    if tl.abs(peak) < float("inf"):
        for start in range(span * SPAN, tl.minimum(span * SPAN + SPAN, vocab), TILE):
            at = start + tl.arange(0, TILE)
            x = load(logits, at, vocab)
            if t == 0.0:
                least = tl.minimum(least, tl.where((x == peak) & (at < vocab), at, _NO_TOKEN))
            else:
                total += _mass(x, at, vocab, peak, t, cut, last)
    tl.store(masses + program, tl.sum(total, 0))
    tl.store(leasts + program, tl.min(least, 0))


@triton.jit
def _probs(
    logits, stride, temperature, peaks, cuts, lasts, masses, leasts, out, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of each span, NaN without a finite best logit."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    logits += row * stride
    out += row * vocab
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    t = tl.load(temperature + row).to(tl.float32)
    cut, last = tl.load(cuts + row), tl.load(lasts + row)
    spans = tl.arange(0, SPANS)
    total = tl.sum(tl.load(masses + row * N_SPANS + spans, mask=spans < N_SPANS, other=0.0), 0)
    least = tl.min(tl.load(leasts + row * N_SPANS + spans, mask=spans < N_SPANS, other=_NO_TOKEN), 0)
    for start in range(span * SPAN, tl.minimum(span * SPAN + SPAN, vocab), TILE):
        at = start + tl.arange(0, TILE)
        p = tl.full((TILE,), float("nan"), tl.float32)
        if tl.abs(peak) < float("inf"):
            if t == 0.0:
                p = tl.where(at == least, 1.0, 0.0)
            else:
                p = tl.div_rn(_mass(load(logits, at, vocab), at, vocab, peak, t, cut, last), total)
        tl.store(out + at, p, mask=at < vocab)


def probs(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """See `kernels/sample/api.py`; rows of logits contiguous. NaN for a row without a distribution."""
    check(logits, torch.float64, {"temperature": temperature, "top_p": top_p, "min_p": min_p})
    check(logits, torch.int64, {"top_k": top_k})
    shape = shape_of(logits)
    out = torch.empty((shape.n_rows, shape.vocab), dtype=torch.float32, device=logits.device)
    if not shape.n_rows:
        return out
    filters = temperature, top_k, top_p
    peaks, groups = best_logits(logits, shape, filters)
    cut = find_cut(logits, (*filters, min_p), peaks, groups, shape.spans)
    masses, leasts = torch.empty_like(peaks), torch.empty_like(peaks, dtype=torch.int32)
    sizes = {"N_SPANS": shape.n_spans, "SPANS": shape.spans, "SPAN": SPAN, "TILE": TILE, "num_warps": WARPS}
    given = logits, logits.stride(0), temperature, peaks, cut.keys, cut.lasts, masses, leasts
    _masses[(shape.n_rows * shape.n_spans,)](*given, shape.vocab, **sizes)
    _probs[(shape.n_rows * shape.n_spans,)](*given, out, shape.vocab, **sizes)
    return out


def top_probability(logits: Tensor) -> Tensor:
    """See `kernels/sample/api.py`; rows of logits contiguous. NaN for a row without a distribution."""
    return _top_probability(logits, len(logits), None)


def confidence(logits: Tensor, first: Tensor, emitted: Tensor, wanted: Tensor) -> Tensor:
    """See `kernels/sample/api.py`; rows of logits contiguous. NaN for a row without a distribution."""
    check(logits, torch.int64, {"first": first, "emitted": emitted, "wanted": wanted})
    return _top_probability(logits, len(first), (first, emitted, wanted))


def _top_probability(logits: Tensor, n_rows: int, newest: tuple[Tensor, ...] | None) -> Tensor:
    check(logits, torch.float64, {})
    shape = shape_of(logits)
    out = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    if not n_rows:
        return out
    peaks, weights = _weights_of(logits, shape, n_rows, newest)
    _invert[(n_rows,)](peaks, weights, out, N_SPANS=shape.n_spans, SPANS=shape.spans, num_warps=1)
    return out


def logprobs(logits: Tensor, chosen: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels/sample/api.py`; rows of logits contiguous. NaN for a row without a distribution."""
    check(logits, torch.int64, {"chosen": chosen})
    shape = shape_of(logits)
    n_rows, device = shape.n_rows, logits.device
    ids = torch.empty((n_rows, n), dtype=torch.int64, device=device)
    values = torch.empty((n_rows, n), dtype=torch.float32, device=device)
    chosen_value = torch.empty(n_rows, dtype=torch.float32, device=device)
    if not n_rows:
        return ids, values, chosen_value
    none = torch.zeros(n_rows, dtype=torch.float64, device=device)
    # filters of a row that is searched, which is one whose groups are wanted
    _, groups = best_logits(logits, shape, (none + 1, torch.zeros_like(chosen), none))
    peaks, weights = _weights_of(logits, shape, n_rows, None)
    _logprobs[(n_rows,)](
        logits, logits.stride(0), chosen, peaks, weights, groups, ids, values, chosen_value, shape.vocab, n,
        N_SPANS=shape.n_spans, SPANS=shape.spans, N_GROUPS=shape.n_groups,
        GROUPS=1 << (shape.n_groups - 1).bit_length(), GROUP=GROUP, num_warps=TAKING_WARPS,
    )  # fmt: skip
    return ids, values, chosen_value


def _weights_of(logits: Tensor, shape: Shape, n_rows: int, newest: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor]:
    """Return the best logits and the weights of spans, [n_rows, n_spans]; of the `newest` rows if there are such."""
    peaks, weights = torch.empty((2, n_rows, shape.n_spans), dtype=torch.float32, device=logits.device)
    _weights[(n_rows * shape.n_spans,)](
        logits, logits.stride(0), *(newest or (peaks, peaks, peaks)), peaks, weights, shape.vocab,
        NEWEST=newest is not None, N_SPANS=shape.n_spans, SPAN=SPAN, TILE=TILE, num_warps=WARPS,
    )  # fmt: skip
    return peaks, weights
