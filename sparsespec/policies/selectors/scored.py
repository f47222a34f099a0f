"""What selectors share that choose by attention probabilities of a row that read everything.

Such a row is scored as it runs, so choosing costs no extra pass over the keys. When it has settled, its seat gets a new
list for each layer: the positions with the highest scores below a tail of the newest ones, which is always read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.protocols import Selection
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed, check_budget, check_groups
from sparsespec.policies.selectors.selection import Kept, Stored


class Scored:
    """Keeps what the last refresh of each seat chose; a subclass says which rows refresh it, and how.

    It stores its options, states `scored`, how many leading and trailing queries count, and may override `fresh`,
    `newest` and `weigh`.

    Args:
        share: Share of the context that a list reads when it is refreshed, in (0, 1].
        least: Tokens it reads at least.
        groups: Lists per layer: a divisor of the KV heads, or "heads" for one list per KV head.
        pool: Odd width of a maximum over neighbouring positions; 1 is off.
    """

    needs: frozenset[str] = frozenset({"scores"})
    provides: frozenset[str] = frozenset({"capturable"})
    drafts = True

    def __init__(self, share: float, least: int, groups: int | str = 1, pool: int = 1) -> None:
        check_budget(share, least)
        if pool < 1 or pool % 2 == 0:
            raise BadOption(f"pool must be an odd number of positions, 1 or more, got {pool}")
        self._share, self._least, self.groups, self.pool = share, least, groups, pool

    def num_groups(self, n_kv_heads: int) -> int:
        """Return how many groups of KV heads a layer has; the heads of a group share a list."""
        return check_groups(self.groups, n_kv_heads)

    def bind(self, geometry: Geometry) -> None:
        """Allocate positions, counts and tails."""
        self._k_max = kv_budget(geometry.max_model_len, self._share, self._least)
        self._kept = Kept(geometry, self._k_max)
        self._step: Stored | None = None

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: until scored again they read everything."""
        self._kept.forget(seats)

    def select(self, batch: Batch) -> Selection:
        """Return what the last refresh of every seat chose."""
        self._step = self._kept.view()
        return self._step

    def observe(self, outcome: Outcome) -> None:
        """Refresh the rows that were scored in this step; all rows are computed, and the others keep what they have."""
        if self._step is None or not self._step.scores:
            return
        batch, seat = outcome.batch, outcome.batch.seat
        fresh, n_committed = self.fresh(batch), batch.state.n_committed[seat]
        scores = self.weigh(self._step.stacked(), seat, n_committed, fresh)
        reads = allowed(n_committed, self._share, self._least)
        newest = self.newest(outcome, reads)
        tail_from = torch.where(fresh, n_committed - 1 - newest, 0)
        count = torch.where(fresh, torch.minimum(reads - newest, tail_from), 0)
        best = top_positions(scores, tail_from, count, self._k_max, pool=self.pool, impl=fastest(scores))
        self._kept.refresh(seat, fresh, best, count, tail_from)

    def fresh(self, batch: Batch) -> Tensor:
        """Say of each row [B] of a step whether its scores are used: here, of all that were scored."""
        return batch.scored & (batch.live > 0)

    def newest(self, outcome: Outcome, reads: Tensor) -> Tensor:
        """Return how many of the `reads` [B] positions below the newest token are the newest ones [B], read unscored.

        Here it is those of the round just verified: the causal mask hides them from its first queries, so their scores
        would be too low.
        """
        return torch.minimum(outcome.emitted, reads)

    def weigh(self, scores: Tensor, seat: Tensor, n_committed: Tensor, fresh: Tensor) -> Tensor:
        """Return the scores [L, groups, B, S] to choose by: here, those of this step as they are."""
        return scores
