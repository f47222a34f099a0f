"""KV from nowhere: the books of an engine must be those that a prefill leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.engine_fill import Inside, draw_kv
from bench.engine_models import TINY, model_of
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.engine.engine import Engine
from sparsespec.models.transformer import Transformer
from tests.quick import quick_last

PROMPTS = ([1, 2, 3] * 14, [5] * 17, [7, 8] * 30, [9] * 2)
PARAMS = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of(TINY, "float32", "cpu", 0)[0]


def engine_of(model: Transformer, preset: str, *, fill: bool, **changes: Any) -> tuple[Engine, Inside]:
    engine = Engine.compose(model, preset, max_num_seqs=3, max_model_len=120, eos_ids=(), **changes)
    inside = Inside.of(engine)
    if fill:
        draw_kv(inside, 0)
        inside.seat_filled()
    for prompt in PROMPTS:
        engine.add(prompt, PARAMS)
    return engine, inside


def books(inside: Inside) -> dict[int, tuple[int, ...]]:
    """Return, by request, what host and device believe: tokens, unfilled ones, pages, c, filled."""
    tiers, state, known = inside.parts.tiers, inside.state, inside.table
    return {
        r.number: tuple(
            map(
                int,
                (
                    known.n[seat],
                    known.to_prefill[seat],
                    tiers.pages(seat),
                    state.n_committed[seat],
                    state.n_computed[seat],
                ),
            )
        )
        for seat, r in inside.queue.seated.items()
    }


@pytest.mark.parametrize("preset", ["dense", "sparsespec"])
def test_the_books_are_those_of_a_prefill(model: Transformer, preset: str) -> None:
    filled, inside = engine_of(model, preset, fill=True, loop="sync")
    filled.step()
    inside.parts.tiers.check()
    # the chunk is larger than all prompts together: one step of prefill, then the same first step
    real, other = engine_of(model, preset, fill=False, loop="sync")
    real.step()
    real.step()
    assert books(inside) == books(other)
    tables = (inside.state.table, other.state.table)
    assert [int((table > 0).sum()) for table in tables] == [
        sum(pages for _, _, pages, *_ in books(inside).values())
    ] * 2


@pytest.mark.parametrize("loop", quick_last(("sync", "delayed", "resident")))
def test_requests_run_to_their_end_and_leave_nothing_behind(model: Transformer, loop: str) -> None:
    engine, inside = engine_of(model, "sparsespec", fill=True, loop=loop)
    said: dict[int, int] = {}
    while engine.has_work:
        for event in engine.step().events:
            said[event.request_id] = said.get(event.request_id, 0) + len(event.token_ids)
            assert event.completion is None or event.completion.error is None
        inside.parts.tiers.check()
    assert said == dict.fromkeys(range(len(PROMPTS)), PARAMS.max_tokens)
    assert inside.parts.tiers.free_pages() == engine.geometry.num_gpu_blocks - 1


def test_what_is_left_of_a_prompt_is_prefilled(model: Transformer) -> None:
    for leave in (1, 5, None):
        engine, inside = engine_of(model, "sparsespec", fill=False)
        inside.seat_filled().leave = leave
        rows = engine.step().info.placed.rows
        assert all(row.phase is Phase.PREFILL for row in rows)
        assert [row.n_query for row in rows] == [len(p) - 1 if leave is None else leave for p in PROMPTS[:3]]


def test_the_last_position_of_a_prompt_warms_a_selection_up(model: Transformer) -> None:
    drafts: dict[int, bool] = {}
    for leave in (0, 1):
        budget = "pillar(budget=0.1,min_budget=4)"
        engine, inside = engine_of(model, "sparsespec", fill=False, loop="sync", selector=budget)
        draw_kv(inside, 0)
        inside.seat_filled().leave = leave
        collected = [row for _ in range(4) for row in engine.step().info.collected if row.phase is Phase.DRAFT]
        assert collected
        drafts[leave] = all(row.kv_read < row.kv_full for row in collected)
    assert drafts == {0: False, 1: True}


def test_the_pool_is_full_of_numbers(model: Transformer) -> None:
    _, inside = engine_of(model, "dense", fill=True)
    for pool in inside.pools:
        assert pool.isfinite().all()
        assert abs(float(pool.std()) - 1) < 0.05
    assert not torch.equal(*inside.pools)
