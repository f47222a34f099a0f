"""The smallest and the largest requests, and those that want no speculation."""

from __future__ import annotations

import pytest

from tests.engine.running import (
    COMPOSITIONS,
    EVERY,
    SPARSE,
    TRIFORCE,
    assert_dense,
    assert_empty,
    compose,
    finish,
    prompt_of,
    run,
    sampled,
)
from tests.quick import quick_last


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("scheduler", ["lockstep", "staggered"])
def test_a_request_may_refuse_to_be_speculated_on(scheduler: str, loop: str) -> None:
    engine = compose(loop=loop, scheduler=scheduler, **TRIFORCE)
    for shift in range(3):
        engine.add(prompt_of(20, shift), sampled(10, speculate=shift != 1))
    done = run(engine)
    for (request, _), completion in done.items():
        assert_dense(completion, sampled(10))
        metrics = completion.metrics
        assert (metrics.num_draft_steps > 0, metrics.num_draft_tokens > 0) == (request != 1,) * 2
    assert done[1, 0].metrics.num_verify_steps == 10
    assert done[1, 0].metrics.kv_share == 1


@pytest.mark.parametrize("composition", quick_last(list(COMPOSITIONS)))
@pytest.mark.parametrize("loop", quick_last(("sync", "resident")))
def test_prompts_around_page_borders_from_one_token_on(composition: str, loop: str) -> None:
    engine = compose(loop=loop, max_num_seqs=9, scheduler="lockstep(chunk=3)", **COMPOSITIONS[composition])
    for length in range(1, 10):
        engine.add(prompt_of(length, length), sampled(5))
    finish(engine, sampled(5))


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_any_page_size_will_do(block_size: int) -> None:
    engine = compose(block_size=block_size, **TRIFORCE)
    for length in (1, 7, 8, 15):
        engine.add(prompt_of(length), sampled(8))
    finish(engine, sampled(8))


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("loop", EVERY)
def test_one_token_is_never_drafted(composition: str, loop: str) -> None:
    engine = compose(loop=loop, **COMPOSITIONS[composition])
    for length in (1, 2, 17):
        engine.add(prompt_of(length), sampled(1))
    for completion in finish(engine, sampled(1)).values():
        assert completion.metrics.num_draft_steps == completion.metrics.num_draft_tokens == 0
        assert completion.metrics.num_verify_steps == 1


@pytest.mark.parametrize("composition", quick_last(list(COMPOSITIONS)))
@pytest.mark.parametrize("loop", quick_last(("sync", "resident")))
def test_a_request_may_fill_the_context_and_the_pool_to_the_last_token(composition: str, loop: str) -> None:
    # 24 tokens, of which the last is never fed back: 23 positions are 6 pages of 4
    engine = compose(loop=loop, max_model_len=24, num_gpu_blocks=7, **COMPOSITIONS[composition])
    for length in (14, 23, 7):
        engine.add(prompt_of(length), sampled(24 - length))
    for completion in run(engine).values():
        assert len(completion.prompt_token_ids) + len(completion.token_ids) == 24
        assert_dense(completion, sampled(24 - len(completion.prompt_token_ids)))
    assert_empty(engine)


@pytest.mark.parametrize("loop", EVERY)
def test_a_page_border_at_the_last_written_position_needs_no_page_more(loop: str) -> None:
    engine = compose(loop=loop, num_gpu_blocks=9, **SPARSE)
    engine.add(prompt_of(20), sampled(13))
    held = list[int]()
    finish(engine, sampled(13), lambda result: held.append(8 - result.info.free_pages))
    assert max(held) == 8
