from __future__ import annotations

import pytest

from sparsespec.core.divergence import Divergence, first_divergence


@pytest.mark.parametrize(
    ("tokens", "dense", "index", "shown"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2, 9, 4, 5, 6], 2, "[3, 4, 5, 6] instead of [9, 4, 5, 6] (lengths 6 and 6)"),
        ((7,), (8,), 0, "[7] instead of [8] (lengths 1 and 1)"),
        ([1, 2], [1, 2, 3], 2, "the end instead of [3] (lengths 2 and 3)"),
        ([1, 2, 3], [1, 2], 2, "[3] instead of the end (lengths 3 and 2)"),
        ([], [5], 0, "the end instead of [5] (lengths 0 and 1)"),
    ],
)
def test_the_first_token_that_differs_is_found_and_shown(
    tokens: list[int], dense: list[int], index: int, shown: str
) -> None:
    sentence = f"prompt 3 parts from dense decoding at output token {index}: {shown}"
    assert first_divergence("prompt 3", tokens, dense) == Divergence(index, sentence)


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3]])
def test_equal_outputs_do_not_part(tokens: list[int]) -> None:
    assert first_divergence("prompt 0", tokens, tuple(tokens)) is None
