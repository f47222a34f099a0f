"""`attention` in Triton: plan once on the device, then per layer a launch for each kind of row, and one for scores.

Nothing here waits for the device, so all of it can be recorded in a CUDA graph that serves every mix of phases. Split
across files: `triton_plan` (the work list), `triton_kernel` (the attention kernel), `triton_scores` (what follows).
"""

# pyright: reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption
from sparsespec.kernels.attention.triton_kernel import NARROW, SPARSE, WIDE, attend
from sparsespec.kernels.attention.triton_plan import Tiling, Work
from sparsespec.kernels.attention.triton_scores import reduce_scores

MAX_HEAD_DIM = 256
MAX_SCORED = 16
MAX_SCORE_ROWS = 256
FEW = 16
"""Query rows of the lowest tile."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
INTERPRETED = not isinstance(attend, triton.JITFunction)
"""Whether the kernels run in Triton's interpreter, on any device; else they need a GPU."""


def plan(
    rows: AttentionRows,
    pool: Tensor,
    n_tokens: int,
    n_heads: int,
    n_rows: int,
    decode_queries: int | None,
    before: Work | None,
) -> Work:
    """See `kernels/attention/api.py`; make the work list of a step, in the buffers of `before` if they hold it."""
    for name in ("seat", "offset", "start", "live", "sparse", "scored"):
        if not (x := getattr(rows, name)).is_contiguous():
            raise BadOption(f"attention impl 'triton' takes contiguous rows.{name}, got strides {x.stride()}")
    if before is None or not before.holds(rows, n_tokens):
        before = _larger(rows, pool, n_tokens, n_heads, n_rows, decode_queries, before)
    before.fill(rows, n_tokens)
    return before


def _larger(
    rows: AttentionRows,
    pool: Tensor,
    n_tokens: int,
    n_heads: int,
    n_rows: int,
    decode_queries: int | None,
    before: Work | None,
) -> Work:
    """Return buffers that hold this step, `n_rows` rows at least, and no less than `before` does."""
    check(pool, n_heads, rows.ends)
    _, block_size, n_kv_heads, head_dim = pool.shape
    group = n_heads // n_kv_heads
    n_rows = max(n_rows, len(rows.seat))
    if before is not None:
        n_rows, n_tokens = max(n_rows, before.n_rows), max(n_tokens, before.n_tokens)
    packed = FEW + 1 if decode_queries is None else decode_queries * group
    return Work(
        n_rows,
        n_tokens,
        tuple(rows.table.shape),
        (n_kv_heads, group, head_dim),
        block_size,
        rows.ends,
        rows.groups,
        tiling_for(pool.dtype, head_dim, packed),
        pool.dtype,
        pool.device,
        _is_direct(pool.dtype, head_dim),
        before,
    )


def scores_shape(work: Work) -> tuple[int, int, int] | None:
    """Return the shape of a buffer for a layer's scores."""
    return None if work.p is None else (work.groups, work.n_rows, work.s_cap)


def run(
    work: Work,
    rows: AttentionRows,
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    scale: float,
    chosen: Chosen | None,
    scores: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `kernels/attention/api.py`; attend in one layer.

    Only what scored rows hold is written into `scores`: the rest is as the caller left it, zeros.
    """
    _check_layout(q, k_pages, v_pages, chosen)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    if scores is None and (shape := scores_shape(work)) is not None:
        scores = torch.zeros(shape, device=q.device)
    given = (q, k_pages, v_pages, out, lse, rows, work, scale, chosen)
    alone = work.side is None or chosen is None
    since = None if alone else torch.cuda.current_stream(q.device).record_event()
    _attend(*given, NARROW.value)
    if work.may_be_wide:
        _attend(*given, WIDE.value)
    if scores is not None:
        _reduce(scores, lse, rows, work)
    if chosen is not None:
        with _beside(work, since):
            _attend(*given, SPARSE.value)
    return out, lse, None if scores is None else scores[:, : len(rows.seat)]


@contextmanager
def _beside(work: Work, since: Any) -> Iterator[None]:
    """Launch beside what came after `since`: the two kinds of programs fill each other's gaps. On a CPU, as ever."""
    if work.side is None or since is None:
        yield
        return
    work.side.wait_event(since)
    with torch.cuda.stream(work.side):
        yield
    torch.cuda.current_stream(work.side.device).wait_stream(work.side)


def _attend(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, out: Tensor, lse: Tensor,
    rows: AttentionRows, work: Work, scale: float, chosen: Chosen | None, kind: int,
) -> None:  # fmt: skip
    """Launch the rows of one kind."""
    t, sparse, unused = work.tiling, kind == SPARSE.value, work.total
    tile, block, warps, stages, programs = t.tile, t.block, t.warps, t.stages, t.programs
    if kind == WIDE.value:
        tile, warps, stages, programs = t.wide_tile, t.wide_warps, t.wide_stages, t.wide_programs
    if sparse:
        tile, block, warps, stages = t.sparse_tile, t.sparse_block, t.sparse_warps, t.sparse_stages
        programs = t.sparse_programs
    positions, counts, tails = chosen or (unused, unused, unused)
    strides = (0, 0) if chosen is None else positions.stride()[:2]
    attend[(work.multiprocessors * programs,)](
        q, k_pages, v_pages, out, lse,
        work.entries, work.total, work.first_part, work.row_of, work.table, rows.scored,
        positions, counts, tails,
        work.part_acc, work.part_m, work.part_l, work.arrived,
        unused if work.p is None else work.p, unused if work.p_max is None else work.p_max,
        scale * math.log2(math.e),
        q.stride(0), k_pages.stride(1), work.table.stride(0), strides[0], strides[1], work.s_cap,
        0 if chosen is None else len(counts), 0 if chosen is None else positions.shape[2], work.table.shape[1],
        HKV=work.hkv, G=work.group, D=q.shape[2], PAGE=k_pages.shape[1], LIST_HEADS=work.list_heads,
        BLOCK_M=tile, BLOCK_N=block, SPLIT=t.split,
        LIST=kind, SCORED=work.p is not None and not sparse, FIRST=work.ends[0], LAST=work.ends[1],
        SCORE_ROWS=work.score_rows, DIRECT=work.direct, PRECISION="ieee",
        HEADS_P=work.heads_p, SEVERAL=t.start > 0 and kind == NARROW.value,
        FETCH=not INTERPRETED, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def _reduce(into: Tensor, lse: Tensor, rows: AttentionRows, work: Work) -> None:
    # a warp each: many small programs, all of whose loads are on their way at once
    positions = 128
    reduce_scores[(work.s_cap // positions, len(rows.seat), work.groups)](
        into, lse, work.p, work.p_max, rows.scored, rows.sparse, rows.offset, rows.start, rows.live,
        work.n_rows, work.s_cap,
        HKV=work.hkv, G=work.group, LIST_HEADS=work.list_heads,
        BLOCK_N=work.tiling.block, BLOCKS=positions // work.tiling.block,
        FIRST=work.ends[0], LAST=work.ends[1], SCORE_ROWS=work.score_rows,
        DIRECT=work.direct, UNROLL=16, num_warps=1,
    )  # fmt: skip


def _is_direct(dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether probabilities are kept in the order in which the threads of a product hold them.

    That order is known for what runs on the tensor cores of a Hopper GPU, and tested there for these head dimensions.
    """
    return not INTERPRETED and dtype != torch.float32 and head_dim in (64, 128)


def tiling_for(dtype: torch.dtype, head_dim: int, packed: int = FEW + 1) -> Tiling:
    """Return the sizes for a float type and head dimension: never for a batch, or bits would depend on it.

    Where rows have at most FEW `packed` query rows a KV head, as in plain decoding, tiles are as low as that: more of
    them run at once, and give the same bits. Heads of 128 and more need the registers of more warps.

    Warps at head dimension 256 and in float32 are those with which registers hold a tile: with fewer, the compiler
    keeps up to 2 KB a thread in memory.
    """
    if dtype == torch.float32:
        return Tiling(
            tile=16, block=32, stages=2,
            wide_tile=16, wide_warps=4, wide_stages=2, wide_programs=2,
            sparse_block=32, sparse_warps=4, sparse_stages=2,
        )  # fmt: skip
    if head_dim == 256:
        return Tiling(
            block=32, warps=8, stages=3, programs=1,
            wide_tile=64, wide_stages=3,
            sparse_block=32, sparse_warps=4, sparse_programs=2,
        )  # fmt: skip
    if head_dim == 128:
        return Tiling()
    tiling = Tiling(
        block=64, split=1024, start=40,
        wide_tile=64, wide_warps=4, wide_programs=2,
        sparse_stages=5, sparse_programs=6,
    )  # fmt: skip
    few = {"tile": FEW, "warps": 1, "stages": 3, "programs": 8, "own_tiles": 17}
    return replace(tiling, **few) if packed <= FEW else tiling


def check(pool: Tensor, n_heads: int, ends: tuple[int, int]) -> None:
    """Raise `BadOption` for what these kernels cannot do."""
    group = n_heads // pool.shape[2]
    head_dim, least = pool.shape[3], 1 if INTERPRETED else 16
    if not pool.is_cuda and not INTERPRETED:
        raise BadOption(
            f"attention 'triton' needs a CUDA device, got {pool.device.type!r}; use attention='reference', or set "
            "TRITON_INTERPRET=1 before triton is imported, and have it interpreted, slowly"
        )
    if pool.dtype not in DTYPES:
        raise BadOption(f"attention impl 'triton' takes float16, bfloat16 or float32, got {pool.dtype}")
    if head_dim & (head_dim - 1) or not least <= head_dim <= MAX_HEAD_DIM:
        raise BadOption(f"attention impl 'triton' takes head dims 16, 32, 64, 128 and 256, got {head_dim}")
    if min(ends) < 0 or sum(ends) > MAX_SCORED:
        raise BadOption(f"attention impl 'triton' scores at most {MAX_SCORED} queries of a row, got ends {ends}")
    if sum(ends) * group > MAX_SCORE_ROWS:
        raise BadOption(
            f"attention impl 'triton' scores at most {MAX_SCORE_ROWS // group} queries of a row where {group} query "
            f"heads share a KV head, got ends {ends}"
        )


def _check_layout(q: Tensor, k_pages: Tensor, v_pages: Tensor, chosen: Chosen | None) -> None:
    """Raise `BadOption` for strides that the kernels do not follow."""
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        if not pages.is_contiguous():
            raise BadOption(f"attention impl 'triton' takes contiguous {name}, got strides {pages.stride()}")
    if q.stride()[1:] != (q.shape[2], 1):
        raise BadOption(f"attention impl 'triton' takes q with contiguous heads, got strides {q.stride()}")
    if chosen is None:
        return
    if chosen.positions.stride(2) != 1:
        raise BadOption("attention impl 'triton' takes chosen.positions that are contiguous along a list")
    for name, x in (("counts", chosen.counts), ("tail_from", chosen.tail_from)):
        if not x.is_contiguous():
            raise BadOption(f"attention impl 'triton' takes contiguous chosen.{name}, got strides {x.stride()}")
