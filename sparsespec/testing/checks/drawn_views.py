"""Views put together row by row, and random ones: every combination of bounds and flags that an engine may show."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np

from sparsespec.core.view import COLUMNS, View


class ViewRow(NamedTuple):
    """One row of a view as plain numbers, with its columns in their order; by default it decodes plainly."""

    seat: int = 0
    arrival: int = 0
    to_prefill: int = 0
    n_lo: int = 8
    n_hi: int = 8
    d_lo: int = 0
    d_hi: int = 0
    k: int = 0
    guess: int = 0
    first_round: bool = False
    starved: bool = False
    must_verify: bool = False


BLANK = ViewRow()
"""A row that decodes plainly, for tests to `_replace` fields of."""


def view_of(*rows: ViewRow, step: int = 0, num_running: int | None = None) -> View:
    """Return a view of `rows`, oldest first; unless told otherwise no others are running."""
    columns: Any = zip(*rows, strict=True) if rows else ((),) * len(COLUMNS)
    arrays: list[Any] = [np.array(column, dtype=type(default)) for column, default in zip(columns, BLANK, strict=True)]
    return View(*arrays, num_running=len(rows) if num_running is None else num_running, step=step)


def draw_view(dice: random.Random, n_seats: int = 4, step: int = 0) -> View:
    """Return a random view."""
    lag = dice.randint(0, 1)
    seats = dice.sample(range(n_seats), dice.randint(0, n_seats))
    arrivals = sorted(dice.sample(range(50), len(seats)))
    rows = [draw_row(dice, seat, arrival, lag) for seat, arrival in zip(seats, arrivals, strict=True)]
    return view_of(*rows, step=step, num_running=n_seats)


def draw_row(dice: random.Random, seat: int, arrival: int, lag: int) -> ViewRow:
    """Return a random row: one that is being filled, or one in the middle of a round."""
    n = dice.randint(2, 40)
    row = ViewRow(
        seat=seat, arrival=arrival, n_lo=n, n_hi=n, first_round=dice.random() < 0.4, starved=dice.random() < 0.2
    )
    if dice.random() < 0.3:
        return row._replace(to_prefill=dice.randint(1, n - 1))
    k, spread = dice.randint(0, 6), lag * dice.randint(0, 3)
    d_lo = dice.randint(0, k)
    return row._replace(
        n_hi=n + (spread if d_lo == 0 else 0),
        d_lo=d_lo,
        d_hi=min(k, d_lo + spread),
        k=k,
        guess=dice.randint(0, 3),
        must_verify=d_lo > 0 and dice.random() < 0.2,
    )
