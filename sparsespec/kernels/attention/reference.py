"""Defines `attention` in plain torch, one row at a time, for any float dtype.

Half types are computed in float32, float32 and float64 in themselves. What does not depend on the layer is planned
once per step, because on a CPU it would cost as much as the arithmetic of a short context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption


@dataclass(frozen=True, slots=True)
class _Row:
    """A live row; `blocks` are its pages, a slice where they lie in a row; `ends` are its scored queries."""

    index: int
    seat: int
    offset: int
    start: int
    live: int
    sparse: bool
    positions: Tensor
    blocks: slice | Tensor
    ends: list[int]

    @property
    def end(self) -> int:
        return self.start + self.live


def check(pool: Tensor, n_heads: int, ends: tuple[int, int]) -> None:
    """Take all sizes and float types."""


def plan(
    rows: AttentionRows,
    pool: Tensor,
    n_tokens: int,
    n_heads: int,
    n_rows: int,
    decode_queries: int | None,
    before: list[_Row] | None,
) -> list[_Row]:
    """See `kernels/attention/api.py`; there are no buffers, so their sizes do not matter."""
    columns = (rows.seat, rows.offset, rows.start, rows.live, rows.sparse, rows.scored)
    found: list[_Row] = []
    for index, (seat, offset, start, live, sparse, scored) in enumerate(zip(*map(Tensor.tolist, columns), strict=True)):
        if live:
            positions = torch.arange(start + live, device=rows.seat.device)[None]
            blocks = _blocks(rows.table[seat, : -(-(start + live) // pool.shape[1])])
            ends = _ends(live, rows.ends) if scored and not sparse else []
            found.append(_Row(index, seat, offset, start, live, sparse, positions, blocks, ends))
    return found


def scores_shape(work: list[_Row]) -> None:
    """Return None: every run makes its own scores."""


def run(
    live: list[_Row],
    rows: AttentionRows,
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    scale: float,
    chosen: Chosen | None,
    scores: None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `kernels/attention/api.py`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:2], dtype=wide)
    found = None
    if any(row.ends for row in live):
        length = int((rows.start + rows.live).max())
        found = q.new_zeros((rows.groups, len(rows.seat), length), dtype=wide)
    for row in live:
        positions = row.positions
        if row.sparse:
            if chosen is None:
                raise BadOption("rows.sparse must be False in every row where there is no selection")
            positions = _selected(chosen, row.seat, row.end)
            k, v = (_gather(x, rows.table[row.seat], positions).to(wide) for x in (k_pages, v_pages))
        else:
            k, v = (_all(x, row.blocks, row.end).to(wide) for x in (k_pages, v_pages))
        here = slice(row.offset, row.offset + row.live)
        # only keys of the row itself can lie in a query's future
        hidden = positions[:, None] > positions[:, -row.live :, None] if row.live > 1 else None
        o, z, p = _attend(q[here].to(wide), k, v, hidden, scale)
        out[here] = o
        lse[here] = z
        if found is not None and row.ends:
            mass = p[:, row.ends].mean((1, 2))
            found[:, row.index, : row.end] = mass.unflatten(0, (rows.groups, -1)).mean(1)
    return out, lse, found


def _attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return out [n, Hq, D], lse [n, Hq] and probabilities [Hkv, n, G, m]; k and v are [lists, m, heads, D]."""
    n, n_heads, head_dim = q.shape
    lists, m, heads, _ = k.shape
    group = n_heads // (lists * heads)
    # one product per KV head: [n * G, D] against [D, m]
    x = (q * scale).view(n, -1, group, head_dim).transpose(0, 1).reshape(-1, n * group, head_dim)
    k, v = (y.transpose(1, 2).reshape(-1, m, head_dim) for y in (k, v))
    s = torch.bmm(x, k.transpose(1, 2))
    if hidden is not None:
        s = s.view(lists, heads, n, group, m).masked_fill(hidden[:, None, :, None], -torch.inf).view_as(s)
    # every query sees at least itself, so the maximum is finite
    highest = s.amax(-1, keepdim=True)
    p = (s - highest).exp_()
    total = p.sum(-1, keepdim=True)
    p /= total
    out = torch.bmm(p, v).view(-1, n, group, head_dim).transpose(0, 1).reshape(n, n_heads, head_dim)
    lse = total.log_().add_(highest).view(-1, n, group).transpose(0, 1).reshape(n, n_heads)
    return out, lse, p.view(-1, n, group, m)


def _selected(chosen: Chosen, seat: int, end: int) -> Tensor:
    """Return what a sparse row reads, [groups, count + tail]."""
    positions = chosen.positions[:, seat, : int(chosen.counts[seat])].to(torch.int64)
    tail = torch.arange(int(chosen.tail_from[seat]), end, device=positions.device)
    return torch.cat((positions, tail.expand(len(positions), -1)), dim=1)


def _blocks(pages: Tensor) -> slice | Tensor:
    """Return `pages` as a slice if they follow one another, so that reading them copies nothing."""
    first, n = int(pages[0]), len(pages)
    in_a_row = torch.equal(pages, torch.arange(first, first + n, device=pages.device))
    return slice(first, first + n) if in_a_row else pages


def _all(pages: Tensor, blocks: slice | Tensor, end: int) -> Tensor:
    """Return the keys or values at positions 0 … end - 1, [1, end, Hkv, D]."""
    # index_select copies whole pages; indexing with [] takes three times as long on a CPU
    held = pages[blocks] if isinstance(blocks, slice) else pages.index_select(0, blocks)
    return held.flatten(0, 1)[None, :end]


def _gather(pages: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Return the keys or values at positions [lists, m], [lists, m, Hkv / lists, D]."""
    block_size, n_kv_heads, head_dim = pages.shape[1:]
    lists = len(positions)
    slots = table[positions // block_size] * block_size + positions % block_size
    index = slots * lists + torch.arange(lists, device=pages.device)[:, None]
    tokens = pages.view(-1, n_kv_heads // lists, head_dim)
    return tokens.index_select(0, index.flatten()).unflatten(0, index.shape)


def _ends(live: int, ends: tuple[int, int]) -> list[int]:
    first, last = ends
    return sorted({*range(min(first, live)), *range(max(0, live - last), live)})
