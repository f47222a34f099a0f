"""Selector `window`: the first few positions (sinks) and the newest ones.

Sources: StreamingLLM (Xiao et al., arXiv 2309.17453) for sinks and window; MagicDec (Chen et al., arXiv 2408.11049) for
drafting with it. The selection follows from the committed count alone, so nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.protocols import Selection
from sparsespec.policies.selectors.budget import allowed, check_budget
from sparsespec.policies.selectors.selection import Stored


class Window:
    """Reads `sinks` positions from the start, and spends the rest of the budget on the newest.

    Args:
        budget: Share of the context a draft reads, in (0, 1].
        min_budget: Tokens it reads at least.
        sinks: Tokens from the start among them.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    drafts = True
    scored = (0, 0)

    def __init__(self, budget: float = 0.05, min_budget: int = 128, sinks: int = 4) -> None:
        check_budget(budget, min_budget)
        if not 0 <= sinks <= min_budget:
            raise BadOption(f"sinks must be between 0 and min_budget = {min_budget} tokens, got {sinks}")
        self.budget, self.min_budget, self.sinks = budget, min_budget, sinks

    def num_groups(self, n_kv_heads: int) -> int:
        """Return 1: all heads and layers read the same."""
        return 1

    def bind(self, geometry: Geometry) -> None:
        """Allocate the sinks, which never change."""
        sinks = torch.arange(max(self.sinks, 1), dtype=torch.int32, device=geometry.device)
        self._positions = sinks.expand(1, 1, geometry.n_seats, -1)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def select(self, batch: Batch) -> Selection:
        """Return sinks and window of every seat at its present committed count."""
        n_committed = batch.state.n_committed.clamp(min=1)
        reads = allowed(n_committed, self.budget, self.min_budget)
        sinks = reads.clamp(max=self.sinks)
        return Stored(self._positions, sinks[None], n_committed - 1 - (reads - sinks), [])

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""
