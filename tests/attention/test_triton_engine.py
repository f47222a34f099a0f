"""A whole engine on the backend `triton`, interpreted: tokens and reads are those of the backend `reference`."""

from __future__ import annotations

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.models.tiny import tiny
from tests.engine.running import Done, compose, greedy, prompt_of, run, sampled
from tests.kernels.launched import DEVICE, room

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter's sizes, on a CPU"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]

room("attention")


def tokens_of(attention: str) -> Done:
    selector = "pillar(budget=0.2,min_budget=6,groups=heads)"
    engine = compose(
        model=tiny(dtype="float32"), selector=selector, length="fixed(draft=3)", loop="delayed", attention=attention
    )
    engine.add(prompt_of(30), greedy(5))
    engine.add(prompt_of(2, shift=1), sampled(4, seed=3))
    return run(engine)


def test_an_engine_emits_the_same_tokens_on_interpreted_triton() -> None:
    want, got = tokens_of("reference"), tokens_of("triton")
    assert [one.error for one in got.values()] == [None, None]
    assert [one.token_ids for one in got.values()] == [one.token_ids for one in want.values()]
    assert [one.metrics for one in got.values()] == [one.metrics for one in want.values()]
    assert sum(one.metrics.num_rejected_tokens for one in want.values()) > 0
    assert min(one.metrics.draft_kv_share for one in want.values()) < 0.6


def test_a_model_in_a_type_that_triton_does_not_take_is_refused_when_composed() -> None:
    with pytest.raises(BadOption, match="takes float16, bfloat16 or float32, got torch.float64"):
        compose(attention="triton")
