"""Log-probabilities are the full model's own, before any processor, whatever was drafted."""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion
from sparsespec.testing.cases import VOCAB, model_of
from sparsespec.testing.oracle import next_logits
from tests.engine.running import (
    COMPOSITIONS,
    FULL,
    KEY,
    LOOPS,
    SPARSE,
    assert_dense,
    compose,
    greedy,
    prompt_of,
    run,
    sampled,
)


def _check(done: Completion, n: int) -> None:
    assert done.logprobs is not None
    assert len(done.logprobs) == len(done.token_ids)
    text = list(done.prompt_token_ids)
    for token, at in zip(done.token_ids, done.logprobs, strict=True):
        logprobs = next_logits(model_of(KEY), text).log_softmax(-1)
        top = logprobs.topk(n)
        assert [i for i, _ in at] == [token, *top.indices.tolist()]
        expected = torch.cat((logprobs[token][None], top.values))
        assert torch.allclose(torch.tensor([v for _, v in at], dtype=torch.float64), expected, rtol=1e-5, atol=1e-5)
        text.append(token)


@pytest.mark.parametrize(
    ("composition", "loop"), [(c, "sync") for c in COMPOSITIONS] + [("sparse", loop) for loop in LOOPS[1:]]
)
def test_each_token_has_its_own_and_the_best_in_order(composition: str, loop: str) -> None:
    engine = compose(loop=loop, **COMPOSITIONS[composition])
    params = sampled(10, logprobs=3, temperature=1.3, top_k=5)
    engine.add(prompt_of(24), params)
    (done,) = run(engine).values()
    assert_dense(done, params)
    assert any(at[0][0] != at[1][0] for at in done.logprobs or ()), "only the best was drawn: this proves nothing"
    _check(done, 3)


def test_requests_of_one_batch_get_as_many_as_they_asked_for() -> None:
    engine = compose(max_num_seqs=4, **SPARSE)
    wanted = (2, None, 0, VOCAB)
    for shift, n in enumerate(wanted):
        engine.add(prompt_of(18, shift), greedy(7, logprobs=n))
    for (request, _), done in run(engine).items():
        n = wanted[request]
        if n is None:
            assert done.logprobs is None
        else:
            _check(done, n)


def test_what_follows_a_stop_has_none() -> None:
    engine = compose(**FULL)
    engine.add(prompt_of(20), sampled(12, seed=3, logprobs=1))
    (whole,) = run(engine).values()
    stop = next(t for i, t in enumerate(whole.token_ids) if i > 1 and t not in whole.token_ids[:i])
    engine.add(prompt_of(20), sampled(12, seed=3, logprobs=1, stop_token_ids=(stop,)))
    (done,) = run(engine).values()
    assert done.token_ids == whole.token_ids[: len(done.token_ids)]
    assert len(done.token_ids) < 12
    _check(done, 1)


def test_samples_have_logprobs_of_their_own() -> None:
    engine = compose(loop="resident", **SPARSE)
    engine.add(prompt_of(20), SamplingParams(temperature=1.2, max_tokens=6, ignore_eos=True, n=2, logprobs=1))
    done = run(engine)
    assert done[0, 0].logprobs != done[0, 1].logprobs
    for completion in done.values():
        _check(completion, 1)
