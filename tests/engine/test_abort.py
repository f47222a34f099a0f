"""Abort, in every state a request can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from tests.engine.running import (
    EVERY,
    LOOPS,
    SPARSE,
    Known,
    add,
    assert_dense,
    assert_empty,
    compose,
    oracle,
    prompt_of,
    requests_of,
    run,
    said,
    sampled,
    until,
)

PARAMS = sampled(10)
VICTIM = 2
State = Callable[[Engine, StepResult], bool]


def _victim(engine: Engine) -> Any:
    return requests_of(engine, VICTIM)[0]


def _known(engine: Engine) -> Known:
    return Known(engine, _victim(engine))


STATES: dict[str, tuple[State, dict[str, Any], tuple[str, ...]]] = {
    "waiting": (lambda engine, _: _victim(engine).seat < 0, {"max_num_seqs": 2}, ("sync", "resident")),
    "prefilling": (
        lambda engine, _: 0 < _known(engine).to_prefill < 19,
        {"scheduler": "staggered(chunk=3)"},
        LOOPS,
    ),
    "filled": (lambda engine, _: _victim(engine).seat >= 0 and not _known(engine).to_prefill, {}, ("delayed",)),
    "drafting": (lambda engine, _: 0 < _known(engine).n_drafted < 4, {"scheduler": "staggered"}, LOOPS),
    "decoding": (lambda engine, _: len(said(engine, _victim(engine))) >= 4, {}, ("sync", "resident")),
    "preempted": (lambda engine, _: _known(engine).preempted, {"num_gpu_blocks": 18}, LOOPS),
    "starved": (lambda engine, _: _known(engine).starved, {"num_gpu_blocks": 18}, ("delayed",)),
    "refilling": (
        lambda engine, _: _known(engine).must_verify and _known(engine).to_prefill > 0,
        {"num_gpu_blocks": 22, "scheduler": "staggered(chunk=4, gain=100)"},
        LOOPS,
    ),
    "in_flight": (
        lambda engine, _: len(_known(engine).in_flight) > 0 and len(said(engine, _victim(engine))) > 0,
        {},
        ("delayed", "resident"),
    ),
}


@pytest.mark.parametrize(
    ("state", "loop"),
    [
        pytest.param(state, loop, marks=() if loop == loops[-1] else pytest.mark.slow)
        for state, (_, _, loops) in STATES.items()
        for loop in loops
    ],
)
def test_abort_keeps_what_was_said_and_costs_nobody_else(state: str, loop: str) -> None:
    reached, changes, _ = STATES[state]
    engine = compose(loop=loop, **{**SPARSE, **changes})
    add(engine, PARAMS)
    done = until(engine, lambda result: reached(engine, result))
    known = said(engine, _victim(engine))
    engine.abort(VICTIM)
    assert requests_of(engine, VICTIM) == []
    done |= run(engine)
    assert sorted(done) == [(0, 0), (1, 0), (VICTIM, 0)]
    ended = done[VICTIM, 0]
    assert ended.finish_reason == "abort"
    assert ended.error is ended.stop_reason is None
    assert ended.token_ids == known == oracle(ended, PARAMS)[: len(known)]
    for survivor in (0, 1):
        assert_dense(done[survivor, 0], PARAMS)
    assert_empty(engine)


@pytest.mark.parametrize("loop", EVERY)
def test_abort_ends_all_samples_wherever_they_are(loop: str) -> None:
    engine = compose(loop=loop, max_num_seqs=2, **SPARSE)
    other = engine.add(prompt_of(9), PARAMS)
    request = engine.add(prompt_of(20, 1), sampled(10, n=3))
    done = until(engine, lambda _: len(said(engine, requests_of(engine, request)[0])) >= 3)
    assert {r.seat >= 0 for r in requests_of(engine, request)} == {True, False}
    engine.abort(request)
    done |= run(engine)
    assert [done[request, sample_index].finish_reason for sample_index in range(3)] == ["abort"] * 3
    assert_dense(done[other, 0], PARAMS)
    assert_empty(engine)


@pytest.mark.parametrize("loop", EVERY)
def test_a_seat_left_by_abort_is_taken_by_the_next_in_the_queue(loop: str) -> None:
    engine = compose(loop=loop, max_num_seqs=1, **SPARSE)
    add(engine, PARAMS, 5, length=15)
    for request in range(4):
        until(engine, lambda _, request=request: requests_of(engine, request)[0].seat == 0)
        for _ in range(3 * request):
            engine.step()
        engine.abort(request)
    done = run(engine)
    assert_dense(done[4, 0], PARAMS)
    assert_empty(engine)


def test_unknown_and_finished_ids_are_ignored() -> None:
    engine = compose()
    request = engine.add(prompt_of(), PARAMS)
    for unknown in (-1, 1, 99):
        engine.abort(unknown)
    done = run(engine)
    assert_dense(done[request, 0], PARAMS)
    engine.abort(request)
    assert not engine.has_work


def test_aborting_twice_says_it_once() -> None:
    engine = compose()
    request = engine.add(prompt_of(), PARAMS)
    engine.step()
    engine.abort(request)
    engine.abort(request)
    assert engine.has_work
    (event,) = engine.step().events
    assert event.completion is not None
    assert event.completion.finish_reason == "abort"
    assert_empty(engine)
