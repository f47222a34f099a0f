"""The view of requests that stand where a state machine over the books has put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsespec.core.view import View
from sparsespec.testing.checks.drawn_views import BLANK, view_of


def view_of_held(machine: Any, seats: Sequence[int], *, n_seats: int) -> View:
    """Return rows of `seats`, filled and in rounds of 4 drafts; `machine` knows what each holds, and when it came."""
    held, arrival, pages = machine.held, machine.arrival, machine.tiers.pages
    rows = [BLANK._replace(seat=s, arrival=arrival[s], n_lo=held[s], n_hi=held[s], k=4, pages=pages(s)) for s in seats]
    return view_of(*rows, n_seats=n_seats)
