"""Selector `snapkv`: what the end of the prompt read most, chosen once; all that comes later is read too.

Source: SnapKV (Li et al., arXiv 2404.14469): the last queries of a prompt vote for earlier positions by what they read,
votes are pooled so that neighbours of a winner come along, and the winners of each head stay, with the window itself.
There the rest of the prompt is dropped for good; here only drafts go without it, so nothing is lost. What differs: a
head here is a KV head, whose query heads vote together; the prompt's last token is not in the window, because it is the
query of the first round; a prompt that is filled in chunks votes with the last chunk alone; and pooling is a maximum,
where a mean is published as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Selection
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.top_positions.api import top_positions
from sparsespec.policies.selectors.budget import allowed, check_budget, check_groups
from sparsespec.policies.selectors.selection import Kept, Stored


class SnapKV:
    """Keeps a share of the prompt and reads it in every round, with everything behind the prompt.

    A draft's reading grows with the output, by one position a token: `keep` is a share of the prompt, and not, like the
    `budget` of other selectors, of the context. A prompt of one token has nothing to vote with, and is read whole.

    Args:
        keep: Share of the prompt that is kept, in (0, 1], its window included.
        min_keep: Tokens that are kept at least.
        window: Queries that vote; their positions are kept. Attention `triton` scores 16 at most.
        pool: Odd width of the maximum over neighbouring votes; 1 is off.
        groups: Lists per layer: a divisor of the KV heads, or "heads".
    """

    needs: frozenset[str] = frozenset({"scores"})
    gives: frozenset[str] = frozenset({"capturable"})
    drafts = True

    def __init__(
        self, keep: float = 0.05, min_keep: int = 128, window: int = 16, pool: int = 7, groups: int | str = "heads"
    ) -> None:
        check_budget(keep, min_keep, names=("keep", "min_keep"), whole="prompt")
        if window < 1:
            raise BadOption(f"window is a number of queries, 1 or more, got {window}")
        if pool < 1 or pool % 2 == 0:
            raise BadOption(f"pool must be an odd number of positions, 1 or more, got {pool}")
        self.keep, self.min_keep, self.window, self.pool, self.groups = keep, min_keep, window, pool, groups

    @property
    def scored(self) -> tuple[int, int]:
        """Return `window` trailing queries."""
        return (0, self.window)

    def lists(self, n_kv_heads: int) -> int:
        """Return the lists per layer that `groups` means."""
        return check_groups(self.groups, n_kv_heads)

    def bind(self, geometry: Geometry) -> None:
        """Allocate positions, counts and tails."""
        self._k_max = kv_budget(geometry.max_context, self.keep, self.min_keep)
        self._kept = Kept(geometry, self._k_max)
        self._step: Stored | None = None

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: until their prompt voted they read everything."""
        self._kept.forget(seats)

    def select(self, batch: Batch) -> Selection:
        """Return what the prompt of every seat chose."""
        self._step = self._kept.view()
        return self._step

    def observe(self, outcome: Outcome) -> None:
        """Choose for the rows whose prompt was filled in this step; scores of verifications are not looked at."""
        if self._step is None or not self._step.scores:
            return
        batch, seat = outcome.batch, outcome.batch.seat
        fresh = batch.scored & (batch.live > 0) & (batch.phase == Phase.PREFILL)
        c, scores = batch.state.c[seat], self._step.stacked()
        reads = allowed(c, self.keep, self.min_keep)
        # positions of the window are hidden from its first queries, so they are kept without a vote
        tail_from = torch.where(fresh, c - 1 - reads.clamp(max=self.window), 0)
        count = torch.where(fresh, torch.minimum(reads - (c - 1 - tail_from), tail_from), 0)
        best = top_positions(scores, tail_from, count, self._k_max, pool=self.pool, impl=fastest(scores))
        self._kept.refresh(seat, fresh, best, count, tail_from)
