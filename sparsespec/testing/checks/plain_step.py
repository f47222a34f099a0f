"""A drawn step as its definition reads, in Python loops: what `check_attention` holds a backend against."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsespec.core.plan import Phase
from sparsespec.testing.checks.drawn_step import Step
from sparsespec.testing.checks.plain_attention import attend_plainly, norm_plainly, rotate_plainly, scored_queries
from sparsespec.testing.checks.stage import RowAt


class Ran(NamedTuple):
    """What a step gave, or should give."""

    outs: list[Tensor]  # per layer [N, Hq, D]
    scores: dict[int, Tensor]  # by layer [groups, B, S], S at least what the longest row holds
    read: Tensor  # [B]
    k_pages: Tensor  # [L, pages, P, Hkv, D]
    v_pages: Tensor


def plainly(step: Step) -> Ran:
    """Return the step in float64, one query, head and key at a time."""
    g = step.geometry
    outs: list[Tensor] = []
    scores: dict[int, Tensor] = {}
    read = torch.zeros(len(step.rows), dtype=torch.float64)
    pools = [x.to(torch.float64, copy=True) for x in (step.k_pages, step.v_pages)]
    for layer in range(g.n_layers):
        out, scores[layer] = _layer(step, layer, (pools[0][layer], pools[1][layer]))
        outs.append(out)
        for b, row in enumerate(step.rows):
            if row.live:
                read[b] += len(positions(step, layer, row, 0, row.start + row.live - 1)) / g.n_layers
    return Ran(outs, scores if _scores_anything(step) else {}, read, pools[0], pools[1])


def positions(step: Step, layer: int, row: RowAt, head: int, now: int) -> list[int]:
    """Return what the query at position `now` reads."""
    if row.phase is not Phase.DRAFT:
        return list(range(now + 1))
    chosen = step.choice.layers[layer]
    group = head * step.geometry.groups // step.geometry.n_heads
    picked = chosen.positions[group, row.seat, : int(chosen.counts[row.seat])].tolist()
    return picked + list(range(int(chosen.tail_from[row.seat]), now + 1))


def _scores_anything(step: Step) -> bool:
    return any(row.scored and row.live for row in step.rows) and any(step.geometry.scored)


def _layer(step: Step, layer: int, pools: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a layer's output and scores; write its keys and values into `pools`."""
    g = step.geometry
    queries, keys, values = _appended(step, layer, pools)
    longest = max(row.start + row.live for row in step.rows)
    out = torch.zeros(len(queries), g.n_heads, g.head_dim, dtype=torch.float64)
    scores = torch.zeros(g.groups, len(step.rows), longest, dtype=torch.float64)
    first = 0
    for b, row in enumerate(step.rows):
        ends = scored_queries(row.live, g.scored) if row.scored else []
        for j, head in ((j, head) for j in range(row.live) for head in range(g.n_heads)):
            kv_head = head * g.n_kv_heads // g.n_heads
            at = positions(step, layer, row, head, row.start + j)
            k, v = ({t: x[row.seat][t][kv_head] for t in at} for x in (keys, values))
            got = attend_plainly(queries[first + j][head], k, v, g.head_dim**-0.5)
            out[first + j, head] = torch.tensor(got.out, dtype=torch.float64)
            if j in ends:
                share = g.groups / (g.n_heads * len(ends))
                for t, p in got.probability.items():
                    scores[head * g.groups // g.n_heads, b, t] += p * share
        first += row.n_query
    return out, scores


def _appended(step: Step, layer: int, pools: tuple[Tensor, Tensor]) -> tuple[list[Any], dict[int, Any], dict[int, Any]]:
    """Return rotated queries by token, and keys and values by seat, position and head."""
    g, side = step.geometry, step.side
    cos, sin = (table.to(torch.float64).tolist() for table in side.rope)
    qs, ks, vs = (x.to(torch.float64).tolist() for x in step.qkv[layer])
    norms = [w if w is None else w.to(torch.float64).tolist() for w in (side.q_norm(layer), side.k_norm(layer))]
    queries: list[Any] = []
    keys, values = dict[int, Any](), dict[int, Any]()
    for row in step.rows:
        pages = step.state.table[row.seat].tolist()
        keys[row.seat], values[row.seat] = (
            {t: pool[pages[t // g.block_size], t % g.block_size].tolist() for t in range(row.start)} for pool in pools
        )
        for j in range(row.n_query):
            i, t = len(queries), row.start + j if j < row.live else 0
            queries.append([rotate_plainly(norm_plainly(x, norms[0], side.rms_eps), cos[t], sin[t]) for x in qs[i]])
            if j < row.live:
                k = [rotate_plainly(norm_plainly(x, norms[1], side.rms_eps), cos[t], sin[t]) for x in ks[i]]
                keys[row.seat][t], values[row.seat][t] = k, vs[i]
                for pool, x in zip(pools, (k, vs[i]), strict=True):
                    pool[pages[t // g.block_size], t % g.block_size] = torch.tensor(x, dtype=torch.float64)
    return queries, keys, values
