"""Finds what top_k, top_p and min_p keep of a row: all tokens with a key below `cut`, and those at `cut` up to an id.

A key is the processed logit as an integer, best first: 0 is the best logit, INFINITE_KEY a masked one. The search is a
bisection over keys, each round a sum over the row in an order that V fixes. It runs first on the head of the row: the
groups of tokens whose best token is among the best of all groups' (at most `HEAD` groups), where every token above the
last of these bests must lie. Keys of the head stay in registers. Where the head does not hold the cut, as for a top_k
or a nucleus of more tokens than there are groups in it, the row is read again in each round: slow, and as exact.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 32
"""Tokens of a group, whose best logit is stored."""
HEAD = 256
"""Groups of the head, at most."""
STREAMED_BLOCK = 2048
"""Tokens that a program reads at once where the head does not do."""
WARPS = 16

INFINITE_KEY = tl.constexpr(0x7F800000)  # the bits of infinity
_NO_KEY = tl.constexpr(0x7FFFFFFF)  # the key of what is no token
_COUNT = tl.constexpr(0)  # tokens with a key of at most the pivot
_MASS = tl.constexpr(1)  # their mass, of those up to the limit
_TIES = tl.constexpr(2)  # tokens at the limit with an id of at most the pivot


@triton.jit
def is_searched(temperature, top_k, top_p, vocab):
    """Return whether a row's filters need a search."""
    return (temperature.to(tl.float32) != 0.0) & (((top_k > 0) & (top_k < vocab)) | (top_p < 1.0))


@triton.jit
def key_of(x, peak, t):
    """Return the keys of logits: the bits of -(x - peak) / t, which is 0 or more, rounded as the reference rounds."""
    return (0.0 - tl.div_rn(x - peak, t)).to(tl.int32, bitcast=True)


@triton.jit
def _mass_of(keys):
    """Return exp(processed logit), float64."""
    return tl.exp(-(keys.to(tl.float32, bitcast=True).to(tl.float64)))


@triton.jit
def _tally(
    keys, ids, masses, logits, vocab, peak, t, pivot, limit,
    MODE: tl.constexpr, BLOCK: tl.constexpr, STREAMED: tl.constexpr,
):  # fmt: skip
    """Return the count or the mass that `MODE` names, of the head's tokens, or of the whole row's if `STREAMED`."""
    n = tl.full((), 0, tl.float64 if MODE == _MASS else tl.int32)
    for start in range(0, vocab if STREAMED else 1, BLOCK):
        if STREAMED:
            at = start + tl.arange(0, BLOCK)
            x = tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
            some = tl.where(at < vocab, key_of(x, peak, t), _NO_KEY)
            mass = _mass_of(some) if MODE == _MASS else some
        else:
            at, some, mass = ids, keys, masses
        if MODE == _COUNT:
            n += tl.sum((some <= pivot).to(tl.int32), 0)
        elif MODE == _MASS:
            n += tl.sum(tl.where(some <= tl.minimum(pivot, limit), mass, 0.0), 0)
        else:
            n += tl.sum(((some == limit) & (at <= pivot)).to(tl.int32), 0)
    return n


@triton.jit
def _crossing(
    keys, ids, masses, logits, vocab, peak, t, need, high, limit,
    MODE: tl.constexpr, BLOCK: tl.constexpr, STREAMED: tl.constexpr,
):  # fmt: skip
    """Return the lowest pivot in 0 … `high` whose tally reaches `need`, `high` if none does.

    For counts any other pivot of exactly that count will do.
    """
    low = tl.full((), 0, tl.int32)
    while low < high:
        pivot = low + ((high - low) >> 1)
        n = _tally(keys, ids, masses, logits, vocab, peak, t, pivot, limit, MODE, BLOCK, STREAMED)
        enough = n >= need
        low = tl.where(enough, low, pivot + 1)
        high = tl.where(enough, pivot, high)
        if MODE != _MASS:
            # what is kept is known: which of equal pivots is found changes nothing
            low = tl.where(n == need, high, low)
    return high


@triton.jit
def _search(keys, ids, logits, vocab, peak, t, top_k, top_p, bound, BLOCK: tl.constexpr, STREAMED: tl.constexpr):
    """Return the cut, the last id kept at the cut, and whether the keys up to `bound` hold the cut."""
    cut = tl.full((), INFINITE_KEY, tl.int32)
    last = tl.full((), 0, tl.int32) + vocab
    # no key is below 0: an empty head holds nothing
    found = (bound >= 0).to(tl.int32)
    by_rank = (top_k > 0) & (top_k < vocab)
    if by_rank & (found == 1):
        k = top_k.to(tl.int32)
        if _tally(keys, ids, keys, logits, vocab, peak, t, bound, bound, _COUNT, BLOCK, STREAMED) >= k:
            cut = _crossing(keys, ids, keys, logits, vocab, peak, t, k, bound, bound, _COUNT, BLOCK, STREAMED)
        else:
            found = tl.full((), 0, tl.int32)
    if (top_p < 1.0) & (found == 1):
        limit = tl.minimum(cut, bound)
        masses = _mass_of(keys)
        held = _tally(keys, ids, masses, logits, vocab, peak, t, limit, limit, _MASS, BLOCK, STREAMED)
        total = held
        # two ifs: `by_rank` is known at run time only
        if not STREAMED:  # noqa: SIM102
            if not by_rank:
                total = _tally(
                    keys, ids, masses, logits, vocab, peak, t, INFINITE_KEY, INFINITE_KEY, _MASS, BLOCK, True
                )
        need = top_p * total
        if held >= need:
            cut = _crossing(keys, ids, masses, logits, vocab, peak, t, need, limit, limit, _MASS, BLOCK, STREAMED)
            before = _tally(keys, ids, masses, logits, vocab, peak, t, cut - 1, limit, _MASS, BLOCK, STREAMED)
            ties = _tally(keys, ids, masses, logits, vocab, peak, t, vocab, cut, _TIES, BLOCK, STREAMED)
            each = _mass_of(cut)
            some = tl.ceil((need - before) / tl.where(each > 0.0, each, 1.0))
            some = tl.where(each > 0.0, tl.minimum(tl.maximum(some, 1.0), ties.to(tl.float64)), ties.to(tl.float64))
            if some < ties.to(tl.float64):
                n = some.to(tl.int32)
                last = _crossing(keys, ids, masses, logits, vocab, peak, t, n, last, cut, _TIES, BLOCK, STREAMED)
        else:
            found = tl.full((), 0, tl.int32)
    return cut, last, found


@triton.jit
def _head_bound(bests, HEAD: tl.constexpr):
    """Return a key that few groups' best keys reach: between half of `HEAD` and `HEAD` of them if that can be."""
    low = tl.full((), -1, tl.int32)
    high = tl.full((), INFINITE_KEY, tl.int32)
    n = tl.sum((bests <= high).to(tl.int32), 0)
    bound = tl.where(n <= HEAD, high, low)
    # n is the count at or below `low`, the largest known to be few enough
    n = tl.where(n <= HEAD, n, 0)
    while (bound < high) & (high - bound > 1) & (n < HEAD // 2):
        pivot = bound + ((high - bound) >> 1)
        m = tl.sum((bests <= pivot).to(tl.int32), 0)
        few = m <= HEAD
        bound = tl.where(few, pivot, bound)
        high = tl.where(few, high, pivot)
        n = tl.where(few, m, n)
    return bound


@triton.jit
def _head(
    logits, groups, heads, vocab, peak, t,
    N_GROUPS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Return the head's keys and ids [HEAD * GROUP], ids ascending, the highest key it has all of, and its groups."""
    group = tl.arange(0, GROUPS)
    best = tl.load(groups + group, mask=group < N_GROUPS, other=float("-inf"))
    bests = tl.where(group < N_GROUPS, key_of(best, peak, t), _NO_KEY)
    bound = _head_bound(bests, HEAD)
    chosen = bests <= bound
    index = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(heads + index, group, mask=chosen)
    # what other threads wrote is read below
    tl.debug_barrier()
    n = tl.sum(chosen.to(tl.int32), 0)
    place = tl.arange(0, HEAD * GROUP)
    mask = place // GROUP < n
    ids = tl.load(heads + place // GROUP, mask=mask, other=N_GROUPS) * GROUP + place % GROUP
    mask = mask & (ids < vocab)
    keys = key_of(tl.load(logits + ids, mask=mask, other=float("-inf")).to(tl.float32), peak, t)
    return tl.where(mask & (keys <= bound), keys, _NO_KEY), ids, bound, n


@triton.jit
def _cut(
    logits, stride, temperature, top_k_of, top_p_of, min_p_of, peaks, groups, heads, cuts, lasts, helds, vocab,
    N_SPANS: tl.constexpr, SPANS: tl.constexpr, N_GROUPS: tl.constexpr, GROUPS: tl.constexpr,
    GROUP: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write what `Cut` holds of each row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    span = tl.arange(0, SPANS)
    peak = tl.max(tl.load(peaks + row * N_SPANS + span, mask=span < N_SPANS, other=float("-inf")), 0)
    top_k, top_p, min_p = tl.load(top_k_of + row), tl.load(top_p_of + row), tl.load(min_p_of + row)
    t = tl.load(temperature + row).to(tl.float32)
    cut = tl.full((), INFINITE_KEY, tl.int32)
    last = tl.full((), 0, tl.int32) + vocab
    held = tl.full((), -1, tl.int32)
    if is_searched(t, top_k, top_p, vocab) & (tl.abs(peak) < float("inf")):
        keys, ids, bound, held = _head(
            logits, groups + row * N_GROUPS, heads + row * HEAD, vocab, peak, t, N_GROUPS, GROUPS, GROUP, HEAD
        )
        cut, last, found = _search(keys, ids, logits, vocab, peak, t, top_k, top_p, bound, BLOCK, False)
        if found == 0:
            all_keys = tl.full((), INFINITE_KEY, tl.int32)
            cut, last, _ = _search(keys, ids, logits, vocab, peak, t, top_k, top_p, all_keys, BLOCK, True)
            held = tl.full((), -1, tl.int32)
    if min_p > 0.0:
        floor = tl.maximum(0.0 - tl.log(min_p).to(tl.float32), 0.0).to(tl.int32, bitcast=True)
        last = tl.where(floor < cut, vocab, last)
        cut = tl.minimum(cut, floor)
    tl.store(cuts + row, cut)
    tl.store(lasts + row, last)
    tl.store(helds + row, held)


class Cut(NamedTuple):
    """What filters keep of each row.

    Attributes:
        keys: [T] int32, the cut.
        lasts: [T] int32, the last id kept at the cut.
        heads: [T, HEAD] int32, the groups of the head, ascending.
        helds: [T] int32, how many groups of the head hold all that is kept; -1 where that is not known.
    """

    keys: Tensor
    lasts: Tensor
    heads: Tensor
    helds: Tensor


def find_cut(
    logits: Tensor, filters: tuple[Tensor, Tensor, Tensor, Tensor], peaks: Tensor, groups: Tensor, spans: int
) -> Cut:
    """Return the cut of each row.

    Args:
        logits: [T, V], T at least 1.
        filters: temperature, top_k, top_p and min_p, as in `sample`.
        peaks: The best logit of each span, [T, n_spans].
        groups: The best logit of each group, [T, n_groups], in rows that are searched.
        spans: A power of two, at least n_spans.
    """
    (n_rows, vocab), n_groups = logits.shape, groups.shape[1]
    heads = torch.empty((n_rows, HEAD), dtype=torch.int32, device=logits.device)
    cuts, lasts, helds = torch.empty((3, n_rows), dtype=torch.int32, device=logits.device)
    _cut[(n_rows,)](
        logits, logits.stride(0), *filters, peaks, groups, heads, cuts, lasts, helds, vocab,
        N_SPANS=peaks.shape[1], SPANS=spans, N_GROUPS=n_groups, GROUPS=1 << (n_groups - 1).bit_length(),
        GROUP=GROUP, HEAD=HEAD, BLOCK=STREAMED_BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return Cut(cuts, lasts, heads, helds)
