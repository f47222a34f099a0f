"""Curves go through their points; beyond them they do what their docstring says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsespec.core.curve import Curve, Line
from sparsespec.core.errors import BadOption

CURVE = Curve(((1, 10.0), (4, 16.0), (8, 40.0)))
sizes = st.floats(0, 1e6)


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(0, 0), (0.5, 10), (1, 10), (2, 12), (2.5, 13), (4, 16), (6, 28), (8, 40), (10, 52), (18, 100)],
)
def test_between_points_it_is_straight_below_flat_and_beyond_it_goes_on(size: float, seconds: float) -> None:
    assert CURVE(size) == pytest.approx(seconds)


def test_beyond_its_points_it_never_falls() -> None:
    assert Curve(((1, 10.0), (2, 9.0)))(50) == 9.0
    assert Curve(((3, 7.0),))(1) == Curve(((3, 7.0),))(300) == 7.0


@given(st.lists(st.tuples(st.floats(0.5, 100), st.floats(0, 100)), min_size=1, max_size=6), sizes, sizes)
def test_a_curve_through_rising_points_rises(steps: list[tuple[float, float]], one: float, other: float) -> None:
    size = seconds = 0.0
    points: list[tuple[float, float]] = []
    for more, longer in steps:
        size, seconds = size + more, seconds + longer
        points.append((size, seconds))
    curve = Curve(tuple(points))
    low, high = sorted((one, other))
    assert curve(low) <= curve(high) * (1 + 1e-12)
    assert [curve(at) for at, _ in points] == pytest.approx([t for _, t in points])


@pytest.mark.parametrize(
    "points",
    [(), ((0, 1.0),), ((2, 1.0), (2, 1.0)), ((3, 1.0), (2, 1.0)), ((1, -1.0),), ((1, float("nan")),), ((1, 1e999),)],
)
def test_points_that_make_no_curve_are_one_sentence(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(BadOption, match=r"^a curve (needs|has) points \(size, seconds\)") as caught:
        Curve(points)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [3, "ab", [1, 2], [[1]], [[1, "x"]], [[1, None]]])
def test_what_is_no_list_of_pairs_is_named(value: object) -> None:
    with pytest.raises(BadOption, match="layers must be a list of pairs"):
        Curve.of(value, "layers")


def test_a_line_has_a_fixed_part_that_nothing_does_not_pay() -> None:
    line = Line(2.0, 0.5)
    assert (line(0), line(1), line(10)) == (0.0, 2.5, 7.0)
