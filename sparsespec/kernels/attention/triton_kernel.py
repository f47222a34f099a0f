"""The attention kernel: persistent over a work list, one item being a tile of queries, one KV head and KV splits.

All rows look alike in here. What a row reads is a list of entries: its chosen positions (none for a dense row), then
the contiguous tail; entry → position → page table → slot. The G query heads of a KV head and the queries of a row are
packed into rows of a tile, `query * G + head`, so that K and V are read once for all of them.

Why the result of a query is the same bits in any company: entries are cut into splits, and splits into blocks, at fixed
multiples of constants; every query meets the same instructions in the same order, whatever fills the other rows of its
tile; blocks that a query cannot see multiply by one and add zero; and splits are folded from the left with
`folded`, in registers when the item owns all splits of its queries, and otherwise by whichever of their items is the
last to arrive. Tiles come in two heights, for rows of few and of many queries; that both give the same bits is a fact
about the tensor cores of a Hopper GPU, where products of 16, 64 and 128 rows were measured to agree, and tested here.
"""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from sparsespec.kernels.attention.triton_pieces import fetch_first, fetch_lists, finite, folded, score_rows

NARROW = tl.constexpr(0)
WIDE = tl.constexpr(1)
SPARSE = tl.constexpr(2)
"""The kinds of rows: dense ones of few queries, dense ones of many, sparse ones; a launch runs the list of one kind."""


@triton.jit
def where_is(e, inside, listed, count, tail, table, PAGE: tl.constexpr, SPARSE: tl.constexpr):
    """Return position and slot of list entries."""
    position = e
    if SPARSE:
        position = tl.load(listed + e, mask=e < count, other=0).to(tl.int32)
        position = tl.where(e < count, position, tail + e - count)
    page = tl.load(table + position // PAGE, mask=inside, other=0)
    return position, page.to(tl.int64) * PAGE + position % PAGE


STORE_PAIRS = tl.constexpr(
    "{ .reg .pred w0, w1; .reg .b64 a0, a1, lane; .reg .b32 l;"
    " mov.u32 l, %laneid; and.b32 l, l, 3; mul.wide.u32 lane, l, 16;"
    " setp.ne.s64 w0, $4, 0; setp.ne.s64 w1, $6, 0; add.s64 a0, $4, lane; add.s64 a1, $6, lane;"
    " @w0 st.global.v4.b32 [a0], {$20, $22, $24, $26}; @w1 st.global.v4.b32 [a1], {$21, $23, $25, $27};"
    " mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; }"
)
PAIRS_TAKE = tl.constexpr(",".join(["=r"] * 4 + ["l"] * 16 + ["r"] * 8))
STORE_ONE = tl.constexpr("{ .reg .pred w; setp.ne.s64 w, $1, 0; @w st.global.f32 [$1], $2; mov.b32 $0, 0; }")


@triton.jit
def keep_scored(
    p, high, score_row, at, p_ptr, p_max_ptr, s_cap,
    BLOCK_N: tl.constexpr, SCORE_ROWS: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """Keep p and the running maximum of the scored rows of a tile for `reduce_scores`; `at` is the block's first entry.

    All that is kept of a block lies together, [SCORE_ROWS, BLOCK_N]: memory is written in few large pieces.

    With DIRECT each thread writes what it holds after a tensor-core product: of each 32 columns of a row, the four
    threads of a quad hold two neighbours in every eight, and write them side by side, 64 bytes in all, in the order
    that `reduce_scores` calls kept. A `tl.store` would bring the whole tile into the order of memory first, through
    shared memory that the load pipeline needs, for one row in eight. The interpreter knows no assembly.
    """
    column = tl.arange(0, BLOCK_N)[None, :]
    p = p.to(p_ptr.dtype.element_ty)
    wanted = score_row >= 0
    row, r = (score_row // SCORE_ROWS).to(tl.int64), score_row % SCORE_ROWS
    max_at = p_max_ptr + (row * (s_cap // BLOCK_N) + at // BLOCK_N) * SCORE_ROWS + r
    p_at = p_ptr + ((row * (s_cap // BLOCK_N) + at // BLOCK_N) * SCORE_ROWS + r) * BLOCK_N
    if DIRECT:
        block_at = tl.where(wanted, p_at.to(tl.int64), 0)[:, None] + tl.where(wanted[:, None], column // 32 * 64, 0)
        tl.inline_asm_elementwise(STORE_PAIRS, PAIRS_TAKE, [block_at, p], dtype=tl.int8, is_pure=False, pack=16)
        max_at = tl.where(wanted, max_at.to(tl.int64), 0)
        tl.inline_asm_elementwise(STORE_ONE, "=r,l,f", [max_at, high], dtype=tl.int32, is_pure=False, pack=1)
    else:
        tl.store(p_at[:, None] + column, p, mask=wanted[:, None])
        tl.store(max_at, high, mask=wanted)


@triton.jit
def blocks(
    m, lsum, acc, q, now, k_head, v_head, table, listed, count, tail, lo, hi, score_row, p_ptr, p_max_ptr,
    scale_log2, stride_slot, s_cap,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, SPARSE: tl.constexpr, MASKED: tl.constexpr,
    SCORED: tl.constexpr, SCORE_ROWS: tl.constexpr, DIRECT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take in the blocks of the entries lo … hi - 1; without MASKED every query sees all of them."""
    d = tl.arange(0, D)
    for at in range(lo, hi, BLOCK_N):
        e = at + tl.arange(0, BLOCK_N)
        inside = (e < hi) | (not MASKED)
        position, slot = where_is(e, inside, listed, count, tail, table, PAGE, SPARSE)
        at_kv = (slot * stride_slot)[:, None] + d[None, :]
        k = tl.load(k_head + at_kv, mask=inside[:, None], other=0.0)
        x = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if MASKED:
            x = tl.where(inside[None, :] & (position[None, :] <= now[:, None]), x, float("-inf"))
        high = tl.maximum(m, tl.max(x, 1) * scale_log2)
        base = finite(high)
        scales = tl.full(x.shape, 1.0, tl.float32) * scale_log2
        p = tl.exp2(tl.fma(x, scales, -tl.broadcast_to(base[:, None], x.shape)))
        alpha = tl.exp2(m - base)
        lsum = lsum * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        if SCORED:
            keep_scored(p, high, score_row, at, p_ptr, p_max_ptr, s_cap, BLOCK_N, SCORE_ROWS, DIRECT)
        v = tl.load(v_head + at_kv, mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
        m = high
    return m, lsum, acc


@triton.jit
def one_split(
    q, now, i, start, k_head, v_head, table, listed, count, tail, s, n_seen,
    score_row, p_ptr, p_max_ptr, scale_log2, stride_slot, s_cap,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr,
    LIST: tl.constexpr, SCORED: tl.constexpr, SCORE_ROWS: tl.constexpr, DIRECT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend a tile to split s; return maximum, sum and weighted values, neither folded nor divided."""
    lo = 0 if LIST == SPARSE else s * SPLIT
    hi = n_seen if LIST == SPARSE else tl.minimum(n_seen, s * SPLIT + SPLIT)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    lsum, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)
    if LIST == WIDE:
        # up to the first query of the tile there is nothing to mask: no test, for most of a long prompt
        open_to = lo + tl.maximum(tl.minimum(hi, start + tl.min(i, 0) + 1) - lo, 0) // BLOCK_N * BLOCK_N
        m, lsum, acc = blocks(
            m, lsum, acc, q, now, k_head, v_head, table, listed, count, tail, lo, open_to,
            score_row, p_ptr, p_max_ptr, scale_log2, stride_slot, s_cap,
            D, PAGE, BLOCK_N, False, False, SCORED, SCORE_ROWS, DIRECT, PRECISION,
        )  # fmt: skip
        lo = open_to
    return blocks(
        m, lsum, acc, q, now, k_head, v_head, table, listed, count, tail, lo, hi,
        score_row, p_ptr, p_max_ptr, scale_log2, stride_slot, s_cap,
        D, PAGE, BLOCK_N, LIST == SPARSE, True, SCORED, SCORE_ROWS, DIRECT, PRECISION,
    )  # fmt: skip


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, work_ptr, total_ptr, first_part_ptr, row_of_ptr, table_ptr, scored_ptr,
    chosen_ptr, count_ptr, tail_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, arrived_ptr, p_ptr, p_max_ptr,
    scale_log2, stride_qn, stride_slot, stride_table, stride_list, stride_seat, s_cap, n_seats, n_listed, n_blocks,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, LIST_HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, LIST: tl.constexpr, SCORED: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, SCORE_ROWS: tl.constexpr, DIRECT: tl.constexpr, PRECISION: tl.constexpr,
    HEADS_P: tl.constexpr, SEVERAL: tl.constexpr, FETCH: tl.constexpr,
):  # fmt: skip
    """Run every item of one list; the launch for narrow rows also clears dead queries. Sparse rows have one split."""
    if LIST == SPARSE and FETCH:
        fetch_first(work_ptr, count_ptr, tail_ptr, n_seats, HKV)
    begin = 0 if LIST == NARROW else tl.load(total_ptr + LIST - 1)
    for item in range(begin * HKV + tl.program_id(0), tl.load(total_ptr + LIST) * HKV, tl.num_programs(0)):
        entry = work_ptr + item // HKV * 8
        head = item % HKV
        split, n_splits, start = tl.load(entry + 2), tl.load(entry + 3), tl.load(entry + 6)
        seat, live = tl.load(entry + 4).to(tl.int64), tl.load(entry + 7)
        packed = tl.load(entry + 1) * BLOCK_M + tl.arange(0, BLOCK_M)
        i, h = packed // G, head * G + packed % G
        token = (tl.load(entry + 5) + i).to(tl.int64)
        at_q = token[:, None] * stride_qn + h[:, None] * D + tl.arange(0, D)[None, :]
        q = tl.load(q_ptr + at_q, mask=(i < live)[:, None], other=0.0)
        now = tl.where(i < live, start + i, -1)
        k_head, v_head, table = k_ptr + head * D, v_ptr + head * D, table_ptr + seat * stride_table
        listed, count, tail = chosen_ptr, 0, 0
        if LIST == SPARSE:
            listed += (head // LIST_HEADS).to(tl.int64) * stride_list + seat * stride_seat
            if FETCH:
                fetch_lists(listed, table, n_listed, n_blocks)
            count, tail = tl.load(count_ptr + seat).to(tl.int32), tl.load(tail_ptr + seat).to(tl.int32)
        kept = score_rows(entry, head, i, packed % G, live, scored_ptr, HKV, G, FIRST, LAST, SCORE_ROWS, SCORED)
        # entries that the last query of this tile can see
        n_seen = count + start + tl.minimum(live, tl.max(i, 0) + 1) - tail
        m = tl.full([BLOCK_M], float("-inf"), tl.float32)
        lsum, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)
        run = tl.load(total_ptr + 4) if SEVERAL else 1
        for s in range(tl.maximum(split, 0), tl.where(split < 0, n_splits, tl.minimum(split + run, n_splits))):
            m2, l2, acc2 = one_split(
                q, now, i, start, k_head, v_head, table, listed, count, tail, s, n_seen,
                kept, p_ptr, p_max_ptr, scale_log2, stride_slot, s_cap,
                D, PAGE, BLOCK_M, BLOCK_N, SPLIT, LIST, SCORED, SCORE_ROWS, DIRECT, PRECISION,
            )  # fmt: skip
            if LIST == SPARSE:
                m, lsum, acc = m2, l2, acc2
            else:
                m, lsum, acc = folded(m, lsum, acc, m2, l2, acc2)
            if SEVERAL and split >= 0:
                hand_in(m2, l2, acc2, s, entry, head, first_part_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, HKV, G, D)
        if LIST == SPARSE:
            put(m, lsum, acc, token * (HKV * G) + h, i < live, out_ptr, lse_ptr, D)
        elif LIST == WIDE:
            write(m, lsum, acc, entry, head, out_ptr, lse_ptr, HKV, G, BLOCK_M, D)
        else:
            write_or_arrive(
                m, lsum, acc, split, run, entry, head, first_part_ptr, out_ptr, lse_ptr,
                part_acc_ptr, part_m_ptr, part_l_ptr, arrived_ptr, HKV, G, BLOCK_M, D, SEVERAL,
            )  # fmt: skip
    if LIST == NARROW:
        clear_dead(out_ptr, lse_ptr, row_of_ptr, total_ptr, HKV * G, HEADS_P, D)


@triton.jit
def write_or_arrive(
    m, lsum, acc, split, run, entry, head, first_part_ptr, out_ptr, lse_ptr,
    part_acc_ptr, part_m_ptr, part_l_ptr, arrived_ptr,
    HKV: tl.constexpr, G: tl.constexpr, BLOCK_M: tl.constexpr, D: tl.constexpr, SEVERAL: tl.constexpr,
):  # fmt: skip
    """Write the results of a tile whose splits the item owns all, or say that those it did are there.

    Where items may do SEVERAL splits, each was handed in when it was done.
    """
    if split < 0:
        write(m, lsum, acc, entry, head, out_ptr, lse_ptr, HKV, G, BLOCK_M, D)
    else:
        if not SEVERAL:
            hand_in(m, lsum, acc, split, entry, head, first_part_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, HKV, G, D)
        arrive(
            entry, head, run, first_part_ptr, out_ptr, lse_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, arrived_ptr,
            HKV, G, BLOCK_M, D,
        )  # fmt: skip


@triton.jit
def write(
    m, lsum, acc, entry, head, out_ptr, lse_ptr,
    HKV: tl.constexpr, G: tl.constexpr, BLOCK_M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write the results of a tile. The entry is read again, rather than kept in registers that the loops need."""
    offset, live = tl.load(entry + 5), tl.load(entry + 7)
    packed = tl.load(entry + 1) * BLOCK_M + tl.arange(0, BLOCK_M)
    at_out = (offset + packed // G).to(tl.int64) * (HKV * G) + head * G + packed % G
    put(m, lsum, acc, at_out, packed // G < live, out_ptr, lse_ptr, D)


@triton.jit
def put(m, lsum, acc, at_out, real, out_ptr, lse_ptr, D: tl.constexpr):
    """Divide, and write the real rows of a tile."""
    d = tl.arange(0, D)
    lsum = tl.where(real, lsum, 1.0)
    out = (acc / lsum[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at_out[:, None] * D + d[None, :], out, mask=real[:, None])
    tl.store(lse_ptr + at_out, (m + tl.log2(lsum)) * 0.6931471805599453, mask=real)


@triton.jit
def first_partial(entry, head, first_part_ptr, HKV: tl.constexpr):
    """Return the place of the first partial of a tile and head; those of its further splits follow HKV apart."""
    row, tile, n_splits = tl.load(entry), tl.load(entry + 1), tl.load(entry + 3)
    return (tl.load(first_part_ptr + row) + tile * n_splits) * HKV + head


@triton.jit
def hand_in(
    m, lsum, acc, s, entry, head, first_part_ptr, part_acc_ptr, part_m_ptr, part_l_ptr,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Store the partial of split s."""
    BLOCK_M: tl.constexpr = acc.shape[0]
    lane, d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    real = (tl.load(entry + 1) * BLOCK_M + lane) // G < tl.load(entry + 7)
    at = (first_partial(entry, head, first_part_ptr, HKV) + s * HKV).to(tl.int64) * BLOCK_M + lane
    tl.store(part_acc_ptr + at[:, None] * D + d[None, :], acc, mask=real[:, None])
    tl.store(part_m_ptr + at, m, mask=real)
    tl.store(part_l_ptr + at, lsum, mask=real)


@triton.jit
def handed_in(at, there, part_acc_ptr, part_m_ptr, part_l_ptr, D: tl.constexpr):
    """Return a partial; where there is none, one that leaves whatever it is folded into as it was."""
    m = tl.load(part_m_ptr + at, mask=there, other=float("-inf"), cache_modifier=".cg")
    lsum = tl.load(part_l_ptr + at, mask=there, other=0.0, cache_modifier=".cg")
    at_acc = part_acc_ptr + at[:, None] * D + tl.arange(0, D)[None, :]
    return m, lsum, tl.load(at_acc, mask=there[:, None], other=0.0, cache_modifier=".cg")


@triton.jit
def arrive(
    entry, head, run, first_part_ptr, out_ptr, lse_ptr, part_acc_ptr, part_m_ptr, part_l_ptr, arrived_ptr,
    HKV: tl.constexpr, G: tl.constexpr, BLOCK_M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Say that the item has handed in; the last of a tile's items to arrive folds all splits, from the left."""
    n_splits, lane = tl.load(entry + 3), tl.arange(0, BLOCK_M)
    real = (tl.load(entry + 1) * BLOCK_M + lane) // G < tl.load(entry + 7)
    first = first_partial(entry, head, first_part_ptr, HKV)
    # all threads have stored before one of them says so
    tl.debug_barrier()
    if tl.atomic_add(arrived_ptr + first, 1, sem="acq_rel", scope="gpu") == (n_splits - 1) // run:
        tl.store(arrived_ptr + first, 0)
        m = tl.full([BLOCK_M], float("-inf"), tl.float32)
        lsum, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)
        # of small heads four partials are on their way at once; registers hold no more of larger ones
        AHEAD: tl.constexpr = 4 if D <= 64 else 1
        for s in range(0, n_splits, AHEAD):
            at = (first + s * HKV).to(tl.int64) * BLOCK_M + lane
            m2, l2, acc2 = handed_in(at, real, part_acc_ptr, part_m_ptr, part_l_ptr, D)
            if AHEAD == 4:
                step = HKV * BLOCK_M
                some = real & (s + 1 < n_splits)
                m3, l3, acc3 = handed_in(at + step, some, part_acc_ptr, part_m_ptr, part_l_ptr, D)
                some = real & (s + 2 < n_splits)
                m4, l4, acc4 = handed_in(at + 2 * step, some, part_acc_ptr, part_m_ptr, part_l_ptr, D)
                some = real & (s + 3 < n_splits)
                m5, l5, acc5 = handed_in(at + 3 * step, some, part_acc_ptr, part_m_ptr, part_l_ptr, D)
            m, lsum, acc = folded(m, lsum, acc, m2, l2, acc2)
            if AHEAD == 4:
                m, lsum, acc = folded(m, lsum, acc, m3, l3, acc3)
                m, lsum, acc = folded(m, lsum, acc, m4, l4, acc4)
                m, lsum, acc = folded(m, lsum, acc, m5, l5, acc5)
        write(m, lsum, acc, entry, head, out_ptr, lse_ptr, HKV, G, BLOCK_M, D)


@triton.jit
def clear_dead(
    out_ptr, lse_ptr, row_of_ptr, total_ptr, HEADS: tl.constexpr, HEADS_P: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Give zeros to the queries that belong to no row."""
    h, d = tl.arange(0, HEADS_P), tl.arange(0, D)
    for n in range(tl.program_id(0), tl.load(total_ptr + 3), tl.num_programs(0)):
        if tl.load(row_of_ptr + n) < 0:
            at = tl.cast(n, tl.int64) * HEADS + h
            nothing = tl.zeros([HEADS_P, D], tl.float32).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + at[:, None] * D + d[None, :], nothing, mask=(h < HEADS)[:, None])
            tl.store(lse_ptr + at, tl.zeros([HEADS_P], tl.float32), mask=h < HEADS)
