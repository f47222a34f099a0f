"""Requests whose prompts count as filled: host and device believe what a prefill leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsespec.benchmarks.models import TINY, model_of
from sparsespec.benchmarks.run import FillFirst, fill_randomly, filled_in
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import DRAFT, PREFILL
from sparsespec.engine.engine import Engine
from sparsespec.models.transformer import Transformer
from tests.quick import quick_last

PROMPTS = ([1, 2, 3] * 14, [5] * 17, [7, 8] * 30, [9] * 2)
PARAMS = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of(TINY, "float32", "cpu", 0)[0]


def engine_of(model: Transformer, preset: str, *, leave: int | None, **changes: Any) -> Engine:
    """Return an engine with requests of which all but `leave` positions to fill count as filled; None fills nothing."""
    engine = Engine.compose(model, preset, max_num_seqs=3, max_model_len=120, eos_ids=(), **changes)
    if leave is not None:
        fill_randomly(engine.pool, 0)
    for prompt in PROMPTS:
        engine.add(prompt, PARAMS, n_computed=0 if leave is None else max(0, len(prompt) - 1 - leave))
    return engine


def books(engine: Engine) -> dict[int, tuple[int, ...]]:
    """Return, by request, what host and device believe: tokens, unfilled ones, pages, n_committed, n_computed."""
    tiers, state, table = engine._parts.tiers, engine._executor._state, engine._table
    return {
        request.number: (
            int(table.n_committed[seat]),
            int(table.to_prefill[seat]),
            tiers.pages(seat),
            int(state.n_committed[seat]),
            int(state.n_computed[seat]),
        )
        for seat, request in table.requests.items()
    }


@pytest.mark.parametrize("preset", ["dense", "sparsespec"])
def test_the_books_are_those_of_a_prefill(model: Transformer, preset: str) -> None:
    filled = engine_of(model, preset, leave=0, loop="sync")
    filled.step()
    filled._parts.tiers.check()
    # the chunk is larger than all prompts together: one step of prefill, then the same first step
    real = engine_of(model, preset, leave=None, loop="sync")
    real.step()
    real.step()
    assert books(filled) == books(real)
    tables = (filled._executor._state.table, real._executor._state.table)
    n_pages = sum(pages for _, _, pages, *_ in books(filled).values())
    assert [int((table > 0).sum()) for table in tables] == [n_pages] * 2


@pytest.mark.parametrize("loop", quick_last(("sync", "delayed", "resident")))
def test_requests_run_to_their_end_and_leave_nothing_behind(model: Transformer, loop: str) -> None:
    engine = engine_of(model, "sparsespec", leave=0, loop=loop)
    n_output: dict[int, int] = {}
    free = 0
    while engine.has_work:
        result = engine.step()
        for event in result.events:
            n_output[event.request_id] = n_output.get(event.request_id, 0) + len(event.token_ids)
            assert event.completion is None or event.completion.error is None
        engine._parts.tiers.check()
        free = result.info.free_pages
    assert n_output == dict.fromkeys(range(len(PROMPTS)), PARAMS.max_tokens)
    assert free == engine.geometry.num_gpu_blocks - 1


def test_what_is_left_of_a_prompt_is_prefilled(model: Transformer) -> None:
    for leave in (1, 5, None):
        rows = engine_of(model, "sparsespec", leave=leave).step().info.placed.rows
        assert (rows.phase == PREFILL).all()
        assert rows.n_query.tolist() == [len(p) - 1 if leave is None else leave for p in PROMPTS[:3]]


def test_the_last_position_of_a_prompt_warms_a_selection_up(model: Transformer) -> None:
    drafts: dict[int, bool] = {}
    for leave in (0, 1):
        engine = engine_of(model, "sparsespec", leave=leave, loop="sync", selector="pillar(budget=0.1,min_budget=4)")
        collected = [row for _ in range(4) for row in engine.step().info.collected if row.phase == DRAFT]
        assert collected
        drafts[leave] = all(row.kv_read < row.kv_full for row in collected)
    assert drafts == {0: False, 1: True}


def test_the_pool_is_full_of_numbers_and_can_be_given_to_another_engine(model: Transformer) -> None:
    engine = engine_of(model, "dense", leave=0)
    for part in (engine.pool.k, engine.pool.v):
        assert part.isfinite().all()
        assert abs(float(part.std()) - 1) < 0.05
    assert not torch.equal(engine.pool.k, engine.pool.v)
    heir = engine_of(model, "sparsespec", leave=None, pool=engine.pool)
    assert heir.pool is engine.pool


@pytest.mark.parametrize("scheduler", ["staggered", "lockstep"])
def test_all_prompts_are_filled_before_any_request_decodes(model: Transformer, scheduler: str) -> None:
    first = FillFirst(scheduler, 30)
    engine = engine_of(model, "sparsespec", leave=None, scheduler=first)
    first.filling = True
    filled: list[int] = []
    while n := filled_in(result := engine.step()):
        assert (result.info.placed.rows.phase == PREFILL).all()
        filled.append(n)
    assert max(filled) == 30
    assert sum(filled) == sum(len(prompt) - 1 for prompt in PROMPTS[:3])
    assert first.arrival.tolist() == [0, 1, 2]
    assert not (result.info.placed.rows.phase == PREFILL).any()


@pytest.mark.parametrize("scheduler", ["staggered", "lockstep"])
def test_with_nothing_to_fill_first_the_other_scheduler_plans(model: Transformer, scheduler: str) -> None:
    plans: list[list[object]] = []
    for one in (scheduler, FillFirst(scheduler)):
        engine = engine_of(model, "sparsespec", leave=None, scheduler=one)
        plans.append([])
        while engine.has_work:
            plans[-1].append(tuple(engine.step().info.placed.rows))
    assert plans[0] == plans[1]
