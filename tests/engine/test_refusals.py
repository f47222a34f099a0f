"""Every request that is refused when it is added: in one sentence, with what would have worked, at nobody's cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sparsespec.core.errors import BadRequest
from sparsespec.core.params import SamplingParams
from tests.engine.running import SPARSE, assert_dense, assert_empty, compose, greedy, is_sentence, prompt_of, run

CONTEXT, PAGES = 64, 12


class Refusal(NamedTuple):
    """A request, what is said of it, and the request that its message proposes; None where that is another engine."""

    prompt: Sequence[Any]
    params: SamplingParams
    says: str
    works: tuple[Sequence[int], SamplingParams] | None


FEW = greedy(3)
REFUSALS = {
    "empty": Refusal([], FEW, "the prompt is empty; give at least one token", ([1], FEW)),
    "beyond the vocabulary": Refusal([1, 61], FEW, "prompt token 61 is not one of the model's 0 … 60", ([1, 60], FEW)),
    "below 0": Refusal([-1], FEW, "prompt token -1 is not one of the model's 0 … 60", ([0], FEW)),
    "a float": Refusal([1.0], FEW, "prompt token 1.0 is not one of the model's 0 … 60", ([1], FEW)),
    "text": Refusal("abc", FEW, "prompt token 'a' is not one of the model's 0 … 60", ([1], FEW)),
    "a bool": Refusal([True], FEW, "prompt token True is not one of the model's 0 … 60", ([1], FEW)),
    "a tensor of floats": Refusal(torch.ones(2), FEW, "prompt token tensor(1.) is not one of", ([1, 2], FEW)),
    "a prompt as long as the context": Refusal(
        prompt_of(CONTEXT),
        FEW,
        "has 64 tokens and the context holds 64, one of them output; shorten the prompt to at most 63",
        (prompt_of(40), FEW),
    ),
    "a prompt longer than the context": Refusal(
        prompt_of(99), FEW, "has 99 tokens and the context holds 64", (prompt_of(40), FEW)
    ),
    "too many new tokens": Refusal(
        prompt_of(30),
        greedy(35),
        "30 prompt tokens and max_tokens=35 exceed the context of 64; lower max_tokens to at most 34",
        None,
    ),
    "more pages than there are": Refusal(
        prompt_of(30),
        greedy(16),
        "30 prompt tokens and max_tokens=16 need 12 KV pages and the pool has 11; lower max_tokens to at most 15",
        (prompt_of(30), greedy(15)),
    ),
    "a prompt that fills the pool": Refusal(
        prompt_of(45),
        greedy(2),
        "45 prompt tokens and max_tokens=2 need 12 KV pages and the pool has 11; shorten the prompt to at most 44",
        (prompt_of(44), greedy(1)),
    ),
    "stop strings without a tokenizer": Refusal(
        [1], greedy(3, stop="x"), "use stop_token_ids instead", ([1], greedy(3, stop_token_ids=(5,)))
    ),
    "more logprobs than tokens": Refusal(
        [1], greedy(3, logprobs=62), "at most the vocabulary's 61, got 62", ([1], greedy(3, logprobs=61))
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_what_would_have_worked_and_costs_nobody_else(name: str) -> None:
    refusal = REFUSALS[name]
    engine = compose(max_model_len=CONTEXT, num_gpu_blocks=PAGES, **SPARSE)
    engine.add(prompt_of(20), greedy(4))
    engine.step()
    with pytest.raises(BadRequest) as error:
        engine.add(refusal.prompt, refusal.params)
    assert refusal.says in str(error.value)
    assert is_sentence(str(error.value))
    if refusal.works:
        assert engine.add(*refusal.works) == 1
    done = run(engine)
    assert_dense(done[0, 0], greedy(4))
    assert len(done) == 1 + bool(refusal.works)
    assert all(completion.error is None for completion in done.values())
    assert_empty(engine)


def test_a_verifier_may_refuse_a_temperature() -> None:
    engine = compose(verifier="greedy")
    with pytest.raises(BadRequest, match="use temperature=0 or verifier='shared-noise'") as error:
        engine.add([1], SamplingParams(temperature=0.5, max_tokens=3))
    assert is_sentence(str(error.value))
    assert engine.add([1], greedy(3)) == 0


def test_a_refused_prompt_with_many_samples_adds_none_of_them() -> None:
    engine = compose(max_model_len=CONTEXT)
    with pytest.raises(BadRequest):
        engine.add(prompt_of(CONTEXT), greedy(3, n=4))
    assert not engine.has_work


def test_the_longest_request_is_exactly_the_one_that_is_not_refused() -> None:
    engine = compose(max_model_len=CONTEXT, num_gpu_blocks=PAGES)
    for length in (1, 2, 43, 44):
        engine.add(prompt_of(length), greedy(45 - length))
        with pytest.raises(BadRequest):
            engine.add(prompt_of(length), greedy(46 - length))


def test_any_sequence_of_whole_numbers_is_a_prompt() -> None:
    engine = compose()
    for prompt in ([3, 1, 4], (3, 1, 4), range(3), np.array([3, 1, 4]), torch.tensor([3, 1, 4])):
        engine.add(prompt, FEW)
    done = run(engine)
    assert done[0, 0].token_ids == done[1, 0].token_ids == done[3, 0].token_ids == done[4, 0].token_ids
    assert all(type(token) is int for c in done.values() for token in c.prompt_token_ids)
