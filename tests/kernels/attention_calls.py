"""Calls of the op `attention` with rows of all kinds, and what is wrong with a call's results.

Pools are NaN wherever no row may look, outputs and workspaces are NaN before the launch, and the tolerance is that of
`sparsespec.testing.tolerance`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.kernels.attention import reference
from sparsespec.testing.tolerance import KEPT, allowed, error, log_error
from tests.kernels.launched import DEVICE, poisoned, room

kernels: Any = room("attention")

SMALL = kernels.Tiling(
    tile=16, block=16, split=32, wide_tile=16, sparse_tile=16, sparse_block=16,
    own_tiles=2, own_busy=1000,
)  # fmt: skip
NAMES = ("seat", "offset", "start", "live", "sparse", "scored")
LISTED = 24
SCALE = 0.37
Results = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, slots=True)
class Shape:
    head_dim: int = 16
    n_kv_heads: int = 2
    group: int = 3
    page: int = 16
    groups: int = 1
    ends: tuple[int, int] = (1, 1)
    tiling: Any = SMALL


@dataclass(slots=True)
class Call:
    """One call of the op; `spans` are the query tokens of the rows."""

    q: Tensor
    k: Tensor
    v: Tensor
    rows: AttentionRows
    chosen: Chosen
    shape: Shape

    def run(self, rows: AttentionRows | None = None) -> Results:
        rows = rows or self.rows
        work = kernels.plan(self.q, self.k, rows, tiling=self.shape.tiling)
        return self.launch(rows, work)

    def launch(self, rows: AttentionRows, work: Any, *, blank: float = torch.nan) -> Results:
        """Run with what was planned; results are NaN before, and the workspace `blank`."""
        for x in (work.part_acc, work.part_m, work.part_l, work.p, work.p_max):
            if x is not None:
                x.fill_(blank)
        with poisoned():
            return kernels.run(self.q, self.k, self.v, rows, work, scale=SCALE, chosen=self.chosen)

    def reference(self, dtype: torch.dtype) -> Results:
        q, k, v = (x.to(dtype) for x in (self.q, self.k, self.v))
        return reference.attention(q, k, v, self.rows, scale=SCALE, chosen=self.chosen)

    def only(self, b: int, first: int = 0, n: int | None = None) -> AttentionRows:
        """Return row b alone, or n of its queries from `first` on."""
        one = {name: getattr(self.rows, name)[b : b + 1] for name in NAMES}
        n = int(one["live"]) - first if n is None else n
        moved = {
            "offset": one["offset"] + first,
            "start": one["start"] + first,
            "live": torch.full_like(one["live"], n),
        }
        return replace(self.rows, **(one | moved))

    def span(self, b: int) -> slice:
        offset, live = int(self.rows.offset[b]), int(self.rows.live[b])
        return slice(offset, offset + live)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row to lay out; `tail` and `count` are those of a sparse one, `gap` tokens behind it belong to nobody."""

    start: int
    live: int
    sparse: bool = False
    scored: bool = False
    tail: int = 0
    count: int = 0
    gap: int = 0


def draw(
    seed: int,
    dtype: torch.dtype,
    shape: Shape,
    starts: tuple[int, ...] = (0, 1, 15, 16, 31, 40, 64, 70),
    lives: tuple[int, ...] = (0, 1, 1, 2, 3, 8, 9, 30),
) -> Call:
    """Draw a call of 1 to 5 rows, dense and sparse, scored and not, dead and alive."""
    dice, wanted = random.Random(seed), []
    for _ in range(dice.randint(1, 5)):
        start, live, sparse = dice.choice(starts), dice.choice(lives), dice.random() < 0.4
        tail = count = 0
        if sparse:
            live, tail = min(live, 8), dice.randint(0, start)
            count = dice.choice((0, min(tail, LISTED), dice.randint(0, min(tail, LISTED))))
        scored = not sparse and live > 0 and dice.random() < 0.7
        wanted.append(Wanted(start, live, sparse, scored, tail, count, dice.randint(0, 2)))
    return lay_out(wanted, dtype, shape, seed, longest=max(starts) + max(lives) + 18)


def lay_out(
    wanted: Sequence[Wanted], dtype: torch.dtype, shape: Shape, seed: int, longest: int, *, blank: float = torch.nan
) -> Call:
    """Return a call with these rows; `blank` stands in the pool wherever no row may look."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    s, n_rows = shape, len(wanted)
    blocks, seats = -(-longest // s.page), n_rows + 1
    table = (torch.randperm(seats * blocks, generator=generator) + 1).view(seats, blocks)
    seat = torch.randperm(seats, generator=generator)[:n_rows]
    kv = torch.full((2, (seats * blocks + 1) * s.page, s.n_kv_heads, s.head_dim), blank)
    positions = torch.full((s.groups, seats, LISTED), 1 << 20, dtype=torch.int32)
    counts, tails = torch.zeros(seats, dtype=torch.int64), torch.zeros(seats, dtype=torch.int64)
    n = sum(row.live + row.gap for row in wanted) + 1
    q = torch.full((n, s.n_kv_heads * s.group, s.head_dim), torch.nan)
    offsets, n = [], 0
    for b, row in enumerate(wanted):
        tails[seat[b]], counts[seat[b]] = row.tail, row.count
        for group in range(s.groups):
            chosen = torch.tensor(sorted(dice.sample(range(row.tail), row.count)), dtype=torch.int32)
            positions[group, seat[b], : row.count] = chosen
        t = torch.arange(row.start + row.live)
        slots = table[seat[b], t // s.page] * s.page + t % s.page
        kv[:, slots] = torch.randn(2, len(t), s.n_kv_heads, s.head_dim, generator=generator)
        q[n : n + row.live] = torch.randn(row.live, *q.shape[1:], generator=generator)
        offsets.append(n)
        n += row.live + row.gap
    k, v = kv.to(DEVICE, dtype).view(2, -1, s.page, s.n_kv_heads, s.head_dim)
    columns = {name: [getattr(row, name) for row in wanted] for name in ("start", "live", "sparse", "scored")}
    rows = AttentionRows(
        seat=seat.to(DEVICE),
        offset=torch.tensor(offsets, device=DEVICE),
        **{name: torch.tensor(x, device=DEVICE) for name, x in columns.items()},
        table=table.to(DEVICE),
        ends=s.ends,
        groups=s.groups,
    )
    return Call(q.to(DEVICE, dtype), k, v, rows, Chosen(*(x.to(DEVICE) for x in (positions, counts, tails))), s)


def wrong(call: Call, run: Callable[[], Results] | None = None) -> list[str]:
    """Return which results are not what the reference gives in float64; nothing if all are."""
    dtype = call.q.dtype
    out, lse, scores = (run or call.run)()
    exact, rounded = call.reference(torch.float64), call.reference(dtype)
    dead = ~alive(call)
    found = {
        "out": error(out, exact[0]) > allowed(dtype, error(rounded[0], exact[0])),
        "lse": log_error(lse, exact[1]) > allowed(dtype, log_error(rounded[1], exact[1])) + 2e-5,
        "dead": bool(out[dead].any() or lse[dead].any()),
    }
    if exact[2] is not None and any(call.shape.ends):
        assert scores is not None and rounded[2] is not None
        length = exact[2].shape[-1]
        limit = allowed(dtype, error(rounded[2], exact[2])) + KEPT[dtype]
        found["scores"] = error(scores[..., :length], exact[2]) > limit or bool(scores[..., length:].any())
    return [name for name, is_wrong in found.items() if is_wrong]


def alive(call: Call) -> Tensor:
    """Return which query tokens belong to a row, [N]."""
    mask = torch.zeros(len(call.q), dtype=torch.bool, device=call.q.device)
    for b in range(len(call.rows.seat)):
        mask[call.span(b)] = True
    return mask


def same(a: Results, b: Results, at: slice) -> bool:
    """Say whether two calls gave the queries `at` the same bits."""
    return torch.equal(a[0][at], b[0][at]) and torch.equal(a[1][at], b[1][at])


def who_owns_changes_bits(call: Call) -> bool:
    """Say whether bits change with who does which splits, and who folds them."""
    folded, found = call.run(), False
    tiling = call.shape.tiling or kernels.tiling_for(call.k.dtype, call.shape.head_dim)
    for change in ({"own_tiles": 1}, {"own_tiles": 99}, {"own_busy": 0}):
        again = replace(call, shape=replace(call.shape, tiling=replace(tiling, **change)))
        found |= not same(again.run(), folded, slice(None))
    return found or not same(several(call, replace(tiling, start=50)), folded, slice(None))


def several(call: Call, tiling: Any) -> Results:
    """Run a call as if there were eight programs: where one split an item took them two rounds, items do two."""
    work = kernels.plan(call.q, call.k, call.rows, tiling=tiling)
    work.programs = 8
    work.fill(call.rows, len(call.q))
    return call.launch(call.rows, work)
