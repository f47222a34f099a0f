"""Selector `quest`: at each draft step and layer, the pages whose keys could be read most by this very query.

Source: Quest (Tang et al., arXiv 2406.10774). A page is known by the smallest and the largest value of its keys in each
dimension, which bound every product of a query with one of its keys; pages with the highest bounds are read whole. What
differs from the paper: a page is the engine's KV page (`block_size`, 16 there too), and only full pages of committed
positions are candidates, the rest being tail; heads that share a list share the bound, the highest of theirs, because
the paper knows no groups; and the first two layers keep to the budget as well, where the paper reads everything.

Bounds are taken anew from the keys at each draft step: that reads all keys, so it shows what Quest accepts and not how
fast it is, and `kv_read` counts what was chosen, without the bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys
from sparsespec.core.plan import MAX_DRAFT_QUERIES, Phase
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed
from sparsespec.policies.selectors.looking import Looking


class Quest(Looking):
    """Chooses whole pages by the upper bounds of their keys' products with the present queries.

    Args:
        budget: Share of the context a draft reads, in (0, 1]; what is left of it beside whole pages is not used.
        min_budget: Tokens it reads at least.
        groups: Lists per layer: a divisor of the KV heads, or "heads".
    """

    provides: frozenset[str] = frozenset({"capturable"})

    def look(self, batch: Batch, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the best pages of every drafting row for its queries `q` [N, Hq, D], as positions."""
        size, n_committed = keys.k_pages.shape[1], batch.state.n_committed.clamp(min=1)
        reads, newest = allowed(n_committed, self.budget, self.min_budget), n_committed - 1
        full = newest // size
        tail_from = torch.maximum(full * size, newest - reads)
        n_pages = torch.minimum((reads - (newest - tail_from)) // size, full)
        bounds = page_bounds(batch, q, keys.k_pages)
        scores = bounds.view(batch.n_rows, self._groups, -1, bounds.shape[2]).amax(2).transpose(0, 1)[None]
        seat, most = batch.seat, max(self._k_max // size, 1)
        best = top_positions(scores, full[seat], n_pages[seat], most, impl=fastest(scores))[0]
        inside = torch.arange(size, device=q.device)
        # a budget smaller than a page has room for none
        width = min(most * size, max(self._k_max, 1))
        positions = torch.zeros((self._groups, self._n_seats, width), dtype=torch.int64, device=q.device)
        positions[:, seat] = (best[..., None] * size + inside).flatten(2)[..., :width]
        return Chosen(positions, n_pages * size, tail_from)


def page_bounds(batch: Batch, q: Tensor, k_pages: Tensor) -> Tensor:
    """Return, per row, KV head and page of its table, what no product of a query with a key there exceeds.

    [B, Hkv, pages] float32 or wider, the highest over a row's live DRAFT queries and the heads of a group; not scaled,
    and -inf for rows without such queries. Pages that a row does not fill hold garbage.

    Args:
        batch: The step.
        q: Queries [N, Hq, D], rotated.
        k_pages: Keys of one layer, [pages, P, Hkv, D].
    """
    n_kv_heads, head_dim = k_pages.shape[2:]
    step = torch.arange(min(batch.widest, MAX_DRAFT_QUERIES), device=q.device)
    at = (batch.offset[:, None] + step).clamp(max=len(q) - 1)
    wide = torch.promote_types(q.dtype, torch.float32)
    mine = q[at].to(wide).view(*at.shape, n_kv_heads, -1, head_dim).permute(0, 2, 1, 3, 4).flatten(2, 3)
    low, high = torch.aminmax(k_pages, dim=1)
    table = batch.state.table[batch.seat]
    # a positive value of the query is worth most at the largest key, a negative one at the smallest
    bounds = mine.clamp(min=0) @ high[table].to(wide).permute(0, 2, 3, 1)
    bounds += mine.clamp(max=0) @ low[table].to(wide).permute(0, 2, 3, 1)
    live = (step < batch.live[:, None]) & (batch.phase == Phase.DRAFT)[:, None]
    bounds = bounds.view(batch.n_rows, n_kv_heads, len(step), -1, table.shape[1])
    return bounds.masked_fill(~live[:, None, :, None, None], -torch.inf).amax((2, 3))
