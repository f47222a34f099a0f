"""Defines `attention` in plain torch, one row at a time, for any float dtype.

Half types are computed in float32, float32 and float64 in themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen


def attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    rows: AttentionRows,
    *,
    scale: float,
    chosen: Chosen | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `kernels/attention/api.py`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:2], dtype=wide)
    starts, lives, offsets = rows.start.tolist(), rows.live.tolist(), rows.offset.tolist()
    seats, sparse, scored = rows.seat.tolist(), rows.sparse.tolist(), rows.scored.tolist()
    scores = None
    if any(scored):
        length = max(s + n for s, n in zip(starts, lives, strict=True))
        scores = q.new_zeros((rows.groups, len(seats), length), dtype=wide)
    for b, (seat, offset, start, live) in enumerate(zip(seats, offsets, starts, lives, strict=True)):
        if not live:
            continue
        end, table = start + live, rows.table[seat]
        if sparse[b]:
            assert chosen is not None, "a sparse row came without a selection"
            positions = _selected(chosen, seat, end)
            k, v = (_gather(pages, table, positions).to(wide) for pages in (k_pages, v_pages))
        else:
            positions = torch.arange(end, device=q.device)[None]
            k, v = (x.to(wide) for x in _all(k_pages, v_pages, table, end))
        # only keys of the row itself can lie in a query's future
        visible = positions[:, None] <= positions[:, -live:, None] if live > 1 else None
        o, z, p = _attend(q[offset : offset + live].to(wide), k, v, visible, scale)
        out[offset : offset + live] = o.to(q.dtype)
        lse[offset : offset + live] = z
        if scored[b] and scores is not None:
            scored_queries = p[_ends(live, rows.ends)]
            scores[:, b, :end] = scored_queries.mean(0).unflatten(0, (rows.groups, -1)).mean(1)
    return out, lse, scores


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float) -> tuple[Tensor, ...]:
    """Return out [n, Hq, D], lse [n, Hq] and probabilities [n, Hq, m]; k and v are [lists, m, heads, D]."""
    n, n_heads, head_dim = q.shape
    lists, m, heads, _ = k.shape
    group = n_heads // (lists * heads)
    # [lists, heads, n * group, D] against [lists, heads, D, m]
    x = q.view(n, lists, heads, group, head_dim).permute(1, 2, 0, 3, 4).flatten(2, 3)
    s = (x @ k.permute(0, 2, 3, 1)).unflatten(2, (n, group)) * scale
    if visible is not None:
        s = s.masked_fill(~visible[:, None, :, None], -torch.inf)
    # every query sees at least itself, so the maximum is finite
    highest = s.amax(-1, keepdim=True)
    p = (s - highest).exp_()
    total = p.sum(-1, keepdim=True)
    p, z = p / total, total.log() + highest
    o = p.flatten(2, 3) @ v.transpose(1, 2)
    o = o.unflatten(2, (n, group)).permute(2, 0, 1, 3, 4).reshape(n, n_heads, head_dim)
    p = p.permute(2, 0, 1, 3, 4).reshape(n, n_heads, m)
    return o, z.squeeze(-1).permute(2, 0, 1, 3).reshape(n, n_heads), p


def _selected(chosen: Chosen, seat: int, end: int) -> Tensor:
    """Return what a sparse row reads, [groups, count + tail]."""
    positions = chosen.positions[:, seat, : int(chosen.counts[seat])].to(torch.int64)
    tail = torch.arange(int(chosen.tail_from[seat]), end, device=positions.device)
    return torch.cat((positions, tail.expand(len(positions), -1)), dim=1)


def _all(k_pages: Tensor, v_pages: Tensor, table: Tensor, end: int) -> list[Tensor]:
    """Return keys and values at positions 0 … end - 1, [1, end, Hkv, D] each; views where pages lie in a row."""
    blocks = table[: -(-end // k_pages.shape[1])]
    first, n = int(blocks[0]), len(blocks)
    if torch.equal(blocks, torch.arange(first, first + n, device=blocks.device)):
        held = [pages[first : first + n] for pages in (k_pages, v_pages)]
    else:
        held = [pages.index_select(0, blocks) for pages in (k_pages, v_pages)]
    return [pages.flatten(0, 1)[None, :end] for pages in held]


def _gather(pages: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Return the keys or values at positions [lists, m], [lists, m, Hkv / lists, D]."""
    page_size, n_kv_heads, head_dim = pages.shape[1:]
    lists = len(positions)
    slots = table[positions // page_size] * page_size + positions % page_size
    index = slots * lists + torch.arange(lists, device=pages.device)[:, None]
    tokens = pages.view(-1, n_kv_heads // lists, head_dim)
    return tokens.index_select(0, index.flatten()).unflatten(0, index.shape)


def _ends(live: int, ends: tuple[int, int]) -> list[int]:
    first, last = ends
    return sorted({*range(min(first, live)), *range(max(0, live - last), live)})
