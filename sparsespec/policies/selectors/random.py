"""Selector `random`: as many positions as the budget allows, drawn anew in every round.

The control that shows what a choice is worth. Its draws are Philox noise of the committed count, so they depend
neither on the seat nor on a global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys, Outcome
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.noise import gumbel
from sparsespec.core.protocols import Selection
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed, check_budget, check_groups

_TAG = 1 << 31
"""Counter word that no drawing of tokens uses."""


class RandomSelector:
    """Chooses uniformly among the positions below the newest token.

    Args:
        budget: Share of the context a draft reads, in (0, 1].
        min_budget: Tokens it reads at least.
        groups: Lists per layer: a divisor of the KV heads, or "heads".
        seed: Seed of the choice.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    drafts = True
    scored = (0, 0)

    def __init__(self, budget: float = 0.05, min_budget: int = 128, groups: int | str = 1, seed: int = 0) -> None:
        check_budget(budget, min_budget)
        if not 0 <= seed < 1 << 63:
            raise BadOption(f"seed is a whole number in [0, 2**63), got {seed}")
        self.budget, self.min_budget, self.groups, self.seed = budget, min_budget, groups, seed

    def num_groups(self, n_kv_heads: int) -> int:
        """Return how many groups of KV heads a layer has; the heads of a group share a list."""
        return check_groups(self.groups, n_kv_heads)

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        self._geometry = geometry
        self._k_max = kv_budget(geometry.max_model_len, self.budget, self.min_budget)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def select(self, batch: Batch) -> Selection:
        """Return a selection that draws when a layer asks."""
        return _Drawn(self, batch)

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""

    def draw(self, layer: int, n_committed: Tensor) -> Chosen:
        """Return the choice of `layer` for every seat."""
        groups, n_seats, device = self._geometry.groups, self._geometry.n_seats, n_committed.device
        length = max(int(n_committed.max()), 1)
        n_committed = n_committed.clamp(min=1)
        count, rows = allowed(n_committed, self.budget, self.min_budget), groups * n_seats
        scores = gumbel(
            torch.full((rows,), self.seed, device=device),
            torch.arange(groups, device=device).repeat_interleave(n_seats) + layer * groups,
            n_committed.repeat(groups),
            torch.full((rows,), _TAG, device=device),
            length,
            torch.float32,
        ).view(1, groups, n_seats, length)
        below = n_committed - 1
        best = top_positions(scores, below, count, self._k_max, impl=fastest(scores))
        return Chosen(best[0], count, below)


class _Drawn:
    def __init__(self, selector: RandomSelector, batch: Batch) -> None:
        self._selector, self._batch = selector, batch

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        return self._selector.draw(layer, self._batch.state.n_committed)

    def see(self, layer: int, scores: Tensor) -> None:
        raise AssertionError("random wants no scores")
