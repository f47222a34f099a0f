"""Rounds that the device ends early, where its newest draft is unsure."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sparsespec.core.plan import Phase
from sparsespec.core.result import RowResult
from sparsespec.policies.lengths.confidence import Confidence
from sparsespec.policies.lengths.fixed import Fixed
from tests.engine.running import (
    EVERY,
    PILLAR,
    Done,
    Known,
    add,
    compose,
    finish,
    greedy,
    prompt_of,
    requests_of,
    run,
    sampled,
    until,
)
from tests.quick import quick_last

SURE = partial(Confidence, draft=6, stop_below=0.5)
"""Drafts on while the newest draft's top-1 probability is a half or more."""


def _decode(length: Any, **changes: Any) -> tuple[Done, list[RowResult]]:
    engine, collected = compose(selector=PILLAR, length=length, **changes), list[RowResult]()
    add(engine, sampled(9))
    return finish(engine, sampled(9), lambda result: collected.extend(result.info.collected)), collected


def _drafts(collected: list[RowResult]) -> list[RowResult]:
    return [r for r in collected if r.phase is Phase.DRAFT]


@pytest.mark.parametrize("scheduler", ["lockstep", "staggered"])
@pytest.mark.parametrize("loop", EVERY)
def test_an_unsure_draft_ends_its_round_and_is_kept(loop: str, scheduler: str) -> None:
    _, collected = _decode(SURE(), loop=loop, scheduler=scheduler)
    ended = [r for r in _drafts(collected) if r.live and r.confidence < 0.5]
    assert ended, "every draft was sure: this proves nothing"
    assert all(len(r.tokens) == 1 for r in ended)
    assert any(r.k < 6 for r in ended)
    sure = [r for r in _drafts(collected) if r.live and r.confidence >= 0.5]
    assert sure, "no draft was sure: this proves nothing"
    # nothing drawn is thrown away: each draft is judged
    drafted = sum(len(r.tokens) for r in _drafts(collected))
    assert drafted == sum(r.n_candidates for r in collected if r.phase is Phase.VERIFY)


@pytest.mark.parametrize("loop", quick_last(("delayed", "resident")))
def test_rows_launched_before_the_end_was_heard_do_nothing(loop: str) -> None:
    done, collected = _decode(SURE(), loop=loop)
    dead = [r for r in _drafts(collected) if not r.live]
    assert dead
    for row in dead:
        assert row.tokens == ()
        assert (row.n_candidates, row.n_accepted, row.kv_read, row.kv_full) == (0, 0, 0, 0)
        assert row.confidence != row.confidence
        assert row.k < 6
    live = sum(c.metrics.num_draft_steps for c in done.values())
    assert live == len(_drafts(collected)) - len(dead)


def test_a_host_that_hears_at_once_launches_no_dead_row() -> None:
    _, collected = _decode(SURE(), loop="sync")
    assert all(r.live for r in _drafts(collected))


def test_the_view_shows_the_new_length() -> None:
    engine = compose(selector=PILLAR, length=SURE(), loop="sync")
    request = engine.add(prompt_of(20), greedy(14))
    seen = list[RowResult]()

    def unsure(result: Any) -> bool:
        seen.extend(r for r in result.info.collected if r.phase is Phase.DRAFT)
        return bool(seen) and seen[-1].k < 6

    until(engine, unsure)
    view, _ = engine._table.view(engine._step, engine._parts.tiers, engine._executor.in_flight)
    assert (view.k.tolist(), view.d_lo.tolist(), view.d_hi.tolist()) == ([seen[-1].k],) * 3
    assert seen[-1].confidence < 0.5
    assert Known(engine, requests_of(engine, request)[0]).in_round
    run(engine)


@pytest.mark.parametrize("loop", EVERY)
def test_a_threshold_of_1_stops_after_each_draft_and_0_never(loop: str) -> None:
    done, collected = _decode(SURE(stop_below=1.0), loop=loop)
    assert {len(r.tokens) for r in _drafts(collected) if r.live} == {1}
    rounds = sum(c.metrics.num_spec_rounds for c in done.values())
    assert sum(c.metrics.num_draft_tokens for c in done.values()) == rounds
    _, collected = _decode(Fixed(draft=6), loop=loop)
    assert all(r.live and r.k in range(7) for r in _drafts(collected))
    assert max(r.n_candidates for r in collected if r.phase is Phase.VERIFY) == 6


@pytest.mark.parametrize("loop", EVERY)
def test_guesses_and_tight_memory_change_nothing(loop: str) -> None:
    done, collected = _decode(
        Confidence(draft=5, guess=3, stop_below=0.6), loop=loop, proposer="ngram", num_gpu_blocks=12
    )
    assert sum(c.metrics.num_preemptions for c in done.values()) > 0
    assert sum(c.metrics.num_guess_tokens for c in done.values()) > 0
    assert any(r.k < 5 for r in _drafts(collected))
