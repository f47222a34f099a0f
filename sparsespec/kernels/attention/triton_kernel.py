"""The attention kernel: persistent over a work list, one item being a tile of queries, one KV head and KV splits.

All rows look alike in here. What a row reads is a list of entries: its chosen positions (none for a dense row), then
the contiguous tail; entry → position → page table → slot. The G query heads of a KV head and the queries of a row are
packed into rows of a tile, `query * G + head`, so that K and V are read once for all of them.

Why the result of a query is the same bits in any company: entries are cut into splits, and splits into blocks, at fixed
multiples of constants; every tile has the same shape, so every query meets the same instructions, whatever fills the
other rows; blocks that a query cannot see multiply by one and add zero; and splits are folded from the left with
`folded`, in registers when the item owns all splits of its queries, and by the combine kernel otherwise.
"""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def finite(m):
    """Return m, with 0 for -inf, so that differences of maxima are never NaN."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def folded(m, lsum, acc, m2, lsum2, acc2):
    """Fold a split (m2, lsum2, acc2) into what stands left of it; maxima are in log2 units.

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
def where_is(e, inside, listed, count, tail, table, PAGE: tl.constexpr, SPARSE: tl.constexpr):
    """Return position and slot of list entries."""
    position = e
    if SPARSE:
        position = tl.load(listed + e, mask=e < count, other=0).to(tl.int32)
        position = tl.where(e < count, position, tail + e - count)
    page = tl.load(table + position // PAGE, mask=inside, other=0)
    return position, page.to(tl.int64) * PAGE + position % PAGE


@triton.jit
def one_split(
    q, now, k_head, v_head, table, listed, count, tail, lo, hi, score_row, p_ptr, p_max_ptr,
    scale_log2, stride_slot, s_cap,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SPARSE: tl.constexpr, SCORED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend a tile to the entries lo … hi - 1; return maximum, sum and weighted values, neither folded nor divided."""
    d = tl.arange(0, D)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    lsum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    any_scored = tl.max(score_row, 0) >= 0
    for at in range(lo, hi, BLOCK_N):
        e = at + tl.arange(0, BLOCK_N)
        inside = e < hi
        position, slot = where_is(e, inside, listed, count, tail, table, PAGE, SPARSE)
        at_kv = (slot * stride_slot)[:, None] + d[None, :]
        k = tl.load(k_head + at_kv, mask=inside[:, None], other=0.0)
        x = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        x = tl.where(inside[None, :] & (position[None, :] <= now[:, None]), x, float("-inf"))
        high = tl.maximum(m, tl.max(x, 1) * scale_log2)
        base = finite(high)
        scales = tl.full(x.shape, 1.0, tl.float32) * scale_log2
        p = tl.exp2(tl.fma(x, scales, -tl.broadcast_to(base[:, None], x.shape)))
        alpha = tl.exp2(m - base)
        lsum = lsum * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        v = tl.load(v_head + at_kv, mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
        m = high
        if SCORED:  # noqa: SIM102 - the inner condition is known on the device only
            if any_scored:
                p_at = p_ptr + score_row.to(tl.int64)[:, None] * s_cap + e[None, :]
                tl.store(p_at, p.to(p_ptr.dtype.element_ty), mask=(score_row >= 0)[:, None] & inside[None, :])
                p_max_at = p_max_ptr + score_row.to(tl.int64) * (s_cap // BLOCK_N) + at // BLOCK_N
                tl.store(p_max_at, high, mask=score_row >= 0)
    return m, lsum, acc


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, work_ptr, total_ptr, row_ptr, table_ptr, scored_ptr,
    chosen_ptr, count_ptr, tail_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, p_ptr, p_max_ptr,
    scale_log2, stride_qn, stride_slot, stride_table, stride_list, stride_seat, s_cap,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, LIST_HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, SPARSE: tl.constexpr, SCORED: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SCORE_ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Run every item of the dense rows, or of the sparse ones, which own their only split, however long."""
    n_dense = tl.load(total_ptr)
    begin = n_dense if SPARSE else 0
    end = tl.load(total_ptr + 1) if SPARSE else n_dense
    for item in range(begin * HKV + tl.program_id(0), end * HKV, tl.num_programs(0)):
        entry = work_ptr + item // HKV * 8
        head = item % HKV
        split, n_splits = tl.load(entry + 2), tl.load(entry + 3)
        seat, live = tl.load(entry + 4).to(tl.int64), tl.load(entry + 7)
        packed = tl.load(entry + 1) * BLOCK_M + tl.arange(0, BLOCK_M)
        i, h = packed // G, head * G + packed % G
        token = (tl.load(entry + 5) + i).to(tl.int64)
        start = tl.load(entry + 6)
        at_q = token[:, None] * stride_qn + h[:, None] * D + tl.arange(0, D)[None, :]
        q = tl.load(q_ptr + at_q, mask=(i < live)[:, None], other=0.0)
        now = tl.where(i < live, start + i, -1)
        listed, count, tail = chosen_ptr, 0, 0
        if SPARSE:
            listed += (head // LIST_HEADS).to(tl.int64) * stride_list + seat * stride_seat
            count, tail = tl.load(count_ptr + seat).to(tl.int32), tl.load(tail_ptr + seat).to(tl.int32)
        score_row = tl.full([BLOCK_M], -1, tl.int32)
        if SCORED:
            row = tl.load(entry)
            place, is_scored = scored_slot(i, live, FIRST, LAST)
            is_scored = is_scored & (tl.load(scored_ptr + row) != 0)
            score_row = tl.where(is_scored, (row * HKV + head) * SCORE_ROWS + place * G + packed % G, -1)
        # entries that the last query of this tile can see
        n_seen = count + start + tl.minimum(live, tl.max(i, 0) + 1) - tail
        m = tl.full([BLOCK_M], float("-inf"), tl.float32)
        lsum, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)
        for s in range(tl.maximum(split, 0), tl.where(split < 0, n_splits, split + 1)):
            m2, l2, acc2 = one_split(
                q, now, k_ptr + head * D, v_ptr + head * D, table_ptr + seat * stride_table, listed, count, tail,
                0 if SPARSE else s * SPLIT, n_seen if SPARSE else tl.minimum(n_seen, s * SPLIT + SPLIT),
                score_row, p_ptr, p_max_ptr, scale_log2, stride_slot, s_cap,
                D, PAGE, BLOCK_M, BLOCK_N, SPARSE, SCORED, PRECISION,
            )  # fmt: skip
            if SPARSE:
                m, lsum, acc = m2, l2, acc2
            else:
                m, lsum, acc = folded(m, lsum, acc, m2, l2, acc2)
        finish(
            m, lsum, acc, entry, head, row_ptr, out_ptr, lse_ptr, part_acc_ptr, part_m_ptr, part_l_ptr,
            HKV, G, BLOCK_M, D,
        )  # fmt: skip


@triton.jit
def finish(
    m, lsum, acc, entry, head, row_ptr, out_ptr, lse_ptr, part_acc_ptr, part_m_ptr, part_l_ptr,
    HKV: tl.constexpr, G: tl.constexpr, BLOCK_M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write the result of an item that owns its splits, or the partial of one that does not.

    The entry is read again, rather than kept in registers that the loops need.
    """
    row, tile, split, n_splits = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    offset, live = tl.load(entry + 5), tl.load(entry + 7)
    lane, d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    packed = tile * BLOCK_M + lane
    real = packed // G < live
    if split < 0:
        at_out = (offset + packed // G).to(tl.int64) * (HKV * G) + head * G + packed % G
        lsum = tl.where(real, lsum, 1.0)
        out = (acc / lsum[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + at_out[:, None] * D + d[None, :], out, mask=real[:, None])
        tl.store(lse_ptr + at_out, (m + tl.log2(lsum)) * 0.6931471805599453, mask=real)
    else:
        part = tl.load(row_ptr + row * 4) + tile * n_splits + split
        at_part = (part * HKV + head).to(tl.int64) * BLOCK_M + lane
        tl.store(part_acc_ptr + at_part[:, None] * D + d[None, :], acc, mask=real[:, None])
        tl.store(part_m_ptr + at_part, m, mask=real)
        tl.store(part_l_ptr + at_part, lsum, mask=real)
