"""Exact guesses for texts made by hand."""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.errors import BadOption
from sparsespec.policies.proposers.ngram import Ngram
from sparsespec.testing.checks.stage import small_geometry, state_of


def guesses(text: list[int], room: int = 4, **options: int) -> list[int]:
    """Return what is guessed behind `text`, in seat 2; the columns behind it hold 9s, of which none may be read."""
    part, geometry = Ngram(**options), small_geometry()
    part.bind(geometry)
    state = state_of(geometry, torch.Generator().manual_seed(1))
    state.tokens[2] = 9
    state.tokens[2, : len(text)] = torch.tensor(text)
    count = int(part.propose(state, torch.tensor([2]), torch.tensor([len(text)]), torch.tensor([room]))[0])
    return state.tokens[2, len(text) : len(text) + count].tolist()


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
    assert guesses(text) == found


def test_a_match_shorter_than_the_minimum_does_not_count() -> None:
    text = [1, 2, 3, 4, 5, 2]
    assert guesses(text) == []
    assert guesses(text, min_ngram=1) == [3, 4, 5, 2]


def test_a_match_is_compared_no_further_than_the_maximum() -> None:
    text = [1, 2, 3, 7, 7, 2, 3, 8, 8, 1, 2, 3]
    assert guesses(text, max_ngram=3) == [7, 7, 2, 3]
    assert guesses(text, max_ngram=2) == [8, 8, 1, 2]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_room_is_kept(room: int) -> None:
    assert guesses([1, 2, 3, 4, 5, 6, 1, 2], room) == [3, 4, 5, 6][:room]


@pytest.mark.parametrize("options", [{"min_ngram": 0}, {"max_ngram": 1}, {"min_ngram": 5, "max_ngram": 4}])
def test_sizes_that_cannot_work_raise(options: dict[str, int]) -> None:
    with pytest.raises(BadOption, match="1 <= min_ngram <= max_ngram"):
        Ngram(**options)
