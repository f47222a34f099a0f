"""What the state machines over the books share: the view of their requests, and settings to hunt mutants with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import Phase, settings

from sparsespec.core.view import View
from sparsespec.testing.checks.drawn_views import BLANK, view_of


def view_of_held(machine: Any, seats: Sequence[int]) -> View:
    """Return rows of `seats`, filled and in rounds of 4 drafts; `machine` knows each one's tokens and arrival."""
    held, arrival = machine.held, machine.arrival
    return view_of(*(BLANK._replace(seat=s, arrival=arrival[s], n_lo=held[s], n_hi=held[s], k=4) for s in seats))


def counted(n: int, steps: int) -> settings:
    """Return settings for machines that are expected to fail, or only to be counted: there is nothing to shrink."""
    return settings(max_examples=n, stateful_step_count=steps, deadline=None, database=None, phases=[Phase.generate])
