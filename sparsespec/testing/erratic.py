"""Length `erratic`: an adversary that changes its mind in every round.

Drafts, guesses and the confidence below which a round ends are drawn anew, within what it promised. Its choices are a
function of the seed, the request's number and how far it has come: it keeps no state, and a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Erratic:
    """Proposes at random.

    Args:
        max_draft: Tokens a round drafts at most; 0 with selector "none".
        max_guess: Guesses a forward takes at most; 0 with proposer "none".
        stop: Chance that a round may be ended by an unsure draft, in [0, 1].
        seed: Seed of all choices.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, max_draft: int = 5, max_guess: int = 0, stop: float = 0.3, seed: int = 0) -> None:
        if max_draft < 0 or max_guess < 0:
            raise BadOption(f"max_draft and max_guess are numbers of tokens, got {max_draft} and {max_guess}")
        if not 0 <= stop <= 1:
            raise BadOption(f"stop is a chance, in [0, 1], got {stop}")
        self.max_draft, self.max_guess, self.stop, self.seed = max_draft, max_guess, stop, seed

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return random lengths for each round; the extremes are as likely as all between them."""
        rounds = [
            self._round(*row) for row in zip(view.arrival[index].tolist(), view.n_lo[index].tolist(), strict=True)
        ]
        draft, guess, stop_below = zip(*rounds, strict=True) if rounds else ((), (), ())
        return Lengths(np.array(draft, np.int64), np.array(guess, np.int64), np.array(stop_below, np.float64))

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""

    def _round(self, arrival: int, n_lo: int) -> tuple[int, int, float]:
        dice = random.Random(f"{self.seed}/{arrival}/{n_lo}")
        stop_below = dice.random() if self.max_draft and dice.random() < self.stop else 0.0
        return self._draw(self.max_draft, dice), self._draw(self.max_guess, dice), stop_below

    @staticmethod
    def _draw(most: int, dice: random.Random) -> int:
        return most if dice.random() < 0.5 else dice.randint(0, most)
