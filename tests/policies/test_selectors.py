from __future__ import annotations

import pytest
import torch

from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Phase
from sparsespec.policies.selectors.full import Full
from sparsespec.policies.selectors.none import NoSelector
from sparsespec.policies.selectors.oracle import Oracle
from sparsespec.policies.selectors.quest import Quest
from sparsespec.policies.selectors.random import RandomSelector
from sparsespec.policies.selectors.scored import Scored
from sparsespec.policies.selectors.window import Window
from sparsespec.testing import check_selector
from sparsespec.testing.checks.stage import RowAt, batch_of
from tests.policies.staged import Staged

WINDOW = Window(budget=0.2, min_budget=8, sinks=2)


@pytest.mark.parametrize(
    ("part", "c", "sinks", "tail"),
    [
        *((WINDOW, c, [0, 1], tail) for c, tail in ((41, 34), (9, 2), (6, 2), (3, 2))),
        (WINDOW, 2, [0], 1),
        (WINDOW, 1, [], 0),
        (Window(budget=0.2, min_budget=8, sinks=0), 41, [], 32),
        (Full(), 41, [], 0),
    ],
)
def test_window_reads_sinks_and_the_newest_and_full_everything(
    part: Window | Full, c: int, sinks: list[int], tail: int
) -> None:
    assert Staged(part).lists(c=c) == ([sinks], tail)


def test_none_has_no_draft_level_and_is_never_asked() -> None:
    assert not NoSelector.drafts
    with pytest.raises(ContractBroken, match="'none' was asked"):
        Staged(NoSelector()).chosen()


def test_random_draws_anew_in_every_round_layer_and_group_and_never_within_one() -> None:
    staged = Staged(RandomSelector(budget=0.2, min_budget=4, groups=2, seed=3))
    one = staged.lists(c=41)
    assert one == staged.lists(c=41)
    first, second = one[0]
    drawn = {tuple(x) for x in (first, second, *staged.lists(1)[0], *staged.lists(c=42)[0])}
    assert len(drawn) == 6
    assert one[1] == 40
    assert Staged(RandomSelector(budget=0.2, min_budget=4, groups=2, seed=4)).lists(c=41) != one


def test_random_leaves_no_position_out() -> None:
    staged = Staged(RandomSelector(budget=0.25, min_budget=1))
    seen = {
        p for seed in range(20) for p in Staged(RandomSelector(budget=0.25, min_budget=1, seed=seed)).lists(c=21)[0][0]
    }
    assert seen == set(range(20))
    assert len(staged.lists(c=21)[0][0]) == 5


def test_oracle_reads_what_this_very_query_reads_most() -> None:
    staged = Staged(Oracle(budget=0.1, min_budget=2, groups="heads"))
    g, state, keys = staged.geometry, staged.state, staged.keys((4, 11), (0, 19))
    q = torch.ones(1, g.n_heads, g.head_dim, dtype=torch.float64)
    assert staged.lists(c=21, q=q, keys=keys) == ([[4, 11], [0, 19]], 20)
    one = Staged(Oracle(budget=0.1, min_budget=4, groups=1))
    # both stages draw the same page tables from the same seed
    assert torch.equal(state.table, one.state.table)
    assert one.lists(c=21, q=q, keys=keys) == ([[0, 4, 11, 19]], 20)


def test_oracle_chooses_nothing_where_there_is_nothing_to_choose() -> None:
    staged = Staged(Oracle(budget=0.1, min_budget=4))
    assert staged.lists(c=1, keys=staged.keys() + 1) == ([[], []], 0)


class Bare(Scored):
    """Overrides nothing."""

    scored = (0, 2)

    def __init__(self, budget: float = 0.2, min_budget: int = 4) -> None:
        super().__init__(budget, min_budget)
        self.budget, self.min_budget = budget, min_budget


def test_a_scored_selector_that_overrides_nothing_keeps_the_round_just_verified_and_the_best() -> None:
    check_selector(Bare(), examples=2)
    staged = Staged(Bare())
    votes = [0.01] * 20
    votes[3], votes[9], votes[18] = 0.5, 0.4, 0.9
    staged.settle(21, 2, votes)
    # 4 of 20 positions: the two that the round committed (18, 19), and two chosen
    assert staged.lists() == ([[3, 9]], 18)


@pytest.mark.parametrize("part", [RandomSelector(), Oracle(), Quest()])
def test_who_wants_no_scores_says_so_when_it_gets_some(part: RandomSelector | Oracle | Quest) -> None:
    staged = Staged(part)
    batch = batch_of(staged.geometry, staged.state, [RowAt(0, Phase.VERIFY, 1, 0, 1)])
    with pytest.raises(AssertionError, match="wants no scores"):
        part.select(batch).see(0, torch.zeros(1))
