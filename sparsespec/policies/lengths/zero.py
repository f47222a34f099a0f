"""Length `zero`: every round is one token, the dense baseline."""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView

_NOTHING = Lengths(0, 0)


class Zero:
    """Drafts nothing and asks for no guesses."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    max_draft = 0
    max_guess = 0

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, row: RowView) -> Lengths:
        """Return no drafts and no guesses."""
        return _NOTHING

    def observe(self, result: RowResult) -> None:
        """Learn nothing."""
