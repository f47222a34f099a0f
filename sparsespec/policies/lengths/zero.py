"""Length `zero`: every round is one token, the dense baseline."""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View


class Zero:
    """Drafts nothing and asks for no guesses."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    max_draft = 0
    max_guess = 0

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return no drafts and no guesses."""
        return Lengths(0, 0)

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""
