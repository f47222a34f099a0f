"""Scheduler `staggered`: requests are at different points of their rounds, so every step costs about the same.

Source: the unified batch of SparseSpec (arXiv 2512.01278, section 5). A step then carries some verifications and
many drafts instead of all of one kind. Unlike the original, what is balanced is KV tokens, because that is what a
verification costs, and the balance is kept as requests finish, arrive and grow: where the verifications of a later
step outweigh those of this one, a row verifies early and stays there, for all its rounds to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.core.plan import StepPlan, draft_rows, drafters, verify_rows
from sparsespec.core.result import RowResults
from sparsespec.core.view import Bools, Floats, Ints, View
from sparsespec.sched.prefill import check_chunk, prefill_rows


class Staggered:
    """Spreads the verifications of a batch evenly over the steps of a round.

    Args:
        chunk: Prompt tokens filled per step, all rows together, beside the decoding rows.
        gain: A round is cut short if each draft that it gives up lowers the heavier of two steps by at least this
            fraction of the mean load, in KV tokens verified; math.inf never cuts one but the first.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, chunk: int = 256, gain: float = 0.1) -> None:
        check_chunk(chunk)
        if not gain > 0:
            raise BadOption(f"gain is a fraction of the mean load above 0, got {show(gain)}")
        self.chunk, self.gain = chunk, gain

    def bind(self, geometry: Geometry) -> None:
        """Start with no request placed."""
        self.cut_ = np.full(geometry.n_seats, -1)  # drafts of a seat's first round; -1 before it has a place

    def reset(self, seats: Sequence[int]) -> None:
        """Forget where these seats were placed."""
        self.cut_[list(seats)] = -1

    def plan(self, view: View) -> StepPlan:
        """Let every row take its next step; first rounds are cut short to spread them, others where it pays."""
        decoding, can, target = view.to_prefill == 0, drafters(view), self._targets(view)
        wait = np.where(can, np.maximum(target - view.d_lo, 0), 0)  # steps to the next VERIFY
        # a request that never drafts weighs the same in every step, and a new one has no place yet
        new, placed = can & (target < 0), decoding & (view.k > 0) & (target >= 0)
        # KV tokens verified, by step; as floats they are whole numbers all the same
        weights = view.n_hi[placed].astype(np.float64)
        load: Any = np.bincount(wait[placed], weights=weights, minlength=1 + view.k.max(initial=0))
        for i in new.nonzero()[0].tolist():
            self._enter(view, i, wait, load)
        self._level(view, can & (view.d_lo > 0), wait, load)
        now = decoding & (wait == 0)
        drafting = draft_rows(view, decoding & ~now)
        return StepPlan(drafting, verify_rows(view, now), prefill_rows(view, self.chunk))

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""

    def _targets(self, view: View) -> Ints:
        """Return how many drafts each row makes in this round; -1 for a new row, which has no place yet."""
        cut = self.cut_[view.seat]
        return np.where(view.first_round & (view.k > 0), np.minimum(cut, view.k), view.k)

    def _enter(self, view: View, i: int, wait: Ints, load: Floats) -> None:
        """Let row `i` verify where the fewest KV tokens are verified; among equals, after the longest round."""
        room = int(view.k[i] - view.d_lo[i])
        wait[i] = room - load[room::-1].argmin()
        load[wait[i]] += view.n_hi[i]
        self.cut_[view.seat[i]] = view.d_lo[i] + wait[i]

    def _level(self, view: View, movable: Bools, wait: Ints, load: Floats) -> None:
        """Let rows verify in this step, not later, as long as that pays; they stay that much ahead."""
        least = self.gain * load.mean()
        while len(rows := (movable & (wait > 0)).nonzero()[0]):
            w, n = wait[rows], view.n_hi[rows]
            # how far below load[w] the heavier of the two steps comes, per draft given up
            gain = np.minimum(load[w] - load[0] - n, n) / w
            best = gain.argmax()
            if gain[best] < least:
                return
            load[w[best]] -= n[best]
            load[0] += n[best]
            wait[rows[best]] = 0
