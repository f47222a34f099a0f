"""Finds the best score of a span by what blocks of four tokens, which share a block of noise, can score at most.

Blocks are gone through by these bounds without a branch: a lane remembers its two best ones. Scores are taken only of
the tokens of those, as far as one of them could still win; a span is gone through once more, token by token, if a
lane's third block could.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from sparsespec.kernels.sample.triton_cut import INFINITE_KEY, key_of
from sparsespec.kernels.sample.triton_noise import gumbel, most_gumbel, noise_bits, quick_gumbel, words
from sparsespec.kernels.sample.triton_rows import load

LOWEST = tl.constexpr(-2.83)  # what the best token's score exceeds, whatever its noise
SLACK = tl.constexpr(0.004)  # more than four errors of the quick noise, or of a bound
NO_TOKEN = tl.constexpr(2147483647)
_MARGIN = tl.constexpr(1.001)  # more than the error of a quick quotient


@triton.jit
def scale_of(t):
    """Return nearly 1 / t, and at most what is finite."""
    return tl.minimum(1.0 / t, 1e38)


@triton.jit
def _tokens(start, QUADS: tl.constexpr):
    """Return the tokens [QUADS, 4] of blocks; `start` is as in `words`."""
    first = start + 4 * tl.arange(0, QUADS)
    return first[:, None] + tl.arange(0, 4)[None, :]


@triton.jit
def _lowest_of(at, chosen):
    """Return the lowest token [QUADS, 4] that is chosen, `NO_TOKEN` if none is."""
    return tl.min(tl.min(tl.where(chosen, at, NO_TOKEN), 1), 0)


@triton.jit
def _bounds(
    logits, vocab, peak, scale, cut, loud, seed, sample_index, position, tag, first, end, TILE: tl.constexpr,
):  # fmt: skip
    """Return the best logits of lanes, what the best three blocks of each score at most, and where the best two are.

    All [QUADS]; a score is `(logit - peak) * scale`, and noise if `loud`; none of what `cut` leaves out.
    """
    QUADS: tl.constexpr = TILE // 4
    floor = -(cut.to(tl.float32, bitcast=True) * _MARGIN + 1e-37)
    most1 = tl.full((QUADS,), float("-inf"), tl.float32)
    most2, most3, best = most1, most1, most1
    start1 = tl.full((QUADS,), 0, tl.int32) + first
    start2 = start1
    for start in range(first, end, TILE):
        at = _tokens(start, QUADS)
        x = tl.load(logits + at, mask=at < vocab, other=float("-inf"))
        # the best of each four, NaN if one is
        x, y = tl.split(tl.reshape(x, (QUADS, 2, 2)))
        x, y = tl.split(tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL))
        x = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL).to(tl.float32)
        best = tl.maximum(best, x, propagate_nan=tl.PropagateNan.ALL)
        near = (x - peak) * scale
        near = tl.where(near >= floor, near, float("-inf"))
        some = cut == INFINITE_KEY
        if cut != INFINITE_KEY:
            # filters leave nothing of most tiles
            some = tl.max(near, 0) > float("-inf")
        if some:
            most = near
            if loud:
                w0, w1, w2, w3 = words(seed, sample_index, position, tag, start, QUADS)
                most += most_gumbel(tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3)))
            start2 = tl.where(most > most1, start1, tl.where(most > most2, start, start2))
            start1 = tl.where(most > most1, start, start1)
            most3 = tl.maximum(most3, tl.minimum(most, most2))
            most2 = tl.maximum(most2, tl.minimum(most, most1))
            most1 = tl.maximum(most1, most)
    return best, most1, most2, most3, start1, start2


@triton.jit
def _judge(
    logits, vocab, peak, t, cut, last, seed, sample_index, position, tag, start, best, token, QUADS: tl.constexpr,
):  # fmt: skip
    """Return the best score, of `best` and those of the tokens of blocks, and the lowest token that has it."""
    at = _tokens(start, QUADS)
    x = load(logits, at, vocab)
    bits = noise_bits(seed, sample_index, position, tag, start, QUADS)
    key = key_of(x, peak, t)
    kept = (at < vocab) & (x > float("-inf")) & ((key < cut) | ((key == cut) & (at <= last)))
    score = tl.where(kept, quick_gumbel(bits) - key.to(tl.float32, bitcast=True), float("-inf"))
    top = tl.maximum(tl.max(tl.max(score, 1), 0), best)
    left = kept & (score >= top - SLACK)
    this = _lowest_of(at, left)
    # once, as a rule
    while this < NO_TOKEN:
        value = tl.max(tl.max(tl.where(at == this, key, 0), 1), 0).to(tl.float32, bitcast=True)
        exact = gumbel(tl.max(tl.max(tl.where(at == this, bits, 0), 1), 0)) - value
        token = tl.where((exact > best) | ((exact == best) & (this < token)), this, token)
        best = tl.maximum(best, exact)
        left = left & (at != this)
        this = _lowest_of(at, left)
    return best, token


@triton.jit
def sampled(logits, vocab, peak, t, cut, last, seed, sample_index, position, tag, first, end, TILE: tl.constexpr):
    """Return the best score of the tokens from `first` to `end`, and the lowest token that has it.

    If it is below all that the best token of the row can score, then a number below that.
    """
    QUADS: tl.constexpr = TILE // 4
    # Quotients are at most the true value where t or they are no normal number, and within the slack elsewhere.
    _, most1, most2, most3, start1, start2 = _bounds(
        logits, vocab, peak, scale_of(t), cut, True, seed, sample_index, position, tag, first, end, TILE
    )
    top1, top2, top3 = tl.max(most1, 0), tl.max(most2, 0), tl.max(most3, 0)
    best = tl.full((), LOWEST, tl.float32)
    token = tl.full((), NO_TOKEN, tl.int32)
    # turns are for the best blocks of all lanes, for the second best, and for all tiles
    turn = tl.full((), 0, tl.int32)
    turns = (top1 >= best - SLACK).to(tl.int32)
    while turn < turns:
        where = tl.where(turn == 0, start1, tl.where(turn == 1, start2, first + (turn - 2) * TILE))
        best, token = _judge(
            logits, vocab, peak, t, cut, last, seed, sample_index, position, tag, where, best, token, QUADS
        )
        turn += 1
        if turn == 1:
            turns += (top2 >= best - SLACK).to(tl.int32)
        if turn == 2:
            turns += tl.where(top3 >= best - SLACK, tl.cdiv(end - first, TILE), 0)
    return best, token


@triton.jit
def sampled_of_head(
    logits, vocab, peak, t, cut, last, seed, sample_index, position, tag, head, n_groups, first, step,
    TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Return what `sampled` returns, of each `step`-th tile from tile `first` on of the groups that `head` lists."""
    QUADS: tl.constexpr = TILE // 4
    best = tl.full((), LOWEST, tl.float32)
    token = tl.full((), NO_TOKEN, tl.int32)
    quads = 4 * tl.arange(0, QUADS)
    for start in range(first * TILE, n_groups * GROUP, step * TILE):
        place = start + quads
        mask = place < n_groups * GROUP
        group = tl.load(head + place // GROUP, mask=mask, other=0)
        where = tl.where(mask, group * GROUP + place % GROUP, vocab) - quads
        best, token = _judge(
            logits, vocab, peak, t, cut, last, seed, sample_index, position, tag, where, best, token, QUADS
        )
    return best, token


@triton.jit
def _quick(
    logits, vocab, scale, loud, seed, sample_index, position, tag, start, best, second, token, QUADS: tl.constexpr,
):  # fmt: skip
    """Return the best quick score, the second best, and the lowest token of the best, of what is given and blocks'."""
    at = _tokens(start, QUADS)
    score = load(logits, at, vocab) * scale
    if loud:
        score += quick_gumbel(noise_bits(seed, sample_index, position, tag, start, QUADS))
    # what was judged in another turn is not judged again
    score = tl.where((at < vocab) & (at != token), score, float("-inf"))
    top = tl.max(tl.max(score, 1), 0)
    this = _lowest_of(at, score == top)
    rest = tl.max(tl.max(tl.where(at == this, float("-inf"), score), 1), 0)
    second = tl.maximum(tl.maximum(second, rest), tl.minimum(best, top))
    token = tl.where((top > best) | ((top == best) & (this < token)), this, token)
    return tl.maximum(best, top), second, token


@triton.jit
def contenders(logits, vocab, scale, loud, seed, sample_index, position, tag, first, end, TILE: tl.constexpr):
    """Return the best logit from `first` to `end`, and of scores, `logit * scale` and noise, what `_quick` returns.

    No other score than the best is above the second best, or above the best less the slack.
    """
    QUADS: tl.constexpr = TILE // 4
    none = tl.full((), INFINITE_KEY, tl.int32)
    most, _, most2, most3, start1, start2 = _bounds(
        logits, vocab, 0.0, scale, none, loud, seed, sample_index, position, tag, first, end, TILE
    )
    peak = tl.max(tl.where(most == most, most, float("inf")), 0)
    top2, top3 = tl.max(most2, 0), tl.max(most3, 0)
    best = tl.full((), float("-inf"), tl.float32)
    second = best
    token = tl.full((), NO_TOKEN, tl.int32)
    turn = tl.full((), 0, tl.int32)
    turns = turn + 1
    while turn < turns:
        where = tl.where(turn == 0, start1, tl.where(turn == 1, start2, first + (turn - 2) * TILE))
        best, second, token = _quick(
            logits, vocab, scale, loud, seed, sample_index, position, tag, where, best, second, token, QUADS
        )
        turn += 1
        if turn == 1:
            turns += (top2 >= best - SLACK).to(tl.int32)
        if turn == 2:
            turns += tl.where(top3 >= best - SLACK, tl.cdiv(end - first, TILE), 0)
    return peak, best, second, token
