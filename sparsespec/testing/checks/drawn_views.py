"""Random views: every combination of bounds, flags and room that an engine may show, and none that it may not."""

from __future__ import annotations

import math
import random

from sparsespec.core.view import RowView, View, build_view

BLANK = RowView(
    seat=0,
    arrival=0,
    to_prefill=0,
    n_lo=8,
    n_hi=8,
    d_lo=0,
    d_hi=0,
    k=0,
    guess=0,
    first_round=False,
    starved=False,
    must_verify=False,
    pages=2,
    shared_pages=0,
    accepted_mean=math.nan,
    confidence=math.nan,
    waiting_since=0,
    running=1,
)
"""A row that decodes plainly, for tests to `replace` fields of."""


def view_of(*rows: RowView, step: int = 0, lag: int = 0, n_seats: int = 4) -> View:
    """Return a view of `rows`, oldest first, with room for everybody."""
    return build_view(list(rows), step=step, free_pages=50, host_free_pages=0, page_size=4, max_batch=n_seats, lag=lag)


def draw_view(dice: random.Random, n_seats: int = 4, step: int = 0) -> View:
    """Return a random view."""
    lag = dice.randint(0, 1)
    seats = dice.sample(range(n_seats), dice.randint(0, n_seats))
    arrivals = sorted(dice.sample(range(50), len(seats)))
    rows = [draw_row(dice, seat, arrival, lag) for seat, arrival in zip(seats, arrivals, strict=True)]
    return view_of(*(row._replace(running=n_seats) for row in rows), step=step, lag=lag, n_seats=n_seats)


def draw_row(dice: random.Random, seat: int, arrival: int, lag: int) -> RowView:
    """Return a random row: one that is being filled, or one in the middle of a round."""
    n = dice.randint(2, 40)
    row = BLANK._replace(
        seat=seat,
        arrival=arrival,
        n_lo=n,
        n_hi=n,
        first_round=dice.random() < 0.4,
        starved=dice.random() < 0.2,
        pages=dice.randint(0, 10),
        waiting_since=dice.randint(0, 20),
    )
    if dice.random() < 0.3:
        return row._replace(to_prefill=dice.randint(1, n - 1), pages=0)
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
