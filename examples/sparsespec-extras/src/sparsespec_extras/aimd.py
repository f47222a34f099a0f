"""Length `aimd`: a token more after every full round that stood, half as many after one that did not.

Source: additive increase, multiplicative decrease (Chiu and Jain, 1989), by which TCP finds the capacity of a line that
it cannot see. A request's acceptance is such a line: it differs between requests and changes in the middle of one, and
a round that drafts past it pays for tokens that are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView


class Aimd:
    """Keeps a window of drafts per seat, whole tokens of which are drafted.

    Args:
        first: Tokens drafted in a request's first round.
        most: Tokens drafted at most.
        add: Tokens by which a round grows the window if all its drafts stood.
        cut: What is left of the window after a rejection, in (0, 1); it never falls below one token.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
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
        self._window = dict[int, float]()

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: they begin with `first` again."""
        for seat in seats:
            self._window.pop(seat, None)

    def propose(self, row: RowView) -> Lengths:
        """Return the whole tokens of the seat's window."""
        return Lengths(int(self._window.get(row.seat, self.first)), 0)

    def observe(self, result: RowResult) -> None:
        """Grow or cut the window by the outcome of a verification."""
        if result.phase is not Phase.VERIFY or not result.k or not result.n_candidates:
            return
        window = self._window.get(result.seat, float(self.first))
        if result.n_accepted < result.n_candidates:
            window = max(1.0, window * self.cut)
        elif result.n_candidates >= int(window):
            # a round that was cut short says nothing of tokens it did not draft
            window = min(float(self.most), window + self.add)
        self._window[result.seat] = window
