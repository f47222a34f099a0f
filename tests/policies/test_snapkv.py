"""Exact positions for votes made by hand."""

from __future__ import annotations

from typing import Any

import pytest

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


HEADS = [scores(20, p3=0.5, p4=0.4, p5=0.3), scores(20, p7=0.5, p8=0.4, p9=0.3)]
# options, committed, votes, and what is kept: 5 of the 20 positions that the prompt filled
KEPT: dict[str, tuple[dict[str, Any], int, Any, tuple[list[list[int]], int]]] = {
    "the window, and the winners": ({}, 21, scores(20, p3=0.5, p9=0.4, p10=0.3, p18=0.9), ([[3, 9, 10]], 18)),
    "neighbours of a winner": ({"pool": 3}, 21, scores(20, p9=0.5), ([[8, 9, 10]], 18)),
    # 17 is next to the window, whose votes are not pooled into it
    "none out of the window": ({"pool": 3}, 21, scores(20, p18=0.9, p4=0.5), ([[3, 4, 5]], 18)),
    "a prompt no longer than its window": ({"window": 16}, 4, scores(3), ([[]], 0)),
    "a window wider than what is kept": ({"window": 16}, 21, scores(20), ([[]], 15)),
    "each head for itself": ({"groups": "heads"}, 21, HEADS, ([[3, 4, 5], [7, 8, 9]], 18)),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_window_is_kept_and_the_rest_goes_to_the_winners(name: str) -> None:
    options, c, votes, expected = KEPT[name]
    assert filled(snapkv(**options), c, votes).lists() == expected


def test_later_rounds_change_nothing_and_are_read_whole() -> None:
    staged = filled(snapkv(), 21, scores(20, p3=0.5, p9=0.4, p10=0.3))
    staged.settle(25, 4, scores(24, p5=0.9, p6=0.9, p7=0.9))
    assert staged.lists() == ([[3, 9, 10]], 18)
    assert staged.lists(c=60) == ([[3, 9, 10]], 18)


def test_a_prompt_that_never_voted_reads_everything_whatever_is_verified() -> None:
    staged = snapkv()
    staged.settle(25, 4, scores(24, p5=0.9))
    assert staged.lists() == ([[]], 0)


def test_a_reset_seat_forgets_its_prompt() -> None:
    staged = filled(snapkv(), 21, scores(20, p3=0.5))
    staged.part.reset([0])
    assert staged.lists() == ([[]], 0)
