"""Implements `draw` for a GPU: no law is stored, and no number goes to the host.

Logits are float32, float16 or bfloat16. Each span of a row has a program (`triton_rows`): one launch finds the best
logit, one settles what the filters of a row keep (`triton_cut`; rows without top_k and top_p leave it at once), one
adds noise and takes the best of each span, one takes the best span. A row's result depends on that row only. What looks
at a law without drawing is in `triton_law`.

Noise is `-log(E) <= -log(u)`, so the best of the four tokens that share a block of noise scores at most the best logit
of the four, less the logarithm of the least u. Blocks are gone through by these bounds, without a branch: a lane
remembers its two best ones. Exact scores are taken only of those of their tokens that are the best by quick logarithms,
within their error; a span is gone through once more, token by token, if a lane's third block could hold the best.

A token can differ from the reference's only where the best two scores are as close as the rounding of a logarithm.
Masses are summed in float64, in another order than the reference's: they part where p falls on a sum to the last bit.

A row with NaN, with +inf or without a finite logit draws token 0.
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

from sparsespec.core.noise import Key
from sparsespec.kernels.draw.triton_cut import INFINITE_KEY, find_cut, key_of
from sparsespec.kernels.draw.triton_law import confidence as confidence
from sparsespec.kernels.draw.triton_law import law as law
from sparsespec.kernels.draw.triton_law import logprobs as logprobs
from sparsespec.kernels.draw.triton_law import top_probability as top_probability
from sparsespec.kernels.draw.triton_noise import gumbel, most_gumbel, noise_bits, quick_gumbel, words
from sparsespec.kernels.draw.triton_rows import SPAN, TILE, WARPS, best_logits, check, load, peak_of, shape_of

_LOWEST = tl.constexpr(-2.83)  # what the best token's score exceeds, whatever its noise
_SLACK = tl.constexpr(0.004)  # more than four errors of the quick noise, or of a bound
_NO_TOKEN = tl.constexpr(2147483647)
_MARGIN = tl.constexpr(1.001)  # more than the error of a quick quotient


@triton.jit
def _tokens(start, QUADS: tl.constexpr):
    """Return the tokens [QUADS, 4] of blocks; `start` is as in `words`."""
    first = start + 4 * tl.arange(0, QUADS)
    return first[:, None] + tl.arange(0, 4)[None, :]


@triton.jit
def _lowest_of(at, chosen):
    """Return the lowest token [QUADS, 4] that is chosen, `_NO_TOKEN` if none is."""
    return tl.min(tl.min(tl.where(chosen, at, _NO_TOKEN), 1), 0)


@triton.jit
def _judge(
    logits, vocab, peak, t, cut, last, seed, sample, position, tag, start, best, token, QUADS: tl.constexpr,
):  # fmt: skip
    """Return the best score, of `best` and those of the tokens of blocks, and the lowest token that has it."""
    at = _tokens(start, QUADS)
    x = load(logits, at, vocab)
    bits = noise_bits(seed, sample, position, tag, start, QUADS)
    key = key_of(x, peak, t)
    kept = (at < vocab) & (x > float("-inf")) & ((key < cut) | ((key == cut) & (at <= last)))
    score = tl.where(kept, quick_gumbel(bits) - key.to(tl.float32, bitcast=True), float("-inf"))
    top = tl.maximum(tl.max(tl.max(score, 1), 0), best)
    left = kept & (score >= top - _SLACK)
    this = _lowest_of(at, left)
    # once, as a rule
    while this < _NO_TOKEN:
        value = tl.max(tl.max(tl.where(at == this, key, 0), 1), 0).to(tl.float32, bitcast=True)
        exact = gumbel(tl.max(tl.max(tl.where(at == this, bits, 0), 1), 0)) - value
        token = tl.where((exact > best) | ((exact == best) & (this < token)), this, token)
        best = tl.maximum(best, exact)
        left = left & (at != this)
        this = _lowest_of(at, left)
    return best, token


@triton.jit
def _sampled(logits, vocab, peak, t, cut, last, seed, sample, position, tag, first, end, TILE: tl.constexpr):
    """Return the best score of the tokens from `first` to `end`, and the lowest token that has it."""
    QUADS: tl.constexpr = TILE // 4
    # Approximate: at most the true value where t or the quotient is no normal number, and within the slack elsewhere.
    scale = tl.minimum(1.0 / t, 1e38)
    floor = -(cut.to(tl.float32, bitcast=True) * _MARGIN + 1e-37)
    # what the best three blocks of each lane score at most, and where the first two of them are
    most1 = tl.full((QUADS,), float("-inf"), tl.float32)
    most2, most3 = most1, most1
    start1 = tl.full((QUADS,), 0, tl.int32) + first
    start2 = start1
    for start in range(first, end, TILE):
        at = _tokens(start, QUADS)
        x = tl.max(tl.load(logits + at, mask=at < vocab, other=float("-inf")), 1).to(tl.float32)
        near = (x - peak) * scale
        near = tl.where(near >= floor, near, float("-inf"))
        some = cut == INFINITE_KEY
        if cut != INFINITE_KEY:
            # filters leave nothing of most tiles
            some = tl.max(near, 0) > float("-inf")
        if some:
            w0, w1, w2, w3 = words(seed, sample, position, tag, start, QUADS)
            least = tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3))
            most = near + most_gumbel(least)
            start2 = tl.where(most > most1, start1, tl.where(most > most2, start, start2))
            start1 = tl.where(most > most1, start, start1)
            most3 = tl.maximum(most3, tl.minimum(most, most2))
            most2 = tl.maximum(most2, tl.minimum(most, most1))
            most1 = tl.maximum(most1, most)
    top1, top2, top3 = tl.max(most1, 0), tl.max(most2, 0), tl.max(most3, 0)
    best = tl.full((), _LOWEST, tl.float32)
    token = tl.full((), _NO_TOKEN, tl.int32)
    turn = tl.full((), 0, tl.int32)
    turns = (top1 > best - _SLACK).to(tl.int32)
    while turn < turns:
        again = first + (turn - 2) * TILE
        where = tl.where(turn == 0, start1, tl.where(turn == 1, start2, again))
        best, token = _judge(logits, vocab, peak, t, cut, last, seed, sample, position, tag, where, best, token, QUADS)
        turn += 1
        if turn == 1:
            turns = tl.where(top2 > best - _SLACK, 2, 1)
        if turn == 2:
            turns = tl.where(top3 > best - _SLACK, 2 + tl.cdiv(end - first, TILE), 2)
    return best, token


@triton.jit
def _greedy(logits, vocab, peak, first, end, TILE: tl.constexpr):
    """Return score 0 and the lowest token from `first` to `end` that has the best logit, if one has it."""
    least = tl.full((TILE,), _NO_TOKEN, tl.int32)
    for start in range(first, end, TILE):
        at = start + tl.arange(0, TILE)
        least = tl.minimum(least, tl.where((load(logits, at, vocab) == peak) & (at < vocab), at, _NO_TOKEN))
    token = tl.min(least, 0)
    return tl.where(token < vocab, 0.0, float("-inf")), token


@triton.jit
def _pick(
    logits, stride, temperature, seed_of, sample_of, position_of, tag_of, peaks, cuts, lasts, scores, tokens, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Find the best score of each span and its token."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    logits += row * stride
    first = span * SPAN
    end = tl.minimum(first + SPAN, vocab)
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    t = tl.load(temperature + row).to(tl.float32)
    best = tl.full((), float("-inf"), tl.float32)
    token = tl.full((), 0, tl.int32)
    if tl.abs(peak) < float("inf"):
        if t == 0.0:
            best, token = _greedy(logits, vocab, peak, first, end, TILE)
        else:
            seed, sample = tl.load(seed_of + row), tl.load(sample_of + row)
            position, tag = tl.load(position_of + row), tl.load(tag_of + row)
            cut, last = tl.load(cuts + row), tl.load(lasts + row)
            best, token = _sampled(logits, vocab, peak, t, cut, last, seed, sample, position, tag, first, end, TILE)
    tl.store(scores + program, best)
    tl.store(tokens + program, token)


@triton.jit
def _best_span(scores, tokens, out, N_SPANS: tl.constexpr, SPANS: tl.constexpr):
    """Write the token of the best span, the lowest of equal ones."""
    row = tl.program_id(0).to(tl.int64)
    span = tl.arange(0, SPANS)
    mask = span < N_SPANS
    score = tl.load(scores + row * N_SPANS + span, mask=mask, other=float("-inf"))
    token = tl.load(tokens + row * N_SPANS + span, mask=mask, other=_NO_TOKEN)
    best = tl.max(score, 0)
    token = tl.min(tl.where(score == best, token, _NO_TOKEN), 0)
    tl.store(out + row, tl.where(best > float("-inf"), token, 0).to(tl.int64))


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, key: Key) -> Tensor:
    """See `kernels/draw/api.py`; rows of logits contiguous. A row without a law draws token 0."""
    reals = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    check(logits, torch.float64, reals)
    check(logits, torch.int64, {"top_k": top_k, **key._asdict()})
    shape = shape_of(logits)
    out = torch.empty(shape.n_rows, dtype=torch.int64, device=logits.device)
    if not shape.n_rows:
        return out
    parts = (shape.n_rows, shape.n_spans)
    scores = torch.empty(parts, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(parts, dtype=torch.int32, device=logits.device)
    filters = temperature, top_k, top_p
    peaks, groups = best_logits(logits, shape, filters)
    cuts, lasts = find_cut(logits, (*filters, min_p), peaks, groups, shape.spans)
    _pick[(shape.n_rows * shape.n_spans,)](
        logits, logits.stride(0), temperature, *key, peaks, cuts, lasts, scores, tokens, shape.vocab,
        N_SPANS=shape.n_spans, SPANS=shape.spans, SPAN=SPAN, TILE=TILE, num_warps=WARPS,
    )  # fmt: skip
    _best_span[(shape.n_rows,)](scores, tokens, out, N_SPANS=shape.n_spans, SPANS=shape.spans, num_warps=1)
    return out
