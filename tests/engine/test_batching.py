"""Continuous batching: who comes in when, what samples share, and where seeds come from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsespec.core.seeds import derive_seed
from tests.engine.running import (
    EVERY,
    SPARSE,
    Done,
    Known,
    compose,
    finish,
    greedy,
    prompt_of,
    requests_of,
    run,
    sampled,
    until,
)

PARAMS = sampled(6)


@pytest.mark.parametrize("loop", EVERY)
def test_late_requests_join_the_running_batch(loop: str) -> None:
    engine, done = compose(loop=loop, **SPARSE), Done()
    for shift in range(4):
        engine.add(prompt_of(14 + shift, shift), PARAMS)
        until_next = engine._step + 3
        done |= until(engine, lambda result, until_next=until_next: result.info.step >= until_next)
    assert len(engine._table.requests) > 1
    assert sorted(finish(engine, PARAMS, done=done)) == [(i, 0) for i in range(4)]


@pytest.mark.parametrize("loop", EVERY)
def test_more_requests_than_seats_are_served_first_come_first_served(loop: str) -> None:
    engine, seats = compose(loop=loop, max_num_seqs=2, **SPARSE), list[int]()
    for shift in range(5):
        engine.add(prompt_of(6 + 3 * (shift % 3), shift), PARAMS)
    order = list[int]()

    def look(result: object) -> None:
        seats.append(len(engine._table.requests))
        order.extend(r.number for r in engine._table.requests.values() if r.number not in order)

    finish(engine, PARAMS, look)
    assert order == sorted(order)
    assert max(seats) == 2


def test_a_small_request_does_not_overtake_a_large_one_that_waits_for_pages() -> None:
    engine = compose(max_num_seqs=3, num_gpu_blocks=11)
    engine.add(prompt_of(14), greedy(8))
    engine.step()
    large = engine.add(prompt_of(30, 1), greedy(4))
    little = engine.add(prompt_of(2, 2), greedy(4))
    waited = 0

    def look(result: object) -> None:
        nonlocal waited
        if requests_of(engine, large) and requests_of(engine, large)[0].seat < 0:
            assert requests_of(engine, little)[0].seat < 0
            waited += 1

    done = run(engine, look)
    assert waited > 3
    assert [done[i, 0].finish_reason for i in (0, large, little)] == ["length"] * 3


@pytest.mark.parametrize("loop", EVERY)
def test_samples_share_whole_prompt_pages_and_fill_the_rest_themselves(loop: str) -> None:
    engine = compose(loop=loop)
    request, params = engine.add(prompt_of(20), sampled(6, n=3)), sampled(6, n=3)
    until(engine, lambda _: all(r.seat >= 0 and not Known(engine, r).to_prefill for r in requests_of(engine, request)))
    # position 19 begins the first round, so 4 pages of 4 are never written again; a fifth is everyone's own
    assert [engine._parts.tiers.shared_pages(r.seat) for r in requests_of(engine, request)] == [0, 4, 4]
    assert engine.geometry.num_gpu_blocks - 1 - engine._parts.tiers.free_pages() == 4 + 3
    done = finish(engine, params)
    assert len({c.token_ids for c in done.values()}) == 3
    assert len({c.seed for c in done.values()}) == 1


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6])
def test_prompts_without_a_whole_page_to_share_are_filled_by_each_sample(length: int) -> None:
    engine, params, shared = compose(**SPARSE), sampled(6, n=2), set[int]()
    engine.add(prompt_of(length), params)
    finish(engine, params, lambda _: shared.update(engine._parts.tiers.shared_pages(s) for s in range(3)))
    assert max(shared) == (length - 2) // 4 * (length > 2)


def test_equal_prompts_of_two_requests_share_nothing() -> None:
    engine = compose()
    for _ in range(2):
        engine.add(prompt_of(20), PARAMS)
    until(engine, lambda result: result.info.step >= 2)
    assert [engine._parts.tiers.shared_pages(seat) for seat in (0, 1)] == [0, 0]


@pytest.mark.parametrize("loop", EVERY)
def test_more_samples_than_seats_come_one_after_another(loop: str) -> None:
    engine, params = compose(loop=loop, max_num_seqs=2, **SPARSE), sampled(6, n=5)
    engine.add(prompt_of(13), params)
    assert sorted(finish(engine, params)) == [(0, sample_index) for sample_index in range(5)]


def test_a_derived_seed_is_reported_and_gives_the_tokens_again() -> None:
    engine = compose(seed=5, **SPARSE)
    for _ in range(2):
        engine.add(prompt_of(20), sampled(10, n=2))
    first = run(engine)
    assert [first[i, 0].seed for i in (0, 1)] == [derive_seed(5, 0), derive_seed(5, 1)]
    assert len({c.token_ids for c in first.values()}) == 4
    other = compose(seed=6)
    for i in (1, 0):
        other.add(prompt_of(20), sampled(10, n=2, seed=first[i, 0].seed))
    again = run(other)
    assert [again[1 - i, s].token_ids for i, s in sorted(first)] == [first[key].token_ids for key in sorted(first)]


def test_a_given_seed_of_64_bits_is_kept() -> None:
    engine, params = compose(**SPARSE), sampled(8, seed=(1 << 64) - 3)
    engine.add(prompt_of(20), params)
    (completion,) = finish(engine, params).values()
    assert completion.seed == (1 << 64) - 3


def test_who_shares_a_batch_does_not_change_what_is_said() -> None:
    alone = compose(seed=9)
    alone.add(prompt_of(20), sampled(10))
    (expected,) = run(alone).values()
    crowd = compose(seed=9, max_num_seqs=2, num_gpu_blocks=14, **SPARSE)
    crowd.add(prompt_of(20), sampled(10))
    for shift in range(1, 4):
        crowd.add(prompt_of(11, shift), replace(greedy(9), n=2))
    assert run(crowd)[0, 0].token_ids == expected.token_ids
