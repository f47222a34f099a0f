"""Engines that draft only now and then: their other steps have nothing to do with the selector, and say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.protocols import Selection
from sparsespec.core.view import Ints, View
from sparsespec.policies.lengths.fixed import Fixed
from tests.engine.running import PILLAR, compose, greedy, prompt_of, run, sampled


class EveryFourth(Fixed):
    """Drafts three tokens in every fourth round of a request, and none in the others."""

    def __init__(self, draft: int = 3) -> None:
        super().__init__(draft)

    def bind(self, geometry: Geometry) -> None:
        self._rounds = np.zeros(geometry.n_seats, dtype=np.int64)

    def reset(self, seats: Sequence[int]) -> None:
        self._rounds[list(seats)] = 0

    def propose(self, view: View, index: Ints) -> Lengths:
        seats = view.seat[index]
        self._rounds[seats] += 1
        return Lengths(np.where(self._rounds[seats] % 4, 0, 3), 0)


Seen = list[tuple[set[tuple[Phase, bool]], bool]]


def watched(n_requests: int, **changes: Any) -> tuple[Any, Seen]:
    """Run requests; return what they said, and of each step (phase, scored) of its rows and if a selector was asked."""
    engine = compose(selector=PILLAR, length=EveryFourth(), **changes)
    attention, seen = engine._parts.attention, Seen()
    honest = attention.plan

    def plan(batch: Batch, choice: Selection | None) -> None:
        rows = zip(batch.phase.tolist(), batch.scored.tolist(), batch.live.tolist(), strict=True)
        seen.append(({(Phase(phase), scored) for phase, scored, live in rows if live}, choice is not None))
        honest(batch, choice)

    attention.plan = plan  # type: ignore[method-assign]
    for j in range(n_requests):
        engine.add(prompt_of(30, shift=j), greedy(24) if j % 2 else sampled(24, seed=j))
    said = run(engine)
    return said, seen


@pytest.mark.parametrize("graphs", [False, True])
def test_only_steps_in_which_somebody_drafts_is_judged_or_is_filled_ask_the_selector(graphs: bool) -> None:
    # padded steps are not checked: there is no knowing which rows are there
    said, seen = watched(1, graphs=graphs, checked=not graphs)
    plain = [rows for rows, asked in seen if not asked]
    assert len(plain) > 8
    assert all(rows == {(Phase.VERIFY, False)} for rows in plain)
    busy = [rows for rows, asked in seen if asked]
    assert all(
        rows & {(Phase.DRAFT, False), (Phase.VERIFY, True)} or any(p is Phase.PREFILL for p, _ in rows) for rows in busy
    )
    assert {(Phase.VERIFY, True)} in busy
    (one,) = said.values()
    assert one.metrics.draft_kv_share < 0.6


def test_among_others_who_decodes_plainly_is_not_scored_and_says_the_same() -> None:
    # requests are at different places of their four rounds
    said, seen = watched(3, scheduler="staggered", loop="resident")
    assert any({(Phase.VERIFY, False), (Phase.VERIFY, True)} <= rows for rows, _ in seen)
    dense = compose()
    for j in range(3):
        dense.add(prompt_of(30, shift=j), greedy(24) if j % 2 else sampled(24, seed=j))
    want = run(dense)
    assert {key: one.token_ids for key, one in said.items()} == {key: one.token_ids for key, one in want.items()}
    assert sum(one.metrics.num_rejected_tokens for one in said.values()) > 0
