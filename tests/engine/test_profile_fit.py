"""Fits find again what samples were made from, and say how far off they are."""

from __future__ import annotations

import pytest

from sparsespec.engine.profile import fit
from sparsespec.engine.profile.sample import Sample


def samples(points: dict[tuple[float, ...], float]) -> list[Sample]:
    return [Sample("group", "", sizes, seconds) for sizes, seconds in points.items()]


def test_attention_finds_its_four_numbers() -> None:
    truth = (2e-5, 3.3e-13, 4.4e-13, 1e-10)
    steps = [(1e9, 0.0, 0.0), (5e9, 0.0, 0.0), (0.0, 1e8, 0.0), (0.0, 9e8, 0.0), (3e9, 2e8, 0.0), (0.0, 0.0, 1e6)]
    made = {one: truth[0] + sum(t * n for t, n in zip(truth[1:], one, strict=True)) for one in steps}
    found, error = fit.attention(samples(made))
    assert (found.seconds, found.per_dense_byte, found.per_sparse_byte, found.per_prefill_pair) == pytest.approx(truth)
    assert error.largest < 1e-6
    assert error.n == 6


def test_errors_are_relative() -> None:
    # 1 + n, but for one of the three
    found, error = fit.line(samples({(1e6,): 2.0, (2e6,): 3.0, (3e6,): 6.0}))
    assert found.seconds_per_byte > 0
    off = [abs(found(1e6 * n) / seconds - 1) for n, seconds in ((1, 2.0), (2, 3.0), (3, 6.0))]
    assert error.largest == pytest.approx(max(off), rel=1e-3)
    assert error.median == pytest.approx(sorted(off)[1], rel=1e-3)


def test_nothing_is_fitted_below_zero() -> None:
    # the larger the faster: no rate explains it, so the fixed part takes all
    found, _ = fit.line(samples({(1.0,): 3.0, (2.0,): 2.0, (3.0,): 1.0}))
    assert found.seconds_per_byte == 0.0
    assert found.seconds > 0


def test_what_was_never_tried_costs_nothing() -> None:
    found, _ = fit.attention(samples({(1e9, 0.0, 0.0): 1.0, (2e9, 0.0, 0.0): 2.0}))
    assert found.per_sparse_byte == found.per_prefill_pair == 0.0
    assert found.per_dense_byte == pytest.approx(1e-9)


def test_a_curve_goes_through_its_points_and_is_judged_by_its_neighbours() -> None:
    found, error = fit.curve(samples({(1.0,): 1.0, (2.0,): 4.0, (3.0,): 3.0, (4.0,): 2.0}))
    assert [found(n) for n in (1, 2, 3, 4)] == [1.0, 4.0, 3.0, 2.0]
    # the second lies at 4 where its neighbours say 2, the third where they say it does
    assert (error.largest, error.median, error.n) == (0.5, 0.25, 2)
