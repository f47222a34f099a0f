"""What `rejection` divides by: the very logits that each draft was drawn from, whatever came between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.params import SamplingParams
from sparsespec.models.tiny import tiny
from sparsespec.sampling.rejection import Rejection
from tests.engine.running import add, compose, run

PARAMS = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=16, n=2, ignore_eos=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize(
    ("loop", "n_blocks"),
    [("sync", 80), ("delayed", 17), ("resident", 17)],
)
def test_a_draft_is_judged_by_the_logits_it_was_drawn_from(
    loop: str, n_blocks: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_from: dict[tuple[int, ...], Tensor] = {}
    n_judged = 0
    original = Rejection.verify

    def verify(self: Rejection, logits: Tensor, rows: Any, q: Tensor | None) -> Any:
        nonlocal n_judged
        verified = original(self, logits, rows, q)
        for r, first in enumerate(rows.first.tolist()):
            who = int(rows.seed[r]), int(rows.sample_index[r]), int(rows.n_committed[r])
            at = int(rows.position[r])
            if rows.level[r]:
                for j in range(int(verified.emitted[r])):
                    drawn_from[(*who, at + j)] = logits[first + j].clone()
            elif rows.sampled[r]:
                for j in range(int(rows.count[r])):
                    assert q is not None and torch.equal(q[r, j], drawn_from[(*who, at + j)])
                    n_judged += 1
        return verified

    monkeypatch.setattr(Rejection, "verify", verify)
    engine = compose(
        "triforce",
        tiny(dtype=dtype),
        selector="window(budget=0.2,min_budget=8)",
        verifier="rejection",
        loop=loop,
        num_gpu_blocks=n_blocks,
    )
    add(engine, PARAMS, 2, length=30)
    done = run(engine).values()
    assert n_judged > 40
    assert (sum(one.metrics.num_preemptions for one in done) > 0) == (n_blocks == 17)
    assert sum(one.metrics.num_rejected_tokens for one in done) > 0
