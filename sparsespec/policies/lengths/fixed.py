"""Length `fixed`: every round drafts the same number of tokens, as the paper does."""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Fixed:
    """Drafts `draft` tokens a round and takes up to `guess` guesses in each forward.

    Args:
        draft: Tokens drafted under sparse attention; 0 with selector "none".
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none".
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, draft: int = 8, guess: int = 0) -> None:
        if draft < 0 or guess < 0:
            raise BadOption(f"draft and guess are numbers of tokens, got draft={draft}, guess={guess}")
        self.draft, self.guess = draft, guess

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
        """Return the same lengths for every round."""
        return Lengths(self.draft, self.guess)

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""
