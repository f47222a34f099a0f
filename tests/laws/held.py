"""The view of requests as a state machine over the books has left them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsespec.core.view import View
from sparsespec.testing.checks.drawn_views import BLANK, view_of


def view_of_held(machine: Any, seats: Sequence[int]) -> View:
    """Return rows of `seats`, filled and in rounds of 4 drafts; `machine` knows each one's tokens and arrival."""
    held, arrival = machine.held, machine.arrival
    return view_of(*(BLANK._replace(seat=s, arrival=arrival[s], n_lo=held[s], n_hi=held[s], k=4) for s in seats))
