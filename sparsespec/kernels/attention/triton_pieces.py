"""Small pieces of the attention kernel: the rule of the fold, the places of scored queries, and prefetching."""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

TOUCH = tl.constexpr("prefetch.global.L2 [$1]; mov.b32 $0, 0;")


@triton.jit
def finite(m):
    """Return m, with 0 for -inf, so that differences of maxima are never NaN."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def folded(m, lsum, acc, m2, lsum2, acc2):
    """Fold a split (m2, lsum2, acc2) into what lies left of it; maxima are in log2 units.

    Written with explicit fused multiply-adds, so that every kernel that inlines it rounds alike.
    """
    high = tl.maximum(m, m2)
    a, b = tl.exp2(m - finite(high)), tl.exp2(m2 - finite(high))
    lsum = tl.fma(lsum, a, lsum2 * b)
    acc = tl.fma(acc, tl.broadcast_to(a[:, None], acc.shape), acc2 * b[:, None])
    return high, lsum, acc


@triton.jit
def scored_slot(i, live, FIRST: tl.constexpr, LAST: tl.constexpr):
    """Return the place of query i among the scored ones of its row, and whether it is one."""
    n_first = tl.minimum(FIRST, live)
    begin_last = tl.maximum(live - LAST, n_first)
    slot = tl.where(i < n_first, i, n_first + i - begin_last)
    return slot, (i < live) & ((i < n_first) | (i >= begin_last))


@triton.jit
def score_rows(
    entry, head, i, h, live, scored_ptr, HKV: tl.constexpr, G: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SCORE_ROWS: tl.constexpr, SCORED: tl.constexpr,
):  # fmt: skip
    """Return where the probabilities of the tile's rows are kept, -1 for those that are not."""
    kept = tl.full(i.shape, -1, tl.int32)
    if SCORED:
        row = tl.load(entry)
        place, is_scored = scored_slot(i, live, FIRST, LAST)
        is_scored = is_scored & (tl.load(scored_ptr + row) != 0)
        kept = tl.where(is_scored, (row * HKV + head) * SCORE_ROWS + place * G + h, -1)
    return kept


@triton.jit
def fetch(at):
    """Bring these addresses into the L2 cache; nothing waits for them."""
    tl.inline_asm_elementwise(TOUCH, "=r,l", [at.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def fetch_first(work_ptr, count_ptr, tail_ptr, n_seats, HKV: tl.constexpr):
    """Fetch what a program's first item needs if all rows are sparse and in the order of seats: a harmless guess."""
    seat = tl.minimum(tl.program_id(0) // HKV, n_seats - 1)
    fetch(work_ptr + seat * 8)
    fetch(count_ptr + seat)
    fetch(tail_ptr + seat)


@triton.jit
def fetch_lists(listed, table, n_listed, n_blocks):
    """Fetch the first 1,024 chosen positions and pages of a row, which its first block of loads depends on."""
    near = tl.arange(0, 128) * 8
    fetch(listed + tl.minimum(near, n_listed - 1))
    fetch(table + tl.minimum(near, n_blocks - 1))
