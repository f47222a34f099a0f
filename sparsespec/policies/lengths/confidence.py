"""Length `confidence`: rounds that end themselves at the first draft of which the model is not sure.

Source: the draft exit of Draft & Verify (arXiv 2309.08168); assisted generation in `transformers` has it too
(`assistant_confidence_threshold`). The unsure token itself is kept and verified here: one that is drawn and then thrown
away would bias what is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Confidence:
    """Drafts up to `draft` tokens, and none behind one whose top-1 probability is below `stop_below`.

    Args:
        draft: Tokens drafted under sparse attention at most.
        stop_below: Top-1 probability of a draft below which the round ends, in (0, 1].
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none".
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, draft: int = 12, stop_below: float = 0.3, guess: int = 0) -> None:
        if draft < 1 or guess < 0:
            raise BadOption(
                f"draft is 1 or more tokens and guess a number of them, got draft={draft}, guess={guess}; a length "
                "without drafts is 'fixed(draft=0,guess=4)'"
            )
        if not 0 < stop_below <= 1:
            raise BadOption(f"stop_below is a probability in (0, 1], got {stop_below}; 'fixed' never stops early")
        self.draft, self.stop_below, self.guess = draft, stop_below, guess

    @property
    def max_draft(self) -> int:
        """Return `draft`."""
        return self.draft

    @property
    def max_guess(self) -> int:
        """Return `guess`."""
        return self.guess

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the same for every round; the device ends it."""
        return Lengths(self.draft, self.guess, self.stop_below)

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""
