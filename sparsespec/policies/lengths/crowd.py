"""How many requests run beside one another, as far as a length policy can know: who began a round lately.

A row tells the step in which it last ran, and a running request begins a round every few steps. A request that ended
counts for that long; one that is being filled does not count yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.view import RowView


class Crowd:
    """Seats by the step in which they last began a round.

    Args:
        geometry: The sizes; a round of `max_draft` tokens takes as many steps and two more, and is waited for twice.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._n_seats, self._patience = geometry.n_seats, 2 * (geometry.max_draft + 2)
        self._began: dict[int, int] = {}
        self._now = 0

    def reset(self, seats: Sequence[int]) -> None:
        """Begin anew if all seats are reset; if some are, others sit down there, and as many run as before."""
        if len(set(seats)) == self._n_seats:
            self._began.clear()
            self._now = 0

    def join(self, row: RowView) -> int:
        """Note that `row` begins a round; return how many requests run, itself included."""
        self._now = self._began[row.seat] = max(self._now, row.waiting_since)
        oldest = self._now - self._patience
        return sum(step >= oldest for step in self._began.values())
