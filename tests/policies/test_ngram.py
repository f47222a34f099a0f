"""Exact guesses for texts made by hand."""

from __future__ import annotations

import pytest

from sparsespec.policies.proposers.ngram import Ngram
from tests.policies.staged import guesses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4, 5, 6]),
        # the newest of equal matches
        ([1, 2, 3, 3, 1, 2, 4, 4, 4, 4, 1, 2], [4, 4, 4, 4]),
        # a longer match beats a newer one
        ([5, 1, 2, 3, 7, 7, 8, 1, 2, 6, 6, 6, 5, 1, 2], [3, 7, 7, 8]),
        # a match may reach up to the newest token, and then there is less to copy
        ([1, 2, 7, 1, 2], [7, 1, 2]),
        ([4, 4, 4], [4]),
        # nothing matches
        ([1, 2, 3, 4], []),
        ([1], []),
        ([1, 1], []),
    ],
)
def test_what_followed_the_newest_longest_match_is_guessed(text: list[int], found: list[int]) -> None:
    assert guesses(Ngram(), text) == found


def test_a_match_shorter_than_the_minimum_does_not_count() -> None:
    text = [1, 2, 3, 4, 5, 2]
    assert guesses(Ngram(), text) == []
    assert guesses(Ngram(min_ngram=1), text) == [3, 4, 5, 2]


def test_a_match_is_compared_no_further_than_the_maximum() -> None:
    text = [1, 2, 3, 7, 7, 2, 3, 8, 8, 1, 2, 3]
    assert guesses(Ngram(max_ngram=3), text) == [7, 7, 2, 3]
    assert guesses(Ngram(max_ngram=2), text) == [8, 8, 1, 2]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_room_is_kept(room: int) -> None:
    assert guesses(Ngram(), [1, 2, 3, 4, 5, 6, 1, 2], room) == [3, 4, 5, 6][:room]
