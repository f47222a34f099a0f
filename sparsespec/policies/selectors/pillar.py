"""Selector `pillar`: what the last verification read most, refreshed once per round.

Source: PillarAttn, SparseSpec (arXiv 2512.01278, section 4), and its twin Vegas (arXiv 2602.07223), which shares
one list between a layer's heads and scores the first and last query only; both are settings of this one class. A
verification computes the probabilities anyway, so choosing costs no extra pass over the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.policies.selectors.scored import Scored


class Pillar(Scored):
    """Chooses the positions with the highest attention of the last scored row.

    PillarAttn as published: `groups="heads", recent=0.0, scored=(0, 16), warm_start=False, min_budget=192`; its code
    sets one more of the newest positions aside than the round verified. Vegas: `groups=1, recent=0.0, scored=(1, 1),
    budget=0.07, min_budget=256`, with 6 drafts a round.

    Args:
        budget: Share of the context a draft reads, in (0, 1].
        min_budget: Tokens it reads at least.
        groups: Lists per layer: a divisor of the KV heads, or "heads" for one list per KV head.
        recent: Share of the budget spent on the newest positions, in [0, 1]. Positions of the round just verified are
            always among them: the causal mask hides them from its first queries, so their scores would be too low.
        scored: (first, last): leading and trailing live queries of a VERIFY row whose probabilities count.
        pool: Odd width of a maximum over neighbouring positions; 1 is off.
        smooth: Weight of earlier rounds in an exponential mean of scores, in [0, 1); 0 is off.
        warm_start: Score the end of the first prefill, so that the first round is sparse already.
    """

    def __init__(
        self,
        budget: float = 0.05,
        min_budget: int = 128,
        groups: int | str = 1,
        recent: float = 0.5,
        scored: Sequence[int] = (1, 1),
        pool: int = 1,
        smooth: float = 0.0,
        warm_start: bool = True,
    ) -> None:
        super().__init__(budget, min_budget, groups, pool)
        if not 0 <= recent <= 1:
            raise BadOption(f"recent is a share of the budget, in [0, 1], got {recent}")
        if len(scored) != 2 or min(scored) < 0 or sum(scored) < 1:
            raise BadOption(f"scored is (first, last), two numbers of queries, not both 0, got {scored}")
        if not 0 <= smooth < 1:
            raise BadOption(f"smooth is the weight of earlier rounds, in [0, 1), got {smooth}")
        self.budget, self.min_budget, self.scored = budget, min_budget, (scored[0], scored[1])
        self.recent, self.smooth, self.warm_start = recent, smooth, warm_start

    def bind(self, geometry: Geometry) -> None:
        """Allocate positions, counts, tails, and the running scores where they are smoothed."""
        super().bind(geometry)
        g = geometry
        self._running: Tensor | None = None
        if self.smooth:
            wide = (g.n_layers, g.groups, g.n_seats, g.max_model_len)
            self._running = torch.zeros(wide, dtype=torch.float32, device=g.device)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: until scored again they read everything."""
        super().reset(seats)
        if self._running is not None:
            for seat in seats:
                self._running[:, :, seat] = 0

    def fresh(self, batch: Batch) -> Tensor:
        """Say of each row whether it was scored; without a warm start, also whether it was a verification."""
        fresh = super().fresh(batch)
        return fresh if self.warm_start else fresh & (batch.phase == Phase.VERIFY)

    def newest(self, outcome: Outcome, reads: Tensor) -> Tensor:
        """Return `recent` of what is read, and no less than the round just verified."""
        share = torch.ceil(reads.to(torch.float64) * self.recent).to(torch.int64)
        return torch.minimum(torch.maximum(share, outcome.emitted), reads)

    def weigh(self, scores: Tensor, seat: Tensor, n_committed: Tensor, fresh: Tensor) -> Tensor:
        """Return the scores, mixed with those of earlier rounds; only `fresh` rows are remembered."""
        if self._running is None:
            return scores
        length = scores.shape[-1]
        old = self._running[:, :, seat, :length]
        # a position that earlier rounds could not see starts with what it gets now
        mixed = torch.where(old > 0, self.smooth * old + (1 - self.smooth) * scores, scores)
        # a rejected position will hold another token, which must not inherit its scores
        committed = torch.arange(length, device=seat.device) < n_committed[:, None]
        kept = torch.where(committed, mixed, 0).to(torch.float32)
        self._running[:, :, seat, :length] = torch.where(fresh[:, None], kept, old)
        return mixed
