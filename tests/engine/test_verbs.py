"""The verbs of an engine, and what each of them promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsespec.core.errors import BadRequest, EngineClosed, SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.seeds import derive_seed
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from tests.engine.running import (
    EVERY,
    SPARSE,
    add,
    assert_dense,
    assert_empty,
    compose,
    greedy,
    prompt_of,
    run,
    sampled,
    until,
)


def test_ids_count_the_prompts_and_not_their_samples() -> None:
    engine = compose()
    assert [engine.add(prompt_of(), greedy(2, n=n)) for n in (1, 3, 1)] == [0, 1, 2]
    assert sorted(run(engine)) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_a_request_without_params_takes_the_defaults() -> None:
    engine = compose(model=tiny(max_model_len=300))
    request = engine.add([7])
    assert engine._queue.waiting[0].params == SamplingParams()
    engine.abort(request)
    assert run(engine)[0, 0].finish_reason == "abort"


def test_a_refused_prompt_takes_no_number() -> None:
    engine = compose()
    with pytest.raises(BadRequest):
        engine.add([], greedy())
    assert engine.add(prompt_of(), greedy(2)) == 0


def test_a_new_engine_has_no_work_and_an_idle_step_does_nothing() -> None:
    engine = compose()
    assert not engine.has_work
    result = engine.step()
    assert result.idle
    assert result.events == ()
    assert result.info.placed.rows == ()
    assert engine.step().info.step == 1


@pytest.mark.parametrize("loop", EVERY)
def test_events_carry_every_token_once_and_the_last_one_the_completion(loop: str) -> None:
    engine, tokens = compose(loop=loop, **SPARSE), dict[int, list[int]]()
    add(engine, sampled(10))
    seen = set[int]()
    idle = list[bool]()
    while engine.has_work:
        result = engine.step()
        idle.append(result.idle)
        for event in result.events:
            assert event.request_id not in seen, "a request spoke after its end"
            tokens.setdefault(event.request_id, []).extend(event.token_ids)
            assert event.text == ""
            if event.completion:
                seen.add(event.request_id)
                assert event.completion.token_ids == tuple(tokens[event.request_id])
                assert_dense(event.completion, sampled(10))
    assert seen == {0, 1, 2}
    assert idle == [False] * (len(idle) - 1) + [True]


@pytest.mark.parametrize("loop", EVERY)
def test_reset_begins_again_with_number_0_and_the_same_derived_seeds(loop: str) -> None:
    engine = compose(loop=loop, seed=7, **SPARSE)

    def decode() -> list[tuple[int, tuple[int, ...]]]:
        for shift in range(2):
            assert engine.add(prompt_of(20, shift), sampled(6, n=2)) == shift
        return [(c.seed, c.token_ids) for _, c in sorted(run(engine).items())]

    first = decode()
    engine.add(prompt_of(30), sampled(20))
    until(engine, lambda result: result.info.step >= 12)
    engine.add(prompt_of(12), sampled(20, n=3))
    engine.reset()
    assert_empty(engine)
    assert engine.step().info.step == 0
    engine.reset()
    assert decode() == first
    assert [seed for seed, _ in first] == [derive_seed(7, 0)] * 2 + [derive_seed(7, 1)] * 2
    assert_empty(engine)


@pytest.mark.parametrize("loop", EVERY)
def test_reset_in_the_middle_of_everything_leaves_no_trace(loop: str) -> None:
    engine = compose(loop=loop, num_gpu_blocks=16, **SPARSE)
    for step in range(1, 5):
        add(engine, sampled(8), 4, length=17)
        for _ in range(3 * step):
            engine.step()
        engine.reset()
        assert_empty(engine)
    engine.add(prompt_of(17), sampled(8))
    assert_dense(run(engine)[0, 0], sampled(8))


CALLS: dict[str, Callable[[Engine], object]] = {
    "add": lambda engine: engine.add(prompt_of(), greedy()),
    "step": lambda engine: engine.step(),
    "abort": lambda engine: engine.abort(0),
    "reset": lambda engine: engine.reset(),
    "has_work": lambda engine: engine.has_work,
}


@pytest.mark.parametrize("verb", CALLS)
def test_a_closed_engine_says_so_whatever_is_asked_of_it(verb: str) -> None:
    engine = compose()
    engine.close()
    with pytest.raises(EngineClosed, match="compose a new one"):
        CALLS[verb](engine)


@pytest.mark.parametrize("loop", EVERY)
def test_close_may_come_twice_and_while_work_is_in_flight(loop: str) -> None:
    engine = compose(loop=loop, **SPARSE)
    engine.add(prompt_of(), greedy())
    until(engine, lambda result: result.info.step >= 4)
    engine.close()
    engine.close()
    assert issubclass(EngineClosed, SparseSpecError)
    with pytest.raises(EngineClosed):
        engine.step()


def test_what_is_known_of_a_closed_engine_stays_known() -> None:
    engine = compose(**SPARSE)
    engine.close()
    assert engine.spec.selector.name == "pillar"
    assert engine.geometry.block_size == 4
