"""Length `ema`: rounds grow while drafts are accepted and shrink while they are not, by a slow running mean.

Two thresholds with room between them keep the length still where acceptance is middling (hysteresis); a single one
would move it in every round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import VERIFY, Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Ema:
    """Adds a token where the mean share of accepted drafts is `grow` or more, takes one where it is below `shrink`.

    Args:
        most: Tokens a round drafts at most, and in a request's first round.
        least: Tokens a round drafts at least.
        memory: Weight of earlier rounds in the mean, in [0, 1).
        grow: Share of accepted drafts from which rounds grow.
        shrink: Share below which they shrink, less than `grow`.
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none".
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(
        self,
        most: int = 12,
        least: int = 2,
        memory: float = 0.7,
        grow: float = 0.8,
        shrink: float = 0.5,
        guess: int = 0,
    ) -> None:
        if not 1 <= least <= most or guess < 0:
            raise BadOption(
                f"ema needs 1 <= least <= most and guess >= 0 tokens, got least={least}, most={most}, guess={guess}"
            )
        if not 0 <= memory < 1:
            raise BadOption(f"memory is the weight of earlier rounds, in [0, 1), got {memory}")
        if not 0 <= shrink < grow <= 1:
            raise BadOption(f"ema needs 0 <= shrink < grow <= 1, got shrink={shrink}, grow={grow}")
        self.most, self.least, self.memory = most, least, memory
        self.grow, self.shrink, self.guess = grow, shrink, guess

    @property
    def max_draft(self) -> int:
        """Return `most`."""
        return self.most

    @property
    def max_guess(self) -> int:
        """Return `guess`."""
        return self.guess

    def bind(self, geometry: Geometry) -> None:
        """Begin with no seat known."""
        self._draft = np.full(geometry.n_seats, self.most)  # present length of a round, tokens
        self._share = np.full(geometry.n_seats, np.nan)  # mean share of accepted drafts; NaN before the first round

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: another request sits there now."""
        self._draft[list(seats)] = self.most
        self._share[list(seats)] = np.nan

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the present length of each seat."""
        return Lengths(self._draft[view.seat[index]], self.guess)

    def observe(self, results: RowResults) -> None:
        """Take verifications of drafts into the means, and move each length by at most one token."""
        judged = (results.phase == VERIFY) & (results.k > 0) & (results.n_candidates > 0)
        seat, n_candidates = results.seat[judged], results.n_candidates[judged]
        new, old, draft = results.n_accepted[judged] / n_candidates, self._share[seat], self._draft[seat]
        share = np.where(np.isnan(old), new, self.memory * old + (1 - self.memory) * new)
        shrinks = share < self.shrink
        # a round that was cut short says nothing of tokens it did not draft
        grows = (share >= self.grow) & (n_candidates >= draft)
        self._share[seat] = share
        self._draft[seat] = np.clip(draft + grows - shrinks, self.least, self.most)
