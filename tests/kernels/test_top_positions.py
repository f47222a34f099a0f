"""Held against sorting in Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.kernels.top_positions.api import IMPLS, top_positions
from tests.quick import quick_last


def plainly(scores: list[float], below: int, count: int, k_max: int, pool: int) -> list[int]:
    """Return one list: the best positions below `below`, ties to the lower, ascending, filled up with 0."""
    half = pool // 2
    legal = range(below)
    pooled = {p: max(scores[t] for t in range(p - half, p + half + 1) if t in legal) for p in legal}
    best = sorted(sorted(legal, key=lambda p: (-pooled[p], p))[:count])
    return best + [0] * (k_max - count)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int]:
    layers, groups, rows, length = (draw(st.integers(1, n)) for n in (2, 2, 3, 14))
    k_max = draw(st.integers(1, 16))
    # few different values, so that many scores tie
    table = draw(st.lists(st.integers(0, 4), min_size=length * rows, max_size=length * rows))
    scores = torch.tensor(table, dtype=torch.float64).view(1, 1, rows, length)
    spread = torch.arange(layers * groups, dtype=torch.float64).view(layers, groups, 1, 1)
    below = [draw(st.integers(0, length)) for _ in range(rows)]
    count = [draw(st.integers(0, min(k_max, n))) for n in below]
    pool = draw(st.sampled_from((1, 3, 5)))
    return (scores + spread * scores.flip(-1)), torch.tensor(below), torch.tensor(count), k_max, pool


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", quick_last([torch.float64, torch.float16, torch.float32]))
@given(problem=problems())
def test_is_what_sorting_gives(impl: str, dtype: torch.dtype, problem: tuple[Tensor, Tensor, Tensor, int, int]) -> None:
    scores, below, count, k_max, pool = problem
    got = top_positions(scores.to(dtype), below, count, k_max, pool=pool, impl=impl)
    assert got.shape == (*scores.shape[:3], k_max)
    assert got.dtype == torch.int64
    for layer in range(scores.shape[0]):
        for group in range(scores.shape[1]):
            for row in range(scores.shape[2]):
                one = scores[layer, group, row].tolist()
                want = plainly(one, int(below[row]), int(count[row]), k_max, pool)
                assert got[layer, group, row].tolist() == want


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_high_scores_at_and_above_below_are_never_chosen(impl: str) -> None:
    scores = torch.tensor([0.1, 0.2, 0.3, torch.nan, torch.inf, 9.0]).view(1, 1, 1, -1)
    for pool in (1, 3):
        got = top_positions(scores, torch.tensor([3]), torch.tensor([2]), 4, pool=pool, impl=impl)
        assert got.flatten().tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_an_empty_context_gives_empty_lists(impl: str) -> None:
    for pool in (1, 3):
        got = top_positions(torch.zeros(2, 1, 1, 0), torch.tensor([0]), torch.tensor([0]), 3, pool=pool, impl=impl)
        assert got.tolist() == [[[[0, 0, 0]]]] * 2


@pytest.mark.parametrize("pool", [0, 2, -1])
def test_an_even_pool_raises(pool: int) -> None:
    with pytest.raises(BadOption, match="odd number"):
        top_positions(torch.zeros(1, 1, 1, 4), torch.tensor([4]), torch.tensor([1]), 1, pool=pool, impl="reference")


def test_an_unknown_implementation_raises() -> None:
    with pytest.raises(UnknownName, match="have: .*reference"):
        top_positions(torch.zeros(1, 1, 1, 4), torch.tensor([4]), torch.tensor([1]), 1, impl="tritom")
