"""The plan of a step, made on the device: rows become a work list, without the host knowing lengths.

The list holds one entry of eight int32 for each (row, query tile, split): first those of dense rows of few queries,
then those of dense rows of at least `own_tiles` tiles, which get higher tiles, then those of sparse rows. The attention
kernel runs each entry once per KV head, heads fastest, so that programs side by side read the same tokens.

    row, tile, split, splits of the row, seat, first query token, position of that token, live queries

`split` is -1 where the item owns all splits of its queries: rows of one split, sparse rows, rows of many queries, and
all rows if that keeps the programs busy. Any other item does `run` splits from there on and hands in each of them. How
work is shared changes traffic, never bits. Beside the list, per row, is the place of its first partial; its partials
lie in the order of its tiles, and of their splits.
"""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.batch import AttentionRows


@triton.jit
def _splits_of_an_item(tiles, splits, HKV: tl.constexpr, START: tl.constexpr, PROGRAMS: tl.constexpr):
    """Return how many splits of a row an item does, where it does not own them: what ends soonest.

    The programs go round as often as there are items for each of them, and an item takes its splits and a START.
    """
    run, least = 1, 1 << 30
    for log in tl.static_range(0, 4):
        rounds = (tl.sum(tiles * ((splits + (1 << log) - 1) >> log), 0) * HKV + PROGRAMS - 1) // PROGRAMS
        cost = rounds * (100 * (1 << log) + START)
        run = tl.where(cost < least, 1 << log, run)
        least = tl.minimum(cost, least)
    return run


@triton.jit
def _splits_and_entries(
    start, live, sparse,
    HKV: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, WIDE_TILE: tl.constexpr, SPARSE_TILE: tl.constexpr,
    SPLIT: tl.constexpr, OWN_TILES: tl.constexpr, OWN_BUSY: tl.constexpr, START: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Return, for each row, the list it is in, its tiles, splits, whether items own them; and an item's splits."""
    packed = live * G
    tiles = (packed + TILE - 1) // TILE
    kind = tl.where(sparse, 2, tl.where(tiles >= OWN_TILES, 1, 0))
    tiles = tl.where(kind == 1, (packed + WIDE_TILE - 1) // WIDE_TILE, tiles)
    tiles = tl.where(kind == 2, (packed + SPARSE_TILE - 1) // SPARSE_TILE, tiles)
    splits = tl.where(sparse, 1, tl.maximum(1, (start + live + SPLIT - 1) // SPLIT))
    # all rows own theirs if that keeps the programs nearly as busy: nothing is written twice then
    narrow = tl.where(kind == 0, tiles, 0)
    rounds = (tl.sum(narrow, 0) * HKV + PROGRAMS - 1) // PROGRAMS
    longest = tl.max(tl.where((kind == 0) & (live > 0), splits, 0), 0)
    busy = 100 * tl.sum(narrow * splits, 0) * HKV >= OWN_BUSY * rounds * PROGRAMS * longest
    run = _splits_of_an_item(narrow, splits, HKV, START, PROGRAMS)
    return kind, tiles, splits, (splits <= run) | (kind == 1) | busy, run


# Counts change with every step, and none of them is worth a kernel of its own.
@triton.jit(do_not_specialize=["n_rows", "n_entries_max", "n_tokens"])
def make_work(
    seat_ptr, offset_ptr, start_ptr, live_ptr, sparse_ptr, work_ptr, first_part_ptr, row_of_ptr, total_ptr,
    n_rows, n_entries_max, n_tokens,
    HKV: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr, WIDE_TILE: tl.constexpr, SPARSE_TILE: tl.constexpr,
    SPLIT: tl.constexpr, OWN_TILES: tl.constexpr, OWN_BUSY: tl.constexpr, START: tl.constexpr, PROGRAMS: tl.constexpr,
    ROWS_P: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the entries of one row; each program adds up the rows before its own."""
    row = tl.program_id(0)
    rows = tl.arange(0, ROWS_P)
    known = rows < n_rows
    start = tl.load(start_ptr + rows, mask=known, other=0).to(tl.int32)
    live = tl.load(live_ptr + rows, mask=known, other=0).to(tl.int32)
    sparse = tl.load(sparse_ptr + rows, mask=known, other=0) != 0
    kind, tiles, splits, owns, run = _splits_and_entries(
        start, live, sparse, HKV, G, TILE, WIDE_TILE, SPARSE_TILE, SPLIT, OWN_TILES, OWN_BUSY, START, PROGRAMS
    )
    entries = tiles * tl.where(owns, 1, (splits + run - 1) // run)
    n_narrow = tl.sum(tl.where(kind == 0, entries, 0), 0)
    n_dense = n_narrow + tl.sum(tl.where(kind == 1, entries, 0), 0)
    if row == 0:
        tl.store(total_ptr, n_narrow)
        tl.store(total_ptr + 1, n_dense)
        tl.store(total_ptr + 2, tl.sum(entries, 0))
        tl.store(total_ptr + 3, n_tokens)
        tl.store(total_ptr + 4, run)
    mine = rows == row
    my_start = tl.sum(tl.where(mine, start, 0), 0)
    my_live = tl.sum(tl.where(mine, live, 0), 0)
    my_kind = tl.sum(tl.where(mine, kind, 0), 0)
    my_splits = tl.sum(tl.where(mine, splits, 0), 0)
    my_entries = tl.sum(tl.where(mine, entries, 0), 0)
    my_own = tl.sum(tl.where(mine & owns, 1, 0), 0) > 0
    before = tl.where(my_kind == 0, 0, tl.where(my_kind == 1, n_narrow, n_dense))
    first = before + tl.sum(tl.where((rows < row) & (kind == my_kind), entries, 0), 0)
    my_seat = tl.load(seat_ptr + row).to(tl.int32)
    my_offset = tl.load(offset_ptr + row).to(tl.int32)
    my_runs = (my_splits + run - 1) // run
    tl.store(first_part_ptr + row, tl.sum(tl.where((rows < row) & (owns == 0), tiles * splits, 0), 0))
    lane = tl.arange(0, STEP)
    for at in range(0, my_entries, STEP):
        e = at + lane
        out = work_ptr + (first + e) * 8
        mask = (e < my_entries) & (first + e < n_entries_max)
        tl.store(out, tl.zeros([STEP], tl.int32) + row, mask=mask)
        tl.store(out + 1, tl.where(my_own, e, e // my_runs), mask=mask)
        tl.store(out + 2, tl.where(my_own, -1, e % my_runs * run), mask=mask)
        tl.store(out + 3, tl.zeros([STEP], tl.int32) + my_splits, mask=mask)
        tl.store(out + 4, tl.zeros([STEP], tl.int32) + my_seat, mask=mask)
        tl.store(out + 5, tl.zeros([STEP], tl.int32) + my_offset, mask=mask)
        tl.store(out + 6, tl.zeros([STEP], tl.int32) + my_start, mask=mask)
        tl.store(out + 7, tl.zeros([STEP], tl.int32) + my_live, mask=mask)
    for at in range(0, my_live, STEP):
        i = at + lane
        mask = (i < my_live) & (my_offset + i < n_tokens)
        tl.store(row_of_ptr + my_offset + i, tl.zeros([STEP], tl.int32) + row, mask=mask)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes the kernels are compiled for. They may depend on dtype and head dimension, never on a batch.

    Attributes:
        tile: Packed query rows of a tile, of rows of few queries.
        block: KV entries of a block. With `split` it decides the bits of a dense row.
        split: KV entries of a split; a multiple of `block`.
        warps, stages: Of a program, and of its load pipeline.
        programs: Per multiprocessor.
        wide_tile, wide_warps, wide_stages, wide_programs: The same for rows of many queries.
        sparse_tile, sparse_block, sparse_warps, sparse_stages, sparse_programs: The same for sparse rows.
        own_tiles: From how many tiles on a row is one of many queries.
        own_busy: Per cent of the programs' time that must be in use for all items to own all splits.
        start: What beginning an item costs, in per cent of a split; at 0 an item never does two that others could do.
    """

    tile: int = 64
    block: int = 32
    split: int = 2048
    warps: int = 4
    stages: int = 5
    programs: int = 2
    wide_tile: int = 128
    wide_warps: int = 8
    wide_stages: int = 5
    wide_programs: int = 1
    sparse_tile: int = 16
    sparse_block: int = 64
    sparse_warps: int = 2
    sparse_stages: int = 4
    sparse_programs: int = 4
    own_tiles: int = 8
    own_busy: int = 90
    start: int = 0


class Work:
    """The buffers of a plan, for up to `n_rows` rows and `n_tokens` query tokens of a page table [n_seats, n_blocks].

    They never move, so a captured graph may hold them; those that were too small `before` are kept alive for that.
    `cut` bounds the splits that wait for the fold: a row that is cut has fewer than `own_tiles` tiles. `arrived` counts
    them while a launch runs, and is zeros before and after.
    """

    def __init__(
        self, n_rows: int, n_tokens: int, table: tuple[int, ...], heads: tuple[int, int, int],
        block_size: int, ends: tuple[int, int], groups: int, tiling: Tiling, dtype: torch.dtype, device: torch.device,
        direct: bool, before: Work | None,
    ) -> None:  # fmt: skip
        hkv, group, head_dim = heads
        n_blocks = table[1]
        self.direct, self.before = direct, before
        self.list_heads, self.heads_p = hkv // groups, triton.next_power_of_2(hkv * group)
        self.tiling, self.ends, self.groups, self.group, self.hkv = tiling, ends, groups, group, hkv
        cuda = device.type == "cuda"
        # the interpreter runs programs one after another
        self.multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if cuda else 1
        self.programs = self.multiprocessors * tiling.programs
        self.side = torch.cuda.Stream(device) if cuda else None
        self.n_rows, self.n_tokens = n_rows, n_tokens
        self.length = n_blocks * block_size
        self.s_cap = -(-self.length // 1024) * 1024
        n_splits = -(-self.length // tiling.split)
        dense_tiles = -(-n_tokens * group // tiling.tile) + n_rows
        sparse_tiles = -(-n_tokens * group // tiling.sparse_tile) + n_rows
        cut = min(n_rows * (tiling.own_tiles - 1), dense_tiles) * n_splits if n_splits > 1 else 0
        self.n_entries = cut + dense_tiles + sparse_tiles

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.entries, self.first_part, self.arrived = ints(self.n_entries, 8), ints(n_rows), ints(cut, hkv)
        self.row_of, self.total, self.table = ints(n_tokens), ints(5), ints(*table)
        self.may_be_wide = False
        self.part_acc = floats(cut, hkv, tiling.tile, head_dim)
        self.part_m, self.part_l = floats(cut, hkv, tiling.tile), floats(cut, hkv, tiling.tile)
        self.score_rows = sum(ends) * group
        self.p = self.p_max = None
        if self.score_rows:
            kept = torch.float32 if dtype == torch.float32 else torch.float16
            blocks = self.s_cap // tiling.block
            self.p = floats(n_rows, hkv, blocks, self.score_rows, tiling.block, dtype=kept)
            self.p_max = floats(n_rows, hkv, blocks, self.score_rows)

    def holds(self, rows: AttentionRows, n_tokens: int) -> bool:
        """Whether a step fits."""
        same = (self.ends, self.groups, tuple(self.table.shape)) == (rows.ends, rows.groups, tuple(rows.table.shape))
        return same and len(rows.seat) <= self.n_rows and n_tokens <= self.n_tokens

    def fill(self, rows: AttentionRows, n_tokens: int) -> None:
        """Make the work list of a step; launches only, the host reads nothing back."""
        assert self.holds(rows, n_tokens), "the step is larger than the plan's buffers"
        t, n_rows = self.tiling, len(rows.seat)
        widest = n_tokens if rows.widest is None else rows.widest
        self.may_be_wide = widest * self.group > (t.own_tiles - 1) * t.tile
        self.row_of.fill_(-1)
        self.table.copy_(rows.table)
        make_work[(n_rows,)](
            rows.seat, rows.offset, rows.start, rows.live, rows.sparse,
            self.entries, self.first_part, self.row_of, self.total,
            n_rows, self.n_entries, n_tokens,
            HKV=self.hkv, G=self.group, TILE=t.tile, WIDE_TILE=t.wide_tile, SPARSE_TILE=t.sparse_tile, SPLIT=t.split,
            OWN_TILES=t.own_tiles, OWN_BUSY=t.own_busy, START=t.start, PROGRAMS=self.programs,
            ROWS_P=triton.next_power_of_2(n_rows), STEP=128, num_warps=4,
        )  # fmt: skip
