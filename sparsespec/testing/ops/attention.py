"""Cases of `attention`: rows of all kinds over a pool that is NaN wherever no row may look."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.op import Args, Bad, Compared, KernelOp, Sizes, exactly, strided
from sparsespec.testing.ops.rows import tolerated
from sparsespec.testing.tolerance import KEPT, allowed, error, log_error

SCALE = 0.37
LISTED = 24
"""Positions that a list can hold, at least."""
MOST_DRAFTS = 8
"""Queries of a row that reads a selection, at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to lay out; `tail` and `count` are those of a sparse one, `gap` tokens behind it belong to no row."""

    start: int
    live: int
    sparse: bool = False
    scored: bool = False
    tail: int = 0
    count: int = 0
    gap: int = 0


def random_rows(
    seed: int,
    starts: Sequence[int] = (0, 1, 15, 16, 31, 40, 64, 70),
    lives: Sequence[int] = (0, 1, 1, 2, 3, 8, 9, 30),
    n_rows: int | None = None,
) -> list[Row]:
    """Return `n_rows` rows, by default 1 to 5: dense and sparse, scored and not, dead and alive."""
    dice, found = random.Random(seed), []
    few = dice.randint(1, 5)
    for _ in range(few if n_rows is None else n_rows):
        start, live, sparse = dice.choice(starts), dice.choice(lives), dice.random() < 0.4
        tail = count = 0
        if sparse:
            live, tail = min(live, MOST_DRAFTS), dice.randint(0, start)
            count = dice.choice((0, min(tail, LISTED), dice.randint(0, min(tail, LISTED))))
        scored = not sparse and live > 0 and dice.random() < 0.7
        found.append(Row(start, live, sparse, scored, tail, count, dice.randint(0, 2)))
    return found


def make_attention(
    seed: int,
    *,
    rows: Sequence[Row] | None = None,
    starts: Sequence[int] = (0, 1, 15, 16, 31, 40, 64, 70),
    lives: Sequence[int] = (0, 1, 1, 2, 3, 8, 9, 30),
    n_rows: int | None = None,
    n_tokens: int | None = None,
    longest: int | None = None,
    heads: tuple[int, int] = (2, 3),
    head_dim: int = 16,
    block_size: int = 16,
    groups: int = 1,
    ends: tuple[int, int] = (1, 1),
    blank: float = torch.nan,
    dtype: torch.dtype,
    device: str,
) -> Args:
    """Return arguments of `attention`.

    Args:
        seed: Any integer.
        rows: The rows; None for `random_rows` of `starts`, `lives` and `n_rows`.
        starts, lives, n_rows: See `random_rows`.
        n_tokens: Query tokens, dead ones included; by default one more than rows and gaps have.
        longest: Positions that the page table can hold; by default what these rows can need.
        heads: KV heads, and query heads that share one.
        head_dim: Head dimension.
        block_size: Tokens of a page.
        groups: Lists of positions.
        ends: How many leading and trailing queries are scored.
        blank: What is in the pool wherever no row may look.
        dtype: Of queries, keys and values.
        device: Where all of it is.
    """
    wanted = random_rows(seed, starts, lives, n_rows) if rows is None else rows
    longest = longest or max(starts) + max(lives) + 18
    generator, real = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    blocks, seats, (n_kv_heads, group) = -(-longest // block_size), len(wanted) + 1, heads
    table = (torch.randperm(seats * blocks, generator=generator) + 1).view(seats, blocks)
    seat = torch.randperm(seats, generator=generator)[: len(wanted)]
    kv = torch.full((2, (seats * blocks + 1) * block_size, n_kv_heads, head_dim), blank, device=device)
    size = (n_tokens or sum(row.live + row.gap for row in wanted) + 1, n_kv_heads * group, head_dim)
    q, offsets, n = torch.full(size, torch.nan, device=device), [], 0
    for b, row in enumerate(wanted):
        t = torch.arange(row.start + row.live)
        slots = (table[seat[b], t // block_size] * block_size + t % block_size).to(device)
        kv[:, slots] = torch.randn(2, len(t), n_kv_heads, head_dim, generator=real, device=device)
        q[n : n + row.live] = torch.randn(row.live, *size[1:], generator=real, device=device)
        offsets.append(n)
        n += row.live + row.gap
    names = ("start", "live", "sparse", "scored")
    flags: dict[str, Any] = {name: torch.tensor([getattr(row, name) for row in wanted]) for name in names}
    laid = AttentionRows(seat=seat, offset=torch.tensor(offsets), **flags, table=table, ends=ends, groups=groups)
    k_pages, v_pages = kv.to(dtype).view(2, -1, block_size, n_kv_heads, head_dim)
    chosen = copied(_chosen(random.Random(seed), wanted, seat, seats, groups), device)
    pages = {"k_pages": k_pages, "v_pages": v_pages}
    return {"q": q.to(dtype), **pages, "rows": copied(laid, device), "scale": SCALE, "chosen": chosen}


def _chosen(dice: random.Random, wanted: Sequence[Row], seat: Tensor, seats: int, groups: int) -> Chosen:
    """Return the selection of the rows; entries behind the counts point nowhere, and may not be read."""
    k_max = max([LISTED, *(row.count for row in wanted)])
    positions = torch.full((groups, seats, k_max), 1 << 20, dtype=torch.int32)
    counts, tails = torch.zeros(seats, dtype=torch.int64), torch.zeros(seats, dtype=torch.int64)
    for b, row in enumerate(wanted):
        tails[seat[b]], counts[seat[b]] = row.tail, row.count
        for group in range(groups):
            listed = sorted(dice.sample(range(row.tail), row.count))
            positions[group, seat[b], : row.count] = torch.tensor(listed, dtype=torch.int32)
    return Chosen(positions, counts, tails)


def alive(rows: AttentionRows, n_tokens: int) -> Tensor:
    """Return which query tokens belong to a row, [N]."""
    mask = torch.zeros(n_tokens, dtype=torch.bool, device=rows.live.device)
    for offset, live in zip(rows.offset.tolist(), rows.live.tolist(), strict=True):
        mask[offset : offset + live] = True
    return mask


def _judge(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare with float64, where the arguments are; dead queries give 0; scores may be wider, with zeros behind."""
    out, lse, scores = returned
    dtype = given["q"].dtype
    exact, _ = op.reference(given, device=None, floats=torch.float64)
    rounded, _ = op.reference(given, device=None)
    outs = tolerated("out", out, exact.out, allowed(dtype, error(rounded.out, exact.out)), dtype)
    # the log-sum-exp is summed in base 2, over blocks
    bound = allowed(dtype, log_error(rounded.lse, exact.lse)) + 2e-5
    lses = tolerated("lse", lse, exact.lse, bound, rounded.lse.dtype)
    found = [outs, lses]
    if not lses.note:
        off = (lses.got.double() - lses.want).abs() / (1 + lses.want.abs())
        found[1] = Compared("lse", lses.got, lses.want, off.nan_to_num(nan=torch.inf), bound)
    if not outs.note and not lses.note:
        dead = ~alive(given["rows"], len(out)).cpu()
        found.append(exactly("dead", outs.got[dead].float(), torch.zeros_like(outs.got[dead].float())))
        found.append(exactly("dead", lses.got[dead], torch.zeros_like(lses.got[dead])))
    if exact.scores is not None and any(given["rows"].ends):
        found += _judge_scores(scores, exact.scores, rounded.scores, dtype)
    return found


def _judge_scores(got: Any, want: Tensor, rounded: Tensor, dtype: torch.dtype) -> list[Compared]:
    length = want.shape[-1]
    if not torch.is_tensor(got) or got.shape[:-1] != want.shape[:-1] or got.shape[-1] < length:
        shape = list(got.shape) if torch.is_tensor(got) else got
        note = f"its shape is {shape}, must be {list(want.shape)}, or wider"
        return [Compared("scores", want, want, want.new_zeros(1).cpu(), 0.0, note)]
    bound = allowed(dtype, error(rounded, want)) + KEPT[dtype]
    behind = got[..., length:]
    return [
        tolerated("scores", got[..., :length], want, bound, rounded.dtype),
        exactly("scores", behind, torch.zeros_like(behind)),
    ]


def _sizes(dice: random.Random) -> Sizes:
    heads = dice.choice(((1, 1), (1, 9), (3, 3), (2, 2), (1, 16)))
    return {
        "heads": heads,
        "block_size": dice.choice((1, 16, 64)),
        "groups": dice.choice((1, heads[0])),
        "ends": dice.choice(((0, 0), (1, 1), (1, 0), (0, 8), (2, 3))),
    }


LONG = (0, 1, 63, 64, 500, 2047, 2048, 2500, 5000)
MANY = (0, 1, 1, 2, 8, 9, 30, 520)
"""Queries of a row; the last are enough for high tiles, whatever the heads."""
_SHAPES: tuple[tuple[int, tuple[int, int], int, int, tuple[int, int]], ...] = (
    (128, (2, 4), 16, 1, (1, 1)),
    (128, (2, 4), 16, 2, (0, 8)),
    (64, (3, 3), 64, 1, (1, 1)),
    (64, (1, 9), 1, 1, (2, 1)),
    (128, (2, 1), 1, 2, (0, 0)),
    (256, (1, 16), 16, 1, (0, 1)),
    (256, (2, 2), 64, 2, (1, 0)),
)
REAL = {
    f"D{head_dim}-G{heads[1]}-P{block_size}-groups{groups}": {
        "head_dim": head_dim, "heads": heads, "block_size": block_size, "groups": groups, "ends": ends,
        "starts": LONG, "lives": MANY,
    }
    for head_dim, heads, block_size, groups, ends in _SHAPES
}  # fmt: skip
FIXED = {
    "rows": (Row(20, 2, scored=True), Row(50, 2, sparse=True, tail=45, count=10), Row(3, 1, gap=1)),
    "longest": 96,
}
"""A row that is scored, one that reads a selection, and a single query."""


def _narrow(args: Args) -> Args:
    return {**args, **{name: args[name][..., :12].contiguous() for name in ("q", "k_pages", "v_pages")}}


def _n_bytes(args: Args) -> int:
    """KV read, queries and results, scores written."""
    rows, chosen, q, pages = args["rows"], args["chosen"], args["q"], args["k_pages"]
    end = rows.start + rows.live
    read = (
        end
        if chosen is None
        else torch.where(rows.sparse, chosen.counts[rows.seat] + end - chosen.tail_from[rows.seat], end)
    )
    n_read = int(read[rows.live > 0].sum())
    token = 2 * pages.shape[2] * pages.shape[3] * pages.element_size()
    query = q.shape[1] * (2 * q.shape[2] * q.element_size() + 4)
    scored = int(end[rows.scored & (rows.live > 0)].sum()) if any(rows.ends) else 0
    return n_read * token + int(rows.live.sum()) * query + 4 * rows.groups * scored


def _n_flops(args: Args) -> int:
    """Products of queries with keys and of weights with values."""
    rows, chosen, q = args["rows"], args["chosen"], args["q"]
    live, n = rows.live, rows.start.clone()
    if chosen is not None:
        selected = chosen.counts[rows.seat] + rows.start - chosen.tail_from[rows.seat]
        n = torch.where(rows.sparse, selected, n)
    pairs = int((live * n + live * (live + 1) // 2).sum())
    return 4 * pairs * q.shape[1] * q.shape[2]


def _checked(path: str, change: Any, message: str) -> Bad:
    return Bad(path, change, message, options={"checked": True})


_TRITON = ("triton",)
_BAD = {
    "type of q": Bad("q", lambda x: x.double(), "q must be torch.float32 on .*, got torch.float64"),
    "axes of q": Bad("q", lambda x: x[0], r"q must be \[N, Hq, D\]"),
    "head dimension of q": Bad("q", lambda x: x[..., :8], r"q must be \[7, 6, 16\] as planned, got \[7, 6, 8\]"),
    "strides of q": Bad("q", strided, "q with contiguous heads", impls=_TRITON),
    "heads": Bad("q", lambda x: x[:, 1:], "q must have a multiple of the 2 KV heads"),
    "type of k_pages": Bad("k_pages", lambda x: x.half(), "q must be torch.float16 on .* got torch.float32"),
    "whole numbers": Bad("k_pages", lambda x: x.nan_to_num().long(), "k_pages must be floats"),
    "device of k_pages": Bad("k_pages", lambda x: x.to("meta"), "k_pages must be .* got torch.float32 on meta"),
    "axes of k_pages": Bad("k_pages", lambda x: x[0], r"k_pages must be \[pages, P, Hkv, D\]"),
    "layout of k_pages": Bad("k_pages", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "contiguous k_pages",
                             impls=_TRITON),
    "shape of v_pages": Bad("v_pages", lambda x: x[:-1], "v_pages must be"),
    "device of v_pages": Bad("v_pages", lambda x: x.to("meta"), "v_pages must be .* got torch.float32 on meta"),
    "too many scored": Bad("rows.ends", lambda _: (9, 9), "at most 16", impls=_TRITON),
    "groups": Bad("rows.groups", lambda _: 5, "groups must divide"),
    "rows of different number": Bad("rows.live", lambda x: x[:0], r"rows\.live must be"),
    "type of rows.sparse": Bad("rows.sparse", lambda x: x.int(), r"rows\.sparse must be torch.bool"),
    "type of rows.table": Bad("rows.table", lambda x: x.float(), r"rows\.table must be torch.int64 or torch.int32"),
    "device of rows.start": Bad("rows.start", lambda x: x.to("meta"), r"rows\.start must be"),
    "strides of rows.seat": Bad("rows.seat", strided, r"contiguous rows\.seat", impls=_TRITON),
    "shape of rows.table": Bad("rows.table", lambda x: x[0], r"rows\.table must be \[seats, blocks\]"),
    "lists": Bad("chosen.positions", lambda x: x[:, 0], r"chosen\.positions must be \[1, .* k_max\]"),
    "strides of a list": Bad("chosen.positions", strided, r"chosen\.positions that are contiguous along a list",
                             impls=_TRITON),
    "type of chosen.positions": Bad("chosen.positions", lambda x: x.float(), r"chosen\.positions must be torch.int64"),
    "device of chosen.counts": Bad("chosen.counts", lambda x: x.to("meta"), r"chosen\.counts must be torch.int64"),
    "shape of chosen.counts": Bad("chosen.counts", lambda x: x[:1], r"chosen\.counts must be"),
    "strides of chosen.tail_from": Bad("chosen.tail_from", strided, r"contiguous chosen\.tail_from", impls=_TRITON),
    "float64": Bad("", lambda a: copied(a, floats=torch.float64), "float64", impls=_TRITON),
    "head dimension": Bad("", _narrow, "head dims", impls=_TRITON),
    "more scored heads than fit": Bad("", lambda a: a, "at most 7 queries of a row where 33 query heads share a KV",
                                      impls=_TRITON, sizes={**FIXED, "heads": (1, 33), "ends": (0, 8)}),
    "no selection": _checked("chosen", lambda _: None, r"rows\.sparse must be False in every row where there is no"),
    "page": _checked("rows.table", lambda x: x + 10**6, r"rows\.table must be in 0 … .*, got 100"),
    "negative page": _checked("rows.table", lambda x: x - 10**6, r"rows\.table must be in 0 …"),
    "seat": _checked("rows.seat", lambda x: x + 99, r"rows\.seat must be in 0 …"),
    "token": _checked("rows.offset", lambda x: x + 10**6, r"rows\.offset must be in 0 …"),
    "tokens of a row": _checked("rows.live", lambda x: x + 99, r"rows\.live must be in 0 …"),
    "position": _checked("rows.start", lambda x: x + 10**6, r"rows\.start must be in 0 …"),
    "count": _checked("chosen.counts", lambda x: x + 99, r"chosen\.counts must be in 0 … 24, got"),
    "tail": _checked("chosen.tail_from", lambda x: x + 10**6, r"chosen\.tail_from must be in 0 …"),
    "tail in the future": _checked("chosen.tail_from", lambda x: x + 30, r"rows\.start - chosen\.tail_from must be in"),
    "chosen position": _checked("chosen.positions", lambda x: x + 10**6, r"chosen\.positions must be in 0 …"),
    "chosen position in the tail": _checked("chosen.positions", lambda x: x * 0 + 70,
                                            r"chosen\.tail_from - chosen\.positions must"),
}  # fmt: skip
ATTENTION = KernelOp(
    name="attention",
    folder="attention",
    make=make_attention,
    random_sizes=_sizes,
    fixed=FIXED,
    real=REAL,
    judge=_judge,
    bad=_BAD,
    n_bytes=_n_bytes,
    n_flops=_n_flops,
)
