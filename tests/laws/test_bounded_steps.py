"""Nobody waits for ever: with a pool that fits exactly one request, every composition ends in bounded steps.

Barriers that wait for starving rows, and policies that take pages from each other in turn, show here.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from sparsespec.core import registry
from sparsespec.core.params import SamplingParams
from sparsespec.core.spec import EngineSpec
from sparsespec.testing.adversaries import register_adversaries
from sparsespec.testing.cases import Ask, Case
from tests.laws.harness import run

register_adversaries()
PROMPTS = tuple(tuple((i * i + 7 * j) % 61 for i in range(20 + 4 * j)) for j in range(3))
ASKS = tuple(Ask(prompt, SamplingParams(temperature=0.8, max_tokens=12, ignore_eos=True)) for prompt in PROMPTS)
LONGEST = len(PROMPTS[-1]) + 12
LOOPS = ("sync", "delayed", "resident")


def _some(scheduler: str, loop: str, tiers: str) -> Any:
    """Return a composition as a parameter; one is quick."""
    quick = (scheduler, loop, tiers) == ("staggered", "resident", "host")
    return pytest.param(
        scheduler, loop, tiers, id=f"{scheduler}-{loop}-{tiers}", marks=() if quick else pytest.mark.slow
    )


@pytest.mark.parametrize(
    ("scheduler", "loop", "tiers"),
    [_some(*names) for names in product(registry.names("scheduler"), LOOPS, registry.names("tiers"))],
)
def test_pool_of_one_request_serves_many(scheduler: str, loop: str, tiers: str) -> None:
    spec = EngineSpec.of(
        selector="pillar(min_budget=8,budget=0.2)", length="fixed(draft=4)", scheduler=scheduler, loop=loop, tiers=tiers
    )
    # the last token is drawn and never fed back, so its KV needs no page
    options = {"max_num_seqs": 4, "block_size": 4, "num_gpu_blocks": 1 + -(-(LONGEST - 1) // 4), "checked": True}
    case = Case(spec.replace(engine=options), ("qwen3", 0), ASKS, early=0.0, seed=0)
    seen = run(case, kv_every=7)
    assert seen.finished == len(ASKS)
    assert seen.tokens == 12 * len(ASKS)


@pytest.mark.parametrize("loop", ["sync", *(pytest.param(x, marks=pytest.mark.slow) for x in LOOPS[1:])])
def test_oldest_is_never_preempted(loop: str) -> None:
    spec = EngineSpec.of(selector="full", length="fixed(draft=4)", scheduler="staggered", loop=loop)
    options = {"max_num_seqs": 4, "block_size": 4, "num_gpu_blocks": 14, "checked": True}
    case = Case(spec.replace(engine=options), ("llama", 0), ASKS[::-1], early=0.0, seed=0)
    preempted: dict[int, int] = {}

    def note(done: object) -> None:
        preempted[done.request_id] = done.metrics.num_preemptions  # type: ignore[attr-defined]

    run(case, on_done=note)
    assert preempted[0] == 0
    assert sum(preempted.values()) > 0
