"""Under `rejection` no noise is used twice: the keys of all choices of a run are distinct.

A residual drawn with its draft's noise, or a draft drawn with the noise of a discarded one, is biased; statistics
see that poorly, so it is tested by construction. Under `shared-noise` the opposite holds: one position, one key, at
every level.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import Tensor

from sparsespec.core.noise import Key
from sparsespec.core.params import SamplingParams
from sparsespec.sampling.rejection import Rejection
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.cases import case_of, engine_of, model_of
from tests.engine.running import compose, run

PARAMS = SamplingParams(temperature=0.9, max_tokens=24, seed=7, n=2, ignore_eos=True)
PROMPT = tuple(i * i % 61 for i in range(40))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["sync", "delayed", "resident"])
@pytest.mark.parametrize("n_blocks", [17, 60])
def test_rejection_uses_no_key_twice(loop: str, n_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used: Counter[tuple[int, ...]] = Counter()
    original = Rejection.choose

    def choose(self: Rejection, weights: Tensor, key: Key) -> Tensor:
        # a choice has the seed, sample, position and tag of its row, and nothing else to tell it from another
        used.update(zip(*(part.tolist() for part in key), strict=True))
        return original(self, weights, key)

    monkeypatch.setattr(Rejection, "choose", choose)
    parts = {"selector": "window(budget=0.2,min_budget=8)", "scheduler": "staggered(chunk=16)", "verifier": "rejection"}
    engine = compose("triforce", model_of(("qwen3", 0)), loop=loop, num_gpu_blocks=n_blocks, **parts)
    for seed in (7, 8):
        engine.add(PROMPT, SamplingParams.from_dict(PARAMS.to_dict() | {"seed": seed}))
    preemptions = sum(completion.metrics.num_preemptions for completion in run(engine).values())
    assert (preemptions > 0) == (n_blocks == 17)
    assert len(used) > 4 * PARAMS.max_tokens
    assert max(used.values()) == 1


def test_shared_noise_has_one_key_per_position(monkeypatch: pytest.MonkeyPatch) -> None:
    tags, drawn = set[int](), Counter[tuple[int, int, int]]()
    original = SharedNoise.sample

    def sample(self: SharedNoise, logits: Tensor, at: Any, key: Key) -> Tensor:
        for alive, *fields in zip(at.alive.tolist(), *(part.tolist() for part in key), strict=True):
            if alive:
                tags.add(fields[3])
                drawn[fields[0], fields[1], fields[2]] += 1
        return original(self, logits, at, key)

    monkeypatch.setattr(SharedNoise, "sample", sample)
    case = case_of(11, verifiers=["shared-noise"])
    engine = engine_of(case, selector="window(min_budget=8)", length="fixed(draft=4)", proposer="none")
    engine.add(PROMPT, PARAMS)
    run(engine)
    assert tags == {0}
    positions = {position for _, _, position in drawn}
    # the first drawn position is that of the first output token
    assert min(positions) == len(PROMPT)
    assert max(drawn.values()) > 1


def test_equal_seeds_give_equal_tokens_whatever_else_differs() -> None:
    outputs = set[tuple[int, ...]]()
    for n_before in range(3):
        engine = compose(model=model_of(("qwen3", 0)), max_num_seqs=2)
        for i in range(n_before):
            engine.add(PROMPT[i:], SamplingParams(max_tokens=5))
        wanted = engine.add(PROMPT, PARAMS)
        outputs.add(run(engine)[wanted, 1].token_ids)
    assert len(outputs) == 1
