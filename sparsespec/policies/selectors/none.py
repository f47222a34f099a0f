"""Selector `none`: there is no draft level at all.

Every step of a request is a VERIFY; guesses go straight into it. It is not `full`, which drafts reading everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.protocols import Selection


class NoSelector:
    """No draft level: the engine never asks it."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    drafts = False
    scored = (0, 0)

    def num_groups(self, n_kv_heads: int) -> int:
        """Return 1."""
        return 1

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def select(self, batch: Batch) -> Selection:
        """Raise: nothing can ask for a draft where there is no draft level."""
        raise ContractBroken("selector 'none' was asked for a selection")

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""
