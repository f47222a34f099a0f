"""How many steps, drafts and acceptances each loop and composition takes: losslessness tests are blind to lost speed.

The table is what the engine does today. A change that alters it on purpose pastes the new one, which the failure
prints, and says why in its commit.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest

from tests.engine.running import LOOPS, compose, greedy, prompt_of, run

PILLAR = "pillar(budget=0.3,min_budget=16)"
COMPOSITIONS = {
    "dense": {},
    "ngram": {"proposer": "ngram", "length": "fixed(draft=0,guess=4)"},
    "full": {"selector": "full", "length": "fixed(draft=4)"},
    "pillar lockstep": {"selector": PILLAR, "length": "fixed(draft=4)"},
    "pillar staggered": {"selector": PILLAR, "length": "fixed(draft=4)", "scheduler": "staggered"},
    "triforce": {"selector": PILLAR, "proposer": "ngram", "length": "fixed(draft=4,guess=3)"},
    "tight memory": {"selector": PILLAR, "length": "fixed(draft=4)", "scheduler": "staggered", "num_gpu_blocks": 40},
}
SLOW = ("dense", "pillar lockstep", "pillar staggered", "triforce", "tight memory")
# composition: (steps, drafted, accepted) in each loop
GOLDEN: dict[str, tuple[tuple[int, int, int], ...]] = {
    "dense": ((41, 0, 0), (42, 0, 0), (42, 0, 0)),
    "ngram": ((32, 91, 52), (63, 91, 52), (34, 88, 50)),
    "full": ((41, 128, 128), (49, 128, 128), (42, 128, 128)),
    "pillar lockstep": ((98, 250, 95), (118, 250, 95), (92, 240, 95)),
    "pillar staggered": ((109, 253, 92), (132, 253, 92), (109, 243, 90)),
    "triforce": ((95, 250, 95), (116, 250, 95), (91, 240, 95)),
    "tight memory": ((197, 249, 90), (240, 250, 93), (177, 226, 93)),
}


def _measure(composition: str, loop: str) -> tuple[int, int, int]:
    engine, steps = compose(loop=loop, max_num_seqs=4, **COMPOSITIONS[composition]), list[object]()
    for i in range(4):
        engine.add(prompt_of(30 + 7 * i, i), greedy(40))
    done = [completion.metrics for completion in run(engine, steps.append).values()]
    total = reduce(add, done)
    assert total.num_output_tokens == 160
    return len(steps), total.num_draft_tokens, total.num_accepted_tokens


@pytest.mark.parametrize(
    "composition", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMPOSITIONS]
)
def test_steps_and_acceptances_are_what_they_were(composition: str) -> None:
    assert tuple(_measure(composition, loop) for loop in LOOPS) == GOLDEN[composition]
