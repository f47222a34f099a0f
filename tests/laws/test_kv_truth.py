"""What the cache holds of accepted positions is what a clean prefill would have written, in every layer.

A draft's hidden states saw sparse attention, so its keys and values are approximate above layer 0; VERIFY rewrites
them.
"""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.core.spec import EngineSpec
from sparsespec.testing.cases import Ask, Case, engine_of, model_of
from sparsespec.testing.oracle import keys_and_values
from tests.laws.harness import Seen, run
from tests.quick import quick_last

PROMPT = tuple((i * i + 3) % 61 for i in range(70))
PARAMS = SamplingParams(temperature=0.8, max_tokens=20, seed=3, ignore_eos=True)


def _case(selector: str, loop: str, n: int = 2) -> Case:
    spec = EngineSpec.of(selector=selector, length="fixed(draft=4)", scheduler="staggered(chunk=16)", loop=loop)
    options = {"max_num_seqs": 3, "block_size": 4, "checked": True}
    params = SamplingParams.from_dict(PARAMS.to_dict() | {"n": n})
    return Case(spec.replace(engine=options), ("qwen3", 0), (Ask(PROMPT, params), Ask(PROMPT[7:], params)), 0.0, 0)


@pytest.mark.parametrize("loop", quick_last(["sync", "delayed", "resident"]))
@pytest.mark.parametrize("selector", quick_last(["window(budget=0.1,min_budget=8)", "pillar(budget=0.1,min_budget=8)"]))
def test_cache_is_that_of_a_clean_prefill_after_every_step(selector: str, loop: str) -> None:
    seen = run(_case(selector, loop), kv_every=1, seen=Seen())
    assert seen.kv_checks > 50
    assert seen.metrics.num_accepted_tokens > 0
    assert seen.metrics.num_rejected_tokens > 0


def test_draft_kv_is_true_in_layer_0_and_approximate_above() -> None:
    """Without this the law above could hold for want of anything to rewrite."""
    engine = engine_of(_case("window(budget=0.1,min_budget=8)", "sync", n=1))
    engine.add(PROMPT, PARAMS)
    model = model_of(("qwen3", 0))
    differing = 0
    while engine.has_work and not differing:
        collected = engine.step().info.collected
        if not any(result.phase is Phase.DRAFT for result in collected):
            continue
        state, pool = engine._executor._state, engine._pool
        known = int(state.n_committed[0] + state.n_drafted[0])
        # the newest draft has not been an input yet, so its KV is not there
        text = state.tokens[0, : known - 1].tolist()
        slots = state.table[0, torch.arange(known - 1) // 4] * 4 + torch.arange(known - 1) % 4
        truth, _ = keys_and_values(model, text)
        error = (pool.k.flatten(1, 2)[:, slots] - truth).abs().amax((2, 3))
        drafted = slice(int(state.n_committed[0]) - 1, known - 1)
        assert error[0].max() < 1e-9
        assert error[:, : drafted.start].max() < 1e-9
        differing += int((error[1, drafted] > 1e-6).sum())
    assert differing > 0
