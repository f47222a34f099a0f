"""Exact positions for scores made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsespec.core.batch import Outcome
from sparsespec.core.plan import Phase
from sparsespec.core.registry import make
from sparsespec.core.spec import PRESETS
from sparsespec.policies.selectors.pillar import Pillar
from sparsespec.testing.checks.stage import RowAt, batch_of
from tests.policies.staged import Staged


def scores(length: int, **high: float) -> list[float]:
    """Return scores of 0.01, with the given ones at `p<position>`."""
    values = [0.01] * length
    for name, value in high.items():
        values[int(name[1:])] = value
    return values


def pillar(**options: Any) -> Staged:
    return Staged(Pillar(**{"budget": 0.2, "min_budget": 4, "recent": 0.5} | options))


def test_a_seat_without_scores_reads_everything() -> None:
    assert pillar().lists(c=30) == ([[]], 0)


HEADS = [scores(20, p3=0.5, p4=0.4, p5=0.3), scores(20, p7=0.5, p8=0.4, p9=0.3)]
# options, (committed, emitted, live), scores, and the lists and where the tail starts: 4 of 20 positions may be read
LISTS: dict[str, tuple[dict[str, Any], tuple[int, int, int], Any, tuple[list[list[int]], int]]] = {
    "half is recent, the rest the best": ({}, (21, 1, 0), scores(20, p3=0.5, p9=0.4, p10=0.3), ([[3, 9]], 18)),
    # tokens 18, 19, 20 were committed by this round
    "what was just verified is recent": ({"recent": 0.0}, (21, 3, 0), scores(20, p3=0.5, p19=0.9), ([[3]], 17)),
    "recent 0": ({"recent": 0.0}, (21, 1, 0), scores(20, p3=0.5, p9=0.4, p10=0.3), ([[3, 9, 10]], 19)),
    "recent 1 chooses nothing": ({"recent": 1.0}, (21, 1, 0), scores(20, p3=0.5), ([[]], 16)),
    # five queries ran from position 15, two tokens were committed: 18 and 19 hold rejected drafts
    "rejected positions are not chosen": (
        {"recent": 0.0},
        (18, 2, 5),
        scores(20, p18=0.9, p19=0.8, p17=0.7, p2=0.1, p5=0.05),
        ([[2, 5]], 15),
    ),
    "ties go to the lower position": ({"recent": 0.0}, (21, 1, 0), scores(20), ([[0, 1, 2]], 19)),
    "each group has its own": ({"groups": "heads", "recent": 0.25}, (21, 1, 0), HEADS, ([[3, 4, 5], [7, 8, 9]], 19)),
    "pooling takes neighbours along": ({"recent": 0.0, "pool": 3}, (21, 1, 0), scores(20, p9=0.5), ([[8, 9, 10]], 19)),
    # 18 and 19 are rejected; the best legal position is 9
    "but nothing rejected": ({"recent": 0.0, "pool": 5}, (18, 1, 4), scores(20, p18=0.9, p9=0.5), ([[7, 8, 9]], 16)),
}


@pytest.mark.parametrize("name", LISTS)
def test_positions_are_chosen_by_their_scores_in_every_layer(name: str) -> None:
    options, (c, emitted, live), votes, expected = LISTS[name]
    staged = pillar(**options)
    staged.settle(c, emitted, votes, live=live)
    assert [staged.lists(layer) for layer in (0, 1)] == [expected] * 2


def test_a_budget_larger_than_the_context_reads_all_of_it() -> None:
    staged = pillar(min_budget=64)
    staged.settle(11, 1, scores(10))
    positions, tail = staged.lists()
    assert sorted([*positions[0], *range(tail, 10)]) == list(range(10))


def test_smoothing_remembers_earlier_rounds() -> None:
    staged, plain = pillar(recent=0.0, smooth=0.9), pillar(recent=0.0)
    for each in (staged, plain):
        each.settle(21, 1, scores(20, p3=0.5, p4=0.45, p5=0.4))
        # 0.9 * 0.5 + 0.1 * 0.01 is still more than 0.9 * 0.01 + 0.1 * 0.6
        each.settle(22, 1, scores(21, p11=0.6, p12=0.6, p13=0.6))
    assert staged.lists() == ([[3, 4, 5, 11]], 20)
    assert plain.lists() == ([[0, 11, 12, 13]], 20)


def test_a_reset_seat_forgets_what_was_smoothed() -> None:
    staged, fresh = pillar(recent=0.0, smooth=0.9), pillar(recent=0.0, smooth=0.9)
    staged.settle(21, 1, scores(20, p3=0.5, p4=0.45, p5=0.4))
    staged.part.reset([0])
    assert staged.lists() == ([[]], 0)
    for each in (staged, fresh):
        each.settle(22, 1, scores(21, p11=0.6, p12=0.6, p13=0.6))
    assert staged.lists() == fresh.lists() == ([[0, 11, 12, 13]], 20)


def test_the_first_fill_warms_the_selection_up_unless_told_not_to() -> None:
    warm, cold = pillar(), pillar(warm_start=False)
    for each in (warm, cold):
        each.settle(21, 0, scores(20, p3=0.5, p9=0.4), phase=Phase.PREFILL)
    assert warm.lists() == ([[3, 9]], 18)
    assert cold.lists() == ([[]], 0)


def test_an_unscored_step_changes_nothing() -> None:
    staged = pillar()
    staged.settle(21, 1, scores(20, p3=0.5, p9=0.4))
    before = staged.lists()
    batch = batch_of(staged.geometry, staged.state, [RowAt(0, Phase.DRAFT, 1, 20, 1, k=4)])
    staged.part.select(batch)
    staged.part.observe(Outcome(batch, torch.tensor([1]), torch.tensor([0])))
    assert staged.lists() == before


def test_pillarattn_as_published_is_one_setting() -> None:
    published = Pillar(groups="heads", recent=0.0, scored=(0, 16), warm_start=False, min_budget=192)
    assert published.num_groups(8) == 8
    assert published.scored == (0, 16)
    staged = Staged(published, max_model_len=400, num_gpu_blocks=500, block_size=4)
    staged.settle(301, 1, scores(300, p0=0.9))
    positions, tail = staged.lists()
    assert len(positions) == 2
    assert all(len(one) + 300 - tail == 192 for one in positions)


def test_vegas_as_published_is_a_preset() -> None:
    spec = PRESETS["vegas"].spec
    vegas, length = make(spec.selector), make(spec.length)
    assert isinstance(vegas, Pillar)
    # one list a layer, by the first and the last verified query, and nothing set aside for the newest
    assert (vegas.groups, vegas.scored, vegas.recent, vegas.pool, vegas.smooth) == (1, (1, 1), 0.0, 1, 0.0)
    assert (vegas.budget, vegas.min_budget) == (0.07, 256)
    assert (length.max_draft, length.max_guess) == (6, 0)
