"""Exact guesses for texts made by hand, and the longest match against a search in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsespec.policies.proposers.suffix import Suffix
from sparsespec.testing.checks.stage import small_geometry, state_of
from tests.policies.staged import guesses


def searched(text: list[int], room: int, max_match: int, min_match: int, factor: float) -> list[int]:
    """Do the same by looking at every earlier end, one token after the other."""
    best, end = 0, 0
    for e in range(len(text) - 1):
        n = 0
        while n < min(max_match, e + 1) and text[e - n] == text[len(text) - 1 - n]:
            n += 1
        if n >= best:
            best, end = n, e
    if best < min_match:
        return []
    return text[end + 1 :][: min(room, int(factor * best))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4]),  # a match of two tokens is worth two
        ([3, 1, 2, 3, 3, 3, 1, 2, 4, 4, 4, 4, 3, 1, 2], [4, 4, 4]),  # the newest of equal matches
        ([5, 1, 2, 3, 7, 7, 8, 1, 2, 6, 6, 6, 5, 1, 2], [3, 7, 7]),  # a longer match beats a newer one
        ([1, 2, 7, 1, 2], [7, 1]),  # a match may reach up to the newest token
        ([4, 4, 4], [4]),
        ([1, 2, 3, 4], []),
        ([1], []),
        ([1, 1], []),
    ],
)
def test_what_followed_the_newest_longest_match_is_guessed(text: list[int], found: list[int]) -> None:
    assert guesses(Suffix(), text) == found


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=60),
    st.integers(0, 4),
    st.sampled_from([1, 2, 3, 5, 7, 8, 64]),
    st.integers(1, 3),
    st.sampled_from([1.0, 0.5, 3.0]),
)
def test_the_longest_match_is_the_one_that_a_search_finds(
    text: list[int], room: int, max_match: int, min_match: int, factor: float
) -> None:
    max_match = max(max_match, min_match, math.ceil(1 / factor))
    options = {"max_match": max_match, "min_match": min_match, "factor": factor}
    assert guesses(Suffix(**options), text, room) == searched(text, room, **options)


def test_few_guesses_follow_a_short_match_and_many_a_long_one() -> None:
    short, long = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]
    assert guesses(Suffix(), short) == [4, 5]
    assert guesses(Suffix(), long) == [5, 6, 7, 8]
    assert guesses(Suffix(factor=0.5), long) == [5, 6]
    assert guesses(Suffix(factor=2.0), short) == [4, 5, 6, 7]


def test_matches_beyond_the_cap_are_not_told_apart() -> None:
    text = [9, 1, 2, 3, 4, 4, 4, 8, 1, 2, 3, 5, 5, 5, 9, 1, 2, 3]
    assert guesses(Suffix(), text) == [4, 4, 4, 8]
    assert guesses(Suffix(max_match=3), text) == [5, 5, 5]


def test_all_ids_of_a_vocabulary_are_told_apart() -> None:
    part = Suffix()
    part.bind(small_geometry(max_model_len=3 << 14))
    tokens = torch.arange(3 << 14)[None].repeat(1, 2)[:, : (3 << 14) + 16]
    # the first 16 ids come again at the end, and nothing else does
    lengths = part._lengths(tokens, torch.tensor([tokens.shape[1]]))[0]
    assert lengths.nonzero().squeeze(1).tolist() == [15]
    assert int(lengths[15]) == 16


def test_rows_do_not_see_one_another() -> None:
    part, geometry = Suffix(), small_geometry()
    part.bind(geometry)
    texts = [[1, 2, 3, 4, 5, 1, 2, 3], [7, 7, 7, 7, 7], [1, 2, 3]]
    state = state_of(geometry, torch.Generator().manual_seed(1))
    for seat, text in enumerate(texts):
        state.tokens[seat, : len(text)] = torch.tensor(text)
    known = torch.tensor([len(text) for text in texts])
    counts = part.propose(state, torch.arange(3), known, torch.tensor([4, 4, 4])).tolist()
    rows = zip(state.tokens, texts, counts, strict=False)
    found = [tokens[len(text) : len(text) + count].tolist() for tokens, text, count in rows]
    assert found == [guesses(Suffix(), text) for text in texts] == [[4, 5, 1], [7], []]
