"""Margins and reach, on distributions small enough to do by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sparsespec.core.params import SamplingParams
from sparsespec.testing.divergence.distribution import FAR, Distribution
from sparsespec.testing.divergence.kernel_error import Quantiles, gap_errors

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()


def of(logits: torch.Tensor = LOGITS, **params: float) -> Distribution:
    return Distribution(logits, SamplingParams(**{"temperature": 1.0, **params}), seed=3, position=7)  # type: ignore[arg-type]


def test_greedy_ones_have_no_noise_and_no_filters() -> None:
    one = of(torch.tensor([1.0, 3.0, 2.5]), temperature=0.0, top_k=1)
    assert one.scores.tolist() == [-2.0, 0.0, -0.5]
    assert one.margin(0) == FAR
    assert one.reach(2, 0.5).ok
    assert not one.reach(2, 0.4).ok
    assert one.reach(2, 0.4).gap == 0.5


def test_temperature_widens_gaps() -> None:
    assert of(torch.tensor([1.0, 0.0]), temperature=0.5).scaled.tolist() == [0.0, -2.0]


@pytest.mark.parametrize(("top_k", "token", "gap"), [(1, 0, (0, 1)), (1, 1, (1, 0)), (2, 1, (1, 2)), (3, 3, (3, 2))])
def test_top_k_is_as_far_as_the_token_to_change_places_with(top_k: int, token: int, gap: tuple[int, int]) -> None:
    want = float(LOGITS[gap[0]] - LOGITS[gap[1]])
    assert of(top_k=top_k).margin(token) == pytest.approx(want)


def test_min_p_is_as_far_as_its_floor() -> None:
    assert of(min_p=0.2).margin(2) == pytest.approx(math.log(0.3 / 0.2))
    assert of(min_p=0.2).margin(3) == pytest.approx(math.log(0.1 / 0.2))


def test_top_p_is_as_far_as_the_odds_of_what_is_ahead() -> None:
    # 0.8 is ahead of token 2: kept at 0.81, masked at 0.79, and the odds differ from 4 by little
    odds = math.log(0.81 / 0.19) - math.log(4)
    assert of(top_p=0.81).margin(2) == pytest.approx(odds)
    assert of(top_p=0.79).margin(2) == pytest.approx(math.log(0.79 / 0.21) - math.log(4))
    assert of(top_p=0.99).kept.all()
    # the token that crosses p stays; the best one stays until another one is ahead of it
    assert of(top_p=0.4).kept.tolist() == [True, False, False, False]
    assert of(top_p=0.3).margin(0) >= math.log(0.5 / 0.3) - 1e-9


def test_the_sign_of_a_margin_is_what_the_filters_keep() -> None:
    generator = torch.Generator().manual_seed(0)
    for params in ({"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}, {"top_p": 0.7, "top_k": 6, "min_p": 0.05}):
        one = of(2 * torch.randn(20, generator=generator), **params)
        signs = [one.margin(t) >= 0 for t in range(20)]
        assert signs == one.kept.tolist()


def test_a_masked_token_is_in_reach_at_its_boundary_only() -> None:
    one = of(top_p=0.79)
    close = -one.margin(2)
    reach = one.reach(2, 10.0)
    assert (reach.ok, reach.by_filter, reach.gap) == (True, True, math.inf)
    assert reach.boundary >= close
    assert not one.reach(2, close / 2).ok


def test_errors_are_those_of_gaps() -> None:
    truth = torch.tensor([[3.0, 2.0, 1.0]])
    assert gap_errors(truth + 5, truth).tolist() == [0.0]
    assert gap_errors(truth + torch.tensor([[0.1, -0.2, 0.0]]), truth).tolist() == pytest.approx([0.3])
    assert Quantiles.of(torch.arange(1001.0)) == (500.0, 990.0, 999.0, 1000.0)
