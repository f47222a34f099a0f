"""What selectors do alike that look at the keys with the present queries, at each draft step and in each layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys, Outcome
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.protocols import Selection
from sparsespec.policies.selectors.budget import check_budget, check_groups


class Looking:
    """Keeps a budget and nothing else: what is chosen is found when a layer asks."""

    needs: frozenset[str] = frozenset({"step_query"})
    drafts = True
    scored = (0, 0)

    def __init__(self, budget: float = 0.05, min_budget: int = 128, groups: int | str = "heads") -> None:
        check_budget(budget, min_budget)
        self.budget, self.min_budget, self.groups = budget, min_budget, groups

    def num_groups(self, n_kv_heads: int) -> int:
        """Return how many groups of KV heads a layer has; the heads of a group share a list."""
        return check_groups(self.groups, n_kv_heads)

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        self._groups, self._n_seats = geometry.groups, geometry.n_seats
        self._k_max = kv_budget(geometry.max_model_len, self.budget, self.min_budget)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def select(self, batch: Batch) -> Selection:
        """Return a selection that looks at the keys when a layer asks."""
        return _Look(self, batch)

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""

    def look(self, batch: Batch, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return what every drafting row reads of a layer's `keys` for its queries `q` [N, Hq, D]."""
        raise NotImplementedError


class _Look:
    def __init__(self, selector: Looking, batch: Batch) -> None:
        self._selector, self._batch = selector, batch

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        return self._selector.look(self._batch, q, keys)

    def see(self, layer: int, scores: Tensor) -> None:
        raise AssertionError(f"{type(self._selector).__name__} wants no scores")
