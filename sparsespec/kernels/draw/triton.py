"""Implements `draw` for a GPU: no law is stored, and no number goes to the host.

Logits are float32, float16 or bfloat16. Each span of a row has a program (`triton_rows`): one launch finds the best
logit, one settles what the filters of a row keep (`triton_cut`; rows without top_k and top_p leave it at once), one
adds noise and takes the best of each span, one takes the best span. A row's result depends on that row only. What looks
at a law without drawing is in `triton_law`.

Noise is taken where a token could still win: `-log(E) <= -log(u)`, so a token at x passes a score `best` only if
`u <= exp(x - best)`. One fast exponential, with a margin, rules out nearly all; a tile where it does not takes quick
logarithms, and exact ones for the tokens that are the best by these within their error, nearly always one.

Bits of the noise are those of `core/noise.py`. Logarithms are taken in float64 and rounded to float32, twice, as the
reference rounds; torch's float32 logarithms on a CPU are within an ulp of that, and so is the noise (near a noise of 0,
within an ulp of 1). A token can differ from the reference's only where the best two scores are as close as that. Masses
are summed in float64, in another order than the reference's: they part where p falls on a sum to the last bit.

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
from sparsespec.kernels.draw.triton_cut import find_cut, key_of
from sparsespec.kernels.draw.triton_law import confidence as confidence
from sparsespec.kernels.draw.triton_law import law as law
from sparsespec.kernels.draw.triton_law import logprobs as logprobs
from sparsespec.kernels.draw.triton_law import top_probability as top_probability
from sparsespec.kernels.draw.triton_rows import SPAN, TILE, WARPS, best_logits, check, load, peak_of, shape_of

_LOWEST = tl.constexpr(-2.83)  # what the best token's score exceeds, whatever its noise
_REACH = tl.constexpr(22.9)  # more than any noise
_SLACK = tl.constexpr(0.004)  # more than four errors of the quick noise
_NO_TOKEN = tl.constexpr(2147483647)
_MARGIN = tl.constexpr(1.001)  # more than all errors of the quick test together


@triton.jit
def _uniform(bits):
    """Return min((bits + 1/2) / 2**32, 1 - 2**-24), float32, `bits` rounded first."""
    return tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994039535522)


@triton.jit
def _quick_gumbel(bits):
    """Return the noise of 32 random bits with an error below 0.001, by the fast logarithm."""
    u = _uniform(bits)
    small = u * (1.0 + u * (0.5 + u * (0.33333334 + u * 0.25)))
    return -tl.log(tl.where(u < 0.03125, small, -tl.log(1.0 - u)))


@triton.jit
def _gumbel(bits):
    """Return the noise of 32 random bits, float32; see `core.noise.from_bits`."""
    u = _uniform(bits).to(tl.float64)
    # the rounding of 1 - u cancels in the quotient
    w = 1.0 - u
    e = -tl.log(w) * (u / (1.0 - w))
    return (-tl.log(e.to(tl.float32).to(tl.float64))).to(tl.float32)


@triton.jit
def _bits(seed, sample, position, tag, start, TILE: tl.constexpr):
    """Return the noise bits [TILE] of the tokens from `start`, a multiple of four, on."""
    block = (start // 4 + tl.arange(0, TILE // 4)).to(tl.uint32)
    k0, k1 = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(block, position.to(tl.uint32), sample.to(tl.uint32), tag.to(tl.uint32), k0, k1)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (TILE,))


@triton.jit
def _sampled(logits, vocab, peak, t, cut, last, seed, sample, position, tag, first, end, TILE: tl.constexpr):
    """Return the best score of the tokens from `first` to `end`, and the lowest token that has it."""
    # Approximate: at most the true value where t or the quotient is no normal number, and within the margin elsewhere.
    scale = tl.minimum(1.0 / t, 1e38)
    floor = -(cut.to(tl.float32, bitcast=True) * _MARGIN + 1e-37)
    best = tl.full((), _LOWEST, tl.float32)
    token = tl.full((), _NO_TOKEN, tl.int32)
    for start in range(first, end, TILE):
        at = start + tl.arange(0, TILE)
        x = load(logits, at, vocab)
        near = (x - peak) * scale
        near = tl.where((near >= floor) & (x > float("-inf")), near, float("-inf"))
        if tl.max(near, 0) > best - _REACH:
            bits = _bits(seed, sample, position, tag, start, TILE)
            chance = tl.exp(tl.minimum(near - best, 80.0)) * (_MARGIN * 4294967296.0)
            if tl.max(((bits.to(tl.float32) <= chance) & (near > float("-inf"))).to(tl.int32), 0) > 0:
                key = key_of(x, peak, t)
                kept = (at < vocab) & (x > float("-inf")) & ((key < cut) | ((key == cut) & (at <= last)))
                score = tl.where(kept, _quick_gumbel(bits) - key.to(tl.float32, bitcast=True), float("-inf"))
                top = tl.maximum(tl.max(score, 0), best)
                left = tl.where(kept & (score >= top - _SLACK), at, _NO_TOKEN)
                this = tl.min(left, 0)
                # once, as a rule; an equal score of a later token does not win
                while this < _NO_TOKEN:
                    value = tl.max(tl.where(at == this, key, 0), 0).to(tl.float32, bitcast=True)
                    exact = _gumbel(tl.max(tl.where(at == this, bits, 0), 0)) - value
                    token = tl.where(exact > best, this, token)
                    best = tl.maximum(best, exact)
                    left = tl.where(left == this, _NO_TOKEN, left)
                    this = tl.min(left, 0)
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
