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
    HKV: tl.constexpr, G: tl.constexpr, LIST_HEADS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCKS: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SCORE_ROWS: tl.constexpr, DIRECT: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write BLOCKS blocks of scores of one row and group; what the row does not hold, and rows not scored, stay.

    Each thread adds up its own positions, one scored query of one head after the other. No position is masked within a
    block: what a query does not see was kept as zero. Where DIRECT, each 32 positions of a block were kept as 4 × 4 × 2
    of what were 4 × 4 × 2 with the first two axes exchanged, and are put in order at the end.
    """
    row, group = tl.program_id(1), tl.program_id(2)
    live, start = tl.load(live_ptr + row).to(tl.int32), tl.load(start_ptr + row).to(tl.int32)
    first_token = tl.load(offset_ptr + row).to(tl.int64)
    wanted = (tl.load(scored_ptr + row) != 0) & (tl.load(sparse_ptr + row) == 0)
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    column = tl.arange(0, BLOCK_N)
    if wanted & (live > 0) & (tl.program_id(0) * BLOCKS * BLOCK_N < start + live):
        n_first = tl.minimum(FIRST, live)
        begin_last = tl.maximum(live - LAST, n_first)
        n_scored = n_first + live - begin_last
        total = tl.zeros([BLOCKS, BLOCK_N], tl.float32)
        for n in tl.range(0, LIST_HEADS * SCORE_ROWS, loop_unroll_factor=UNROLL):
            head, place, h = group * LIST_HEADS + n // SCORE_ROWS, n % SCORE_ROWS // G, n % G
            i = tl.where(place < n_first, place, begin_last + place - n_first)
            seen = block * BLOCK_N <= tl.where(place < n_scored, start + i, -1)
            at = ((row * HKV + head).to(tl.int64) * (s_cap // BLOCK_N) + block) * SCORE_ROWS + n % SCORE_ROWS
            high = tl.load(p_max_ptr + at, mask=seen, other=float("-inf"))
            p = tl.load(p_ptr + at[:, None] * BLOCK_N + column[None, :], mask=seen[:, None], other=0.0).to(tl.float32)
            lse = tl.load(lse_ptr + ((first_token + i) * HKV + head) * G + h, mask=place < n_scored, other=0.0)
            total += p * tl.exp2(high - lse * 1.4426950408889634)[:, None]
        total = total / (n_scored * (LIST_HEADS * G)).to(tl.float32)
        if DIRECT:
            total = tl.permute(tl.reshape(total, [BLOCKS * BLOCK_N // 32, 4, 4, 2]), [0, 2, 1, 3])
            total = tl.reshape(total, [BLOCKS, BLOCK_N])
        at = (group * n_rows + row).to(tl.int64) * s_cap + block[:, None] * BLOCK_N + column[None, :]
        tl.store(scores_ptr + at, total)
