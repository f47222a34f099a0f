"""The kernel behind the attention kernel: it turns kept probabilities into scores.

The attention kernel keeps, of each scored query, `p = exp2(x - m)` in half precision (float32 for float32 inputs) and
the running maximum m of each block, while K is on chip. Here the final LSE is known: a score is the sum of
`p · exp2(m - lse)` over scored queries and the heads of a group, divided by how many there are.
"""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def reduce_scores(
    scores_ptr, lse_ptr, p_ptr, p_max_ptr, scored_ptr, sparse_ptr, offset_ptr, start_ptr, live_ptr,
    n_rows, s_cap,
    HKV: tl.constexpr, G: tl.constexpr, LIST_HEADS: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SCORE_ROWS: tl.constexpr, SCORE_ROWS_P: tl.constexpr,
):  # fmt: skip
    """Write CHUNK scores of one row and group; what the row does not hold, and rows not scored, stay as they are."""
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    group = tl.program_id(2)
    live = tl.load(live_ptr + row).to(tl.int32)
    start = tl.load(start_ptr + row).to(tl.int32)
    end = start + live
    wanted = (tl.load(scored_ptr + row) != 0) & (tl.load(sparse_ptr + row) == 0)
    if wanted & (live > 0) & (chunk * CHUNK < end):
        n_first = tl.minimum(FIRST, live)
        begin_last = tl.maximum(live - LAST, n_first)
        n_scored = n_first + live - begin_last
        r = tl.arange(0, SCORE_ROWS_P)
        place = r // G
        i = tl.where(place < n_first, place, begin_last + place - n_first)
        used = (place < n_scored) & (r < SCORE_ROWS)
        now = start + i
        t = chunk * CHUNK + tl.arange(0, CHUNK)
        block = chunk * (CHUNK // BLOCK_N) + tl.arange(0, CHUNK // BLOCK_N)
        total = tl.zeros([CHUNK // BLOCK_N, BLOCK_N], tl.float32)
        first_token = tl.load(offset_ptr + row).to(tl.int64)
        for k in range(LIST_HEADS):
            head = group * LIST_HEADS + k
            lse = tl.load(lse_ptr + (first_token + i) * (HKV * G) + head * G + r % G, mask=used, other=0.0)
            lse = lse * 1.4426950408889634
            at = ((row * HKV + head) * SCORE_ROWS + r).to(tl.int64)
            high = tl.load(
                p_max_ptr + at[:, None] * (s_cap // BLOCK_N) + block[None, :],
                mask=used[:, None] & (block[None, :] * BLOCK_N <= now[:, None]), other=float("-inf"),
            )  # fmt: skip
            weight = tl.exp2(high - lse[:, None])
            seen = used[:, None] & (t[None, :] <= now[:, None])
            p = tl.load(p_ptr + at[:, None] * s_cap + t[None, :], mask=seen, other=0.0)
            p = tl.reshape(p.to(tl.float32), [SCORE_ROWS_P, CHUNK // BLOCK_N, BLOCK_N])
            total += tl.sum(p * weight[:, :, None], 0)
        total = total / (n_scored * (LIST_HEADS * G)).to(tl.float32)
        at_score = (group * n_rows + row).to(tl.int64) * s_cap
        tl.store(scores_ptr + at_score + t, tl.reshape(total, [CHUNK]), mask=t < s_cap)
