from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import pytest

from sparsespec.core.view import COLUMNS, View
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, draw_row, draw_view, view_of

_DTYPES = {"Ints": np.int64, "Bools": np.bool_}


def test_columns_are_the_rows_fields_by_name() -> None:
    dice, types = random.Random(0), {f.name: str(f.type) for f in fields(View)}
    for size in (0, 1, 9):
        rows = [draw_row(dice, seat, 2 * seat, 1) for seat in range(size)]
        view = view_of(*rows, step=3, num_running=9)
        assert (len(view), view.step, view.num_running) == (size, 3, 9)
        for name in COLUMNS:
            got = getattr(view, name)
            assert got.dtype == _DTYPES[types[name]], name
            assert got.tolist() == [getattr(row, name) for row in rows], name


def test_a_row_of_a_test_has_the_views_columns_in_their_order() -> None:
    assert ViewRow._fields == COLUMNS
    assert (*COLUMNS, "num_running", "step") == tuple(f.name for f in fields(View))


@pytest.mark.parametrize("n_seats", [1, 4, 9])
def test_seats_are_found_and_others_are_not(n_seats: int) -> None:
    dice = random.Random(n_seats)
    for _ in range(50):
        view = draw_view(dice, n_seats)
        asked = np.array([dice.randint(-2, 2 * n_seats) for _ in range(dice.randint(0, 9))], dtype=np.int64)
        seats = view.seat.tolist()
        assert view.find(asked).tolist() == [seats.index(seat) if seat in seats else -1 for seat in asked.tolist()]


def test_a_row_is_described_by_its_columns() -> None:
    view = view_of(BLANK, BLANK._replace(seat=3, k=4, starved=True))
    assert view.describe(1) == (
        "seat=3, arrival=0, to_prefill=0, n_lo=8, n_hi=8, d_lo=0, d_hi=0, k=4, guess=0, "
        "first_round=False, starved=True, must_verify=False"
    )
