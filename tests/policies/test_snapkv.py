"""Exact positions for votes made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.policies.selectors.snapkv import SnapKV
from tests.policies.staged import Staged
from tests.policies.test_pillar import scores


def snapkv(**options: Any) -> Staged:
    return Staged(SnapKV(**{"keep": 0.2, "min_keep": 5, "window": 2, "pool": 1, "groups": 1} | options))


def filled(staged: Staged, c: int, votes: Any) -> Staged:
    staged.settle(c, 0, votes, phase=Phase.PREFILL)
    return staged


def test_before_the_prompt_voted_everything_is_read() -> None:
    assert snapkv().lists(c=30) == ([[]], 0)


def test_the_window_is_kept_and_the_rest_goes_to_the_winners() -> None:
    # 5 of the 20 positions that the prompt filled: the window (18, 19), and three that were voted for
    staged = filled(snapkv(), 21, scores(20, p3=0.5, p9=0.4, p10=0.3, p18=0.9))
    assert staged.lists() == ([[3, 9, 10]], 18)


def test_later_rounds_change_nothing_and_are_read_whole() -> None:
    staged = filled(snapkv(), 21, scores(20, p3=0.5, p9=0.4, p10=0.3))
    staged.settle(25, 4, scores(24, p5=0.9, p6=0.9, p7=0.9))
    assert staged.lists() == ([[3, 9, 10]], 18)
    assert staged.lists(c=60) == ([[3, 9, 10]], 18)


def test_a_prompt_that_never_voted_reads_everything_whatever_is_verified() -> None:
    staged = snapkv()
    staged.settle(25, 4, scores(24, p5=0.9))
    assert staged.lists() == ([[]], 0)


def test_neighbours_of_a_winner_come_along_but_not_out_of_the_window() -> None:
    assert filled(snapkv(pool=3), 21, scores(20, p9=0.5)).lists() == ([[8, 9, 10]], 18)
    # 17 is next to the window, whose votes are not pooled into it
    assert filled(snapkv(pool=3), 21, scores(20, p18=0.9, p4=0.5)).lists() == ([[3, 4, 5]], 18)


def test_a_prompt_no_longer_than_its_window_is_read_whole() -> None:
    staged = filled(snapkv(window=16), 4, scores(3))
    assert staged.lists() == ([[]], 0)


def test_a_window_wider_than_what_is_kept_is_cut() -> None:
    assert filled(snapkv(window=16), 21, scores(20)).lists() == ([[]], 15)


def test_a_reset_seat_forgets_its_prompt() -> None:
    staged = filled(snapkv(), 21, scores(20, p3=0.5))
    staged.part.reset([0])
    assert staged.lists() == ([[]], 0)


def test_each_head_votes_for_itself() -> None:
    votes = [scores(20, p3=0.5, p4=0.4, p5=0.3), scores(20, p7=0.5, p8=0.4, p9=0.3)]
    assert filled(snapkv(groups="heads"), 21, votes).lists() == ([[3, 4, 5], [7, 8, 9]], 18)


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ({"keep": 0.0}, "keep is the share of the prompt"),
        ({"min_keep": 0}, "min_keep is a number of tokens"),
        ({"window": 0}, "number of queries"),
        ({"pool": 2}, "odd number"),
    ],
)
def test_an_option_that_cannot_work_raises(options: dict[str, Any], works: str) -> None:
    with pytest.raises(BadOption, match=works):
        SnapKV(**options)
