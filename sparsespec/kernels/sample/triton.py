"""Implements `sample` for a GPU: no distribution is stored, and no number goes to the host.

Logits are float32, float16 or bfloat16. Each span of a row has a program (`triton_rows`). One launch reads all rows: of
rows without filters it finds what can win in each span (`triton_blocks`), of others the best logits. One settles what
filters keep (`triton_cut`), one finds the best score of what they may keep, and one decides. Results of a row depend on
that row only. What looks at a distribution without sampling is in `triton_probs`.

Scores are rounded as the reference rounds them, which takes the row's best logit; before it is known, scores are quick
ones, whose errors are bounded, and what is within these of the best is looked at again.

A token can differ from the reference's only where the best two scores are as close as the rounding of a logarithm.
Masses are summed in float64, in another order than the reference's: they part where p falls on a sum to the last bit.

A row with NaN, with +inf or without a finite logit gets token 0.
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
from sparsespec.kernels.sample.triton_blocks import NO_TOKEN, SLACK, contenders, sampled, sampled_of_head, scale_of
from sparsespec.kernels.sample.triton_cut import GROUP, INFINITE_KEY, find_cut, is_searched, key_of
from sparsespec.kernels.sample.triton_noise import gumbel, words
from sparsespec.kernels.sample.triton_probs import confidence as confidence
from sparsespec.kernels.sample.triton_probs import logprobs as logprobs
from sparsespec.kernels.sample.triton_probs import probs as probs
from sparsespec.kernels.sample.triton_probs import top_probability as top_probability
from sparsespec.kernels.sample.triton_rows import SPAN, TILE, WARPS, check, peak_and_groups, peak_of, shape_of

_FARTHEST = tl.constexpr(2048.0)  # a score of which float32 still holds a fraction of the slack
_COLDEST = tl.constexpr(0.015625)  # temperatures below are rare, and their scores large


@triton.jit
def _is_plain(t, top_k, top_p, min_p, vocab):
    """Return whether a row has no filters: scores can be judged before its best logit is known."""
    return (t == 0.0) | ((t >= _COLDEST) & (min_p <= 0.0) & (is_searched(t, top_k, top_p, vocab) == 0))


@triton.jit
def _key_of_row(seed_of, sample_of, position_of, tag_of, row):
    return tl.load(seed_of + row), tl.load(sample_of + row), tl.load(position_of + row), tl.load(tag_of + row)


@triton.jit
def _scan(
    logits, stride, temperature, top_k_of, top_p_of, min_p_of, seed_of, sample_of, position_of, tag_of,
    peaks, groups, scores, seconds, tokens, vocab,
    N_SPANS: tl.constexpr, N_GROUPS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Find the best logit of each span, and the best quick scores of a plain row or the best logits of groups."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    logits += row * stride
    first, end = span * SPAN, tl.minimum(span * SPAN + SPAN, vocab)
    t, top_k, top_p = tl.load(temperature + row).to(tl.float32), tl.load(top_k_of + row), tl.load(top_p_of + row)
    if _is_plain(t, top_k, top_p, tl.load(min_p_of + row), vocab):
        seed, sample_index, position, tag = _key_of_row(seed_of, sample_of, position_of, tag_of, row)
        loud = t > 0.0
        scale = scale_of(tl.where(loud, t, 1.0))
        peak, best, second, token = contenders(
            logits, vocab, scale, loud, seed, sample_index, position, tag, first, end, TILE
        )
        tl.store(peaks + program, peak)
        tl.store(scores + program, best)
        tl.store(seconds + program, second)
        tl.store(tokens + program, token)
    else:
        wanted = is_searched(t, top_k, top_p, vocab)
        best = peak_and_groups(logits, groups + row * N_GROUPS, wanted, first, end, vocab, N_GROUPS, TILE, GROUP)
        tl.store(peaks + program, best)


@triton.jit
def _pick(
    logits, stride, temperature, top_k_of, top_p_of, min_p_of, seed_of, sample_of, position_of, tag_of,
    peaks, cuts, lasts, heads, helds, scores, tokens, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, HEAD: tl.constexpr,
    SPAN: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Find the best score of each span, or of its share of the head, and its token, of rows that are not plain."""
    program = tl.program_id(0).to(tl.int64)
    row, span = program // N_SPANS, (program % N_SPANS).to(tl.int32)
    t = tl.load(temperature + row).to(tl.float32)
    if _is_plain(t, tl.load(top_k_of + row), tl.load(top_p_of + row), tl.load(min_p_of + row), vocab) == 0:
        peak = peak_of(peaks, row, N_SPANS, SPANS)
        best = tl.full((), float("-inf"), tl.float32)
        token = tl.full((), 0, tl.int32)
        if tl.abs(peak) < float("inf"):
            seed, sample_index, position, tag = _key_of_row(seed_of, sample_of, position_of, tag_of, row)
            cut, last = tl.load(cuts + row), tl.load(lasts + row)
            held = tl.load(helds + row)
            if held >= 0:
                best, token = sampled_of_head(
                    logits + row * stride, vocab, peak, t, cut, last, seed, sample_index, position, tag,
                    heads + row * HEAD, held, span, N_SPANS, TILE, GROUP,
                )  # fmt: skip
            else:
                first, end = span * SPAN, tl.minimum(span * SPAN + SPAN, vocab)
                best, token = sampled(
                    logits + row * stride,
                    vocab,
                    peak,
                    t,
                    cut,
                    last,
                    seed,
                    sample_index,
                    position,
                    tag,
                    first,
                    end,
                    TILE,
                )
        tl.store(scores + program, best)
        tl.store(tokens + program, token)


@triton.jit
def _exact(
    logits, vocab, peak, t, seed, sample_index, position, tag, score, second, token,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return exact scores [SPANS] and their tokens, for quick ones: those of spans that cannot win are -inf."""
    span = tl.arange(0, SPANS)
    far = tl.maximum(peak, 0.0 - peak) * scale_of(t) > _FARTHEST
    least = tl.where(far, float("-inf"), tl.max(score, 0) - SLACK)
    again = (span < N_SPANS) & (score >= least) & (second >= least)
    can_win = (score >= least) & (token < vocab)
    x = tl.load(logits + token, mask=can_win, other=float("-inf")).to(tl.float32)
    w0, w1, w2, w3 = words(seed, sample_index, position, tag, token // 4 * 4 - 4 * span, SPANS)
    lane = token % 4
    bits = tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))
    value = key_of(tl.where(can_win, x, peak), peak, t).to(tl.float32, bitcast=True)
    exact = tl.where(can_win, gumbel(bits) - value, float("-inf"))
    none = tl.full((), INFINITE_KEY, tl.int32)
    for i in range(0, N_SPANS):
        if tl.max((again & (span == i)).to(tl.int32), 0) > 0:
            first, end = i * SPAN, tl.minimum(i * SPAN + SPAN, vocab)
            best, which = sampled(
                logits, vocab, peak, t, none, vocab, seed, sample_index, position, tag, first, end, TILE
            )
            exact = tl.where(span == i, best, exact)
            token = tl.where(span == i, which, token)
    return exact, token


@triton.jit
def _decide(
    logits, stride, temperature, top_k_of, top_p_of, min_p_of, seed_of, sample_of, position_of, tag_of,
    peaks, scores, seconds, tokens, out, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the token of the best span, the lowest of equal ones."""
    row = tl.program_id(0).to(tl.int64)
    here = row * N_SPANS + tl.arange(0, SPANS)
    mask = tl.arange(0, SPANS) < N_SPANS
    t = tl.load(temperature + row).to(tl.float32)
    peak = peak_of(peaks, row, N_SPANS, SPANS)
    score = tl.load(scores + here, mask=mask, other=float("-inf"))
    token = tl.load(tokens + here, mask=mask, other=NO_TOKEN)
    has_probs = tl.abs(peak) < float("inf")
    plain = _is_plain(t, tl.load(top_k_of + row), tl.load(top_p_of + row), tl.load(min_p_of + row), vocab)
    if has_probs & plain & (t > 0.0):
        seed, sample_index, position, tag = _key_of_row(seed_of, sample_of, position_of, tag_of, row)
        second = tl.load(seconds + here, mask=mask, other=float("-inf"))
        score, token = _exact(
            logits + row * stride, vocab, peak, t, seed, sample_index, position, tag, score, second, token,
            N_SPANS, SPANS, SPAN, TILE,
        )  # fmt: skip
    best = tl.max(score, 0)
    token = tl.min(tl.where(score == best, token, NO_TOKEN), 0)
    tl.store(out + row, tl.where(has_probs, token, 0).to(tl.int64))


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, key: Key) -> Tensor:
    """See `kernels/sample/api.py`; rows of logits contiguous. A row without a distribution gets token 0."""
    check(logits, torch.float64, {"temperature": temperature, "top_p": top_p, "min_p": min_p})
    check(logits, torch.int64, {"top_k": top_k, **key._asdict()})
    shape = shape_of(logits)
    out = torch.empty(shape.n_rows, dtype=torch.int64, device=logits.device)
    if not shape.n_rows:
        return out
    parts = (shape.n_rows, shape.n_spans)
    peaks, scores, seconds = torch.empty((3, *parts), dtype=torch.float32, device=logits.device)
    tokens = torch.empty(parts, dtype=torch.int32, device=logits.device)
    groups = torch.empty((shape.n_rows, shape.n_groups), dtype=torch.float32, device=logits.device)
    filters = temperature, top_k, top_p, min_p
    given = logits, logits.stride(0), *filters, *key
    sizes = {"N_SPANS": shape.n_spans, "SPAN": SPAN, "TILE": TILE, "num_warps": WARPS}
    _scan[(shape.n_rows * shape.n_spans,)](
        *given, peaks, groups, scores, seconds, tokens, shape.vocab, N_GROUPS=shape.n_groups, GROUP=GROUP, **sizes
    )
    cut = find_cut(logits, filters, peaks, groups, shape.spans)
    _pick[(shape.n_rows * shape.n_spans,)](
        *given, peaks, *cut, scores, tokens, shape.vocab,
        SPANS=shape.spans, HEAD=cut.heads.shape[1], GROUP=GROUP, **sizes,
    )  # fmt: skip
    _decide[(shape.n_rows,)](*given, peaks, scores, seconds, tokens, out, shape.vocab, SPANS=shape.spans, **sizes)
    return out
