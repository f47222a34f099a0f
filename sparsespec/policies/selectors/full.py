"""Selector `full`: a draft level that reads everything.

Its drafts are the full model's own, so every draft is accepted (up to rounding): the control that shows what drafting
costs when nothing is saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry
from sparsespec.core.protocols import Selection
from sparsespec.policies.selectors.selection import Stored


class Full:
    """No chosen positions and a tail that starts at 0."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    drafts = True
    scored = (0, 0)

    def num_groups(self, n_kv_heads: int) -> int:
        """Return 1."""
        return 1

    def bind(self, geometry: Geometry) -> None:
        """Allocate the empty lists."""
        seats, device = geometry.n_seats, geometry.device
        self._positions = torch.zeros((1, 1, seats, 1), dtype=torch.int32, device=device)
        self._zeros = torch.zeros((1, seats), dtype=torch.int64, device=device)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def select(self, batch: Batch) -> Selection:
        """Return the selection that is only a tail."""
        return Stored(self._positions, self._zeros, self._zeros[0], [])

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""
