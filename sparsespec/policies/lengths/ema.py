"""Length `ema`: rounds grow while drafts stand and shrink while they fall, by a running mean that forgets slowly.

Two thresholds with room between them keep the length still where acceptance is middling (hysteresis); a single one
would move it in every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView


@dataclass(slots=True)
class _Pace:
    """What is known of a seat: the present length (tokens), and the running share of drafts that stood."""

    draft: int
    share: float | None = None


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
    gives: frozenset[str] = frozenset()

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
        self._paces: dict[int, _Pace] = {}

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: another request sits there now."""
        for seat in seats:
            self._paces.pop(seat, None)

    def propose(self, row: RowView) -> Lengths:
        """Return the present length of the seat."""
        pace = self._paces.get(row.seat)
        return Lengths(self.most if pace is None else pace.draft, self.guess)

    def observe(self, result: RowResult) -> None:
        """Take a verification of drafts into the mean, and move the length by at most one token."""
        if result.phase is not Phase.VERIFY or not result.k or not result.n_candidates:
            return
        pace = self._paces.setdefault(result.seat, _Pace(self.most))
        share = result.n_accepted / result.n_candidates
        pace.share = share if pace.share is None else self.memory * pace.share + (1 - self.memory) * share
        if pace.share < self.shrink:
            pace.draft = max(self.least, pace.draft - 1)
        # a round that was cut short says nothing of tokens it did not draft
        elif pace.share >= self.grow and result.n_candidates >= pace.draft:
            pace.draft = min(self.most, pace.draft + 1)
