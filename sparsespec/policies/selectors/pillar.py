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
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Selection
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed, check_budget, check_groups
from sparsespec.policies.selectors.selection import Kept, Stored


class Pillar:
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

    needs: frozenset[str] = frozenset({"scores"})
    gives: frozenset[str] = frozenset({"capturable"})
    drafts = True

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
        check_budget(budget, min_budget)
        if not 0 <= recent <= 1:
            raise BadOption(f"recent is a share of the budget, in [0, 1], got {recent}")
        if len(scored) != 2 or min(scored) < 0 or sum(scored) < 1:
            raise BadOption(f"scored is (first, last), two numbers of queries, not both 0, got {scored}")
        if pool < 1 or pool % 2 == 0:
            raise BadOption(f"pool must be an odd number of positions, 1 or more, got {pool}")
        if not 0 <= smooth < 1:
            raise BadOption(f"smooth is the weight of earlier rounds, in [0, 1), got {smooth}")
        self.budget, self.min_budget, self.groups, self.recent = budget, min_budget, groups, recent
        self.scored = (scored[0], scored[1])
        self.pool, self.smooth, self.warm_start = pool, smooth, warm_start

    def lists(self, n_kv_heads: int) -> int:
        """Return the lists per layer that `groups` means."""
        return check_groups(self.groups, n_kv_heads)

    def bind(self, geometry: Geometry) -> None:
        """Allocate positions, counts, tails, and the running scores where they are smoothed."""
        g = geometry
        self._k_max = kv_budget(g.max_context, self.budget, self.min_budget)
        self._kept = Kept(g, self._k_max)
        self._running: Tensor | None = None
        if self.smooth:
            wide = (g.n_layers, g.groups, g.n_seats, g.max_context)
            self._running = torch.zeros(wide, dtype=torch.float32, device=g.device)
        self._step: Stored | None = None

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: until scored again they read everything."""
        self._kept.forget(seats)
        if self._running is not None:
            for seat in seats:
                self._running[:, :, seat] = 0

    def select(self, batch: Batch) -> Selection:
        """Return what the last refresh of every seat chose."""
        self._step = self._kept.view()
        return self._step

    def observe(self, outcome: Outcome) -> None:
        """Refresh the rows that were scored in this step; all rows are computed, and the others keep what they have."""
        if self._step is None or not self._step.scores:
            return
        batch, seat = outcome.batch, outcome.batch.seat
        fresh = batch.scored & (batch.live > 0)
        if not self.warm_start:
            fresh = fresh & (batch.phase == Phase.VERIFY)
        c = batch.state.c[seat]
        scores = self._smoothed(self._step.stacked(), seat, c, fresh)
        reads = allowed(c, self.budget, self.min_budget)
        share = torch.ceil(reads.to(torch.float64) * self.recent).to(torch.int64)
        newest = torch.minimum(torch.maximum(share, outcome.emitted), reads)
        tail_from = torch.where(fresh, c - 1 - newest, 0)
        count = torch.where(fresh, torch.minimum(reads - newest, tail_from), 0)
        best = top_positions(scores, tail_from, count, self._k_max, pool=self.pool, impl=fastest(scores))
        self._kept.refresh(seat, fresh, best, count, tail_from)

    def _smoothed(self, scores: Tensor, seat: Tensor, c: Tensor, fresh: Tensor) -> Tensor:
        """Return scores [L, groups, B, S], mixed with those of earlier rounds; only `fresh` rows [B] are remembered."""
        if self._running is None:
            return scores
        length = scores.shape[-1]
        old = self._running[:, :, seat, :length]
        # a position that earlier rounds could not see starts with what it gets now
        mixed = torch.where(old > 0, self.smooth * old + (1 - self.smooth) * scores, scores)
        # a rejected position will hold another token, which must not inherit its scores
        kept = torch.where(torch.arange(length, device=c.device) < c[:, None], mixed, 0).to(torch.float32)
        self._running[:, :, seat, :length] = torch.where(fresh[:, None], kept, old)
        return mixed
