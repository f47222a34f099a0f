"""Selector `logsparse`: the farther back, the fewer positions are read.

Source: the LogSparse Transformer (Li et al., arXiv 1907.00235), whose tokens look back at exponentially growing
distances. Here the steps are stretched so that they spend the budget exactly, between the sinks of StreamingLLM (Xiao
et al., arXiv 2309.17453) and the newest tokens. It looks at no key and at no score, and yet reaches all of the context:
what it accepts beyond `window` is what distance alone can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.protocols import Selection
from sparsespec.policies.selectors.budget import allowed, check_budget
from sparsespec.policies.selectors.selection import Stored


class LogSparse:
    """Reads sinks, then positions whose gaps grow with their distance, then everything newest.

    Args:
        budget: Share of the context a draft reads, in (0, 1].
        min_budget: Tokens it reads at least.
        sinks: Tokens from the start among them.
        recent: Share of what the sinks leave that is spent on the newest positions, in [0, 1].
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    drafts = True
    scored = (0, 0)

    def __init__(self, budget: float = 0.05, min_budget: int = 128, sinks: int = 4, recent: float = 0.5) -> None:
        check_budget(budget, min_budget)
        if not 0 <= sinks <= min_budget:
            raise BadOption(f"sinks must be between 0 and min_budget = {min_budget} tokens, got {sinks}")
        if not 0 <= recent <= 1:
            raise BadOption(f"recent is a share of the budget, in [0, 1], got {recent}")
        self.budget, self.min_budget, self.sinks, self.recent = budget, min_budget, sinks, recent

    def num_groups(self, n_kv_heads: int) -> int:
        """Return 1: all heads and layers read the same."""
        return 1

    def bind(self, geometry: Geometry) -> None:
        """Number the columns of the longest list."""
        longest = kv_budget(geometry.max_model_len, self.budget, self.min_budget)
        self._column = torch.arange(longest, device=geometry.device)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing: all follows from the committed count."""

    def select(self, batch: Batch) -> Selection:
        """Return the positions of every seat at its present committed count."""
        n_committed = batch.state.n_committed.clamp(min=1)
        reads = allowed(n_committed, self.budget, self.min_budget)
        sinks = reads.clamp(max=self.sinks)
        newest = ((reads - sinks) * self.recent).to(torch.int64)
        m = (reads - sinks - newest)[:, None]  # positions to be spread, [seats, 1]
        tail_from = n_committed - 1 - newest
        n = (tail_from - sinks)[:, None]  # positions they are spread over, n >= m
        # i numbers the spread positions from the newest to the oldest, which lies n - 1 below the newest: i steps of
        # one position each keep them distinct, and m (r^x - 1), where r = n / m and x goes from 0 to 1, is the rest
        i = m - 1 - (self._column - sinks[:, None])  # [seats, longest]
        ratio, x = n.double() / m.clamp(min=1), i.double() / (m - 1).clamp(min=1)
        stretch = m * (ratio**x - 1)
        spread = tail_from[:, None] - 1 - i - stretch.to(torch.int64)
        positions = torch.where(self._column < sinks[:, None], self._column, spread)
        # columns behind the count hold nothing that is read
        counts = sinks + m[:, 0]
        positions = torch.where(self._column < counts[:, None], positions, 0)
        return Stored(positions[None, None], counts[None], tail_from, [])

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""
