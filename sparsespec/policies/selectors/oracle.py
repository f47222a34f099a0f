"""Selector `oracle`: at each draft step and layer, the positions that this very query reads most.

It reads all keys to choose, so it saves nothing; it bounds what any selector with the same budget could accept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys
from sparsespec.core.plan import Phase
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed
from sparsespec.policies.selectors.looking import Looking


class Oracle(Looking):
    """Chooses by exact attention probabilities of the present queries.

    Args:
        budget: Share of the context a draft reads, in (0, 1].
        min_budget: Tokens it reads at least.
        groups: Lists per layer: a divisor of the KV heads, or "heads".
    """

    provides: frozenset[str] = frozenset()

    def look(self, batch: Batch, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the best positions of every drafting row for its queries `q`."""
        n_committed = batch.state.n_committed.clamp(min=1)
        count = allowed(n_committed, self.budget, self.min_budget)
        shape = (self._groups, self._n_seats, self._k_max)
        positions = torch.zeros(shape, dtype=torch.int64, device=q.device)
        for b in range(batch.n_rows):
            live, seat = int(batch.live[b]), int(batch.seat[b])
            below = n_committed[seat] - 1
            # behind a prompt of one token there is nothing to choose from
            if not live or not below or int(batch.phase[b]) != Phase.DRAFT:
                continue
            offset = int(batch.offset[b])
            scores = self._scores(q[offset : offset + live], keys.of(b, int(below)))
            scores = scores[None, :, None]
            best = top_positions(scores, below[None], count[seat][None], self._k_max, impl=fastest(scores))
            positions[:, seat] = best[0, :, 0]
        return Chosen(positions, count, n_committed - 1)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return mean probabilities [groups, S] of queries [n, Hq, D] over keys [S, Hkv, D]."""
        n_kv_heads, head_dim = k.shape[1:]
        q = q.reshape(len(q), n_kv_heads, -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
        p = (q @ k.permute(1, 2, 0) * head_dim**-0.5).softmax(-1).mean(1)
        return p.view(self._groups, -1, len(k)).mean(1)
