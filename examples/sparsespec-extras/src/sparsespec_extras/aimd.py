"""Length `aimd`: a token more after every full round whose drafts were all accepted, half as many after any other.

Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), by which TCP finds the capacity of a line that
it cannot see. A request's acceptance is such a line: it differs between requests and changes in the middle of one, and
a round that drafts past it pays for tokens that are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Aimd:
    """Keeps a window of drafts per seat, whole tokens of which are drafted.

    Args:
        first: Tokens drafted in a request's first round.
        most: Tokens drafted at most.
        add: Tokens by which a round grows the window if all its drafts were accepted.
        cut: What is left of the window after a rejection, in (0, 1); it never falls below one token.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    max_guess = 0

    def __init__(self, first: int = 4, most: int = 16, add: float = 1.0, cut: float = 0.5) -> None:
        if not 1 <= first <= most:
            raise BadOption(f"aimd needs 1 <= first <= most, got first={first}, most={most}")
        if add <= 0:
            raise BadOption(f"add is a number of tokens above 0, got {add}")
        if not 0 < cut < 1:
            raise BadOption(f"cut is what a rejection leaves of the window, in (0, 1), got {cut}")
        self.first, self.most, self.add, self.cut = first, most, add, cut

    @property
    def max_draft(self) -> int:
        """Return `most`."""
        return self.most

    def bind(self, geometry: Geometry) -> None:
        """Begin without any seat."""
        self._window = np.full(geometry.n_seats, float(self.first))

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: they begin with `first` again."""
        self._window[list(seats)] = self.first

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the whole tokens of each seat's window."""
        return Lengths(self._window[view.seat[index]].astype(np.int64), 0)

    def observe(self, results: RowResults) -> None:
        """Grow or cut the windows by the outcome of verifications."""
        judged = (results.phase == Phase.VERIFY.value) & (results.k > 0) & (results.n_candidates > 0)
        seat, n_candidates = results.seat[judged], results.n_candidates[judged]
        window = self._window[seat]
        # a round that was cut short says nothing of tokens it did not draft
        full = n_candidates >= window.astype(np.int64)
        grown = np.where(full, np.minimum(self.most, window + self.add), window)
        rejected = results.n_accepted[judged] < n_candidates
        self._window[seat] = np.where(rejected, np.maximum(1, window * self.cut), grown)
