"""Held against Python loops over ragged rows of all kinds, in a pool that is NaN wherever nobody wrote."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import UnknownName
from sparsespec.core.plan import Phase
from sparsespec.kernels.attention.api import IMPLS, Attended, attention
from sparsespec.testing.checks.drawn_step import Step, close, draw_step
from sparsespec.testing.checks.plain_attention import attend_plainly, scored_queries
from tests.quick import quick_last

SCALE = 0.37


class Call:
    """One call of the op, made from a random step: the KV of its queries is already in the pool."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.dtype, self.step = dtype, draw_step(random.Random(seed), dtype, wants_scores=True)
        step = self.step
        batch = step.batch()
        self.q, k, v = step.qkv[0]
        self.k_pages, self.v_pages = step.k_pages[0].clone(), step.v_pages[0].clone()
        for pages, x in ((self.k_pages, k), (self.v_pages, v)):
            pages.flatten(0, 1)[batch.slots] = x
        # page 0 belongs to nobody: what is there must not matter
        self.k_pages[0] = self.v_pages[0] = torch.nan
        self.rows = AttentionRows(
            seat=batch.seat,
            offset=batch.offset,
            start=batch.start,
            live=batch.live,
            sparse=batch.phase == Phase.DRAFT,
            scored=batch.scored & (batch.live > 0),
            table=batch.state.table,
            ends=step.geometry.scored,
            groups=step.geometry.groups,
        )
        self.chosen = step.choice.layers[0]

    def run(self, impl: str, rows: AttentionRows | None = None) -> Attended:
        return attention(
            self.q, self.k_pages, self.v_pages, rows or self.rows, scale=SCALE, chosen=self.chosen, impl=impl
        )


def positions(step: Step, chosen: Chosen, b: int, head: int, now: int) -> list[int]:
    row, g = step.rows[b], step.geometry
    if row.phase is not Phase.DRAFT:
        return list(range(now + 1))
    one = chosen.positions[head * g.groups // g.n_heads, row.seat, : int(chosen.counts[row.seat])]
    return one.tolist() + list(range(int(chosen.tail_from[row.seat]), now + 1))


def expected(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Return out, lse and scores."""
    step, g = call.step, call.step.geometry
    size, longest = g.block_size, max(row.start + row.live for row in step.rows)
    out, lse = torch.zeros(call.q.shape, dtype=torch.float64), torch.zeros(call.q.shape[:2], dtype=torch.float64)
    scores = torch.zeros(g.groups, len(step.rows), longest, dtype=torch.float64)
    for b, row in enumerate(step.rows):
        first, scored = int(call.rows.offset[b]), scored_queries(row.live, g.scored) if row.scored else []
        for j in range(row.live):
            for head in range(g.n_heads):
                kv_head = head * g.n_kv_heads // g.n_heads

                def at(pages: Tensor, t: int, row=row, kv_head=kv_head) -> list[float]:
                    return pages[step.state.table[row.seat, t // size], t % size, kv_head].double().tolist()

                ts = positions(step, call.chosen, b, head, row.start + j)
                q = call.q[first + j, head].double().tolist()
                keys, values = {t: at(call.k_pages, t) for t in ts}, {t: at(call.v_pages, t) for t in ts}
                read = attend_plainly(q, keys, values, SCALE)
                out[first + j, head] = torch.tensor(read.out, dtype=torch.float64)
                lse[first + j, head] = read.lse
                if j in scored:
                    for t, p in read.probability.items():
                        scores[head * g.groups // g.n_heads, b, t] += p * g.groups / (g.n_heads * len(scored))
    return out, lse, scores


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", quick_last(["float32", "float16", "float64"]))
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_is_what_the_loops_give(impl: str, dtype: str, seed: int) -> None:
    call = Call(seed, dtype)
    out, lse, scores = expected(call)
    got = call.run(impl)
    assert got.out.dtype == call.q.dtype
    assert close(got.out, out, dtype)
    assert close(got.lse, lse, dtype)
    if call.rows.scored.any():
        assert got.scores is not None
        assert close(got.scores, scores, dtype)
    else:
        assert got.scores is None


@pytest.mark.parametrize("impl", IMPLS)
def test_random_calls_cover_what_matters(impl: str) -> None:
    rows = [row for seed in range(60) for row in Call(seed, "float64").step.rows]
    assert {row.phase for row in rows} == set(Phase)
    assert any(not row.live for row in rows)
    assert any(row.start == 0 for row in rows)
    assert any(row.live < row.n_query for row in rows)
    sizes = {(c.step.geometry.groups, c.step.geometry.n_kv_heads) for c in (Call(s, "float64") for s in range(60))}
    assert {(1, 1), (1, 4), (2, 4), (4, 4)} <= sizes


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_query_gets_the_same_bits_among_any_neighbours(impl: str, dtype: str) -> None:
    for seed in range(30):
        call = Call(seed, dtype)
        together = call.run(impl)
        for b, row in enumerate(call.step.rows):
            alone = replace(
                call.rows,
                **{
                    name: getattr(call.rows, name)[b : b + 1]
                    for name in ("seat", "offset", "start", "live", "sparse", "scored")
                },
            )
            got = call.run(impl, alone)
            span = slice(int(call.rows.offset[b]), int(call.rows.offset[b]) + row.n_query)
            assert torch.equal(got.out[span], together.out[span])
            assert torch.equal(got.lse[span], together.lse[span])


@pytest.mark.parametrize("impl", IMPLS)
def test_scores_of_a_row_add_up_to_one_per_group(impl: str) -> None:
    seen = 0
    for seed in range(30):
        call = Call(seed, "float64")
        got = call.run(impl)
        if got.scores is not None:
            total = got.scores.sum(-1)
            assert torch.allclose(total, call.rows.scored.to(torch.float64).expand_as(total))
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize("impl", IMPLS)
def test_large_logits_stay_finite(impl: str) -> None:
    call = Call(1, "float64")
    call.q = call.q * 1e4
    got = call.run(impl)
    assert got.out.isfinite().all()
    assert got.lse.isfinite().all()


def test_an_unknown_implementation_raises() -> None:
    with pytest.raises(UnknownName, match="implementation of attention"):
        Call(0, "float32").run("flash")
