"""Scheduler `staggered`: requests stand at different points of their rounds, so every step costs about the same.

Source: the unified batch of SparseSpec (arXiv 2512.01278, section 5). A step then carries some verifications and
many drafts instead of all of one kind. A request is placed in the rota by cutting its first round short; unlike the
original, what is balanced is KV tokens, because that is what a verification costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Row, StepPlan, can_draft, draft_row, verify_row
from sparsespec.core.result import RowResult
from sparsespec.core.view import View
from sparsespec.sched.prefill import check_chunk, prefill_rows


class Staggered:
    """Spreads the verifications of a batch evenly over the steps of a round.

    Args:
        chunk: Prompt tokens filled per step, all rows together, beside the decoding rows.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def __init__(self, chunk: int = 256) -> None:
        check_chunk(chunk)
        self.chunk = chunk

    def bind(self, geometry: Geometry) -> None:
        """Start with nobody in the rota."""
        self._cut: dict[int, int] = {}

    def reset(self, seats: Sequence[int]) -> None:
        """Take these seats out of the rota."""
        for seat in seats:
            self._cut.pop(seat, None)

    def plan(self, view: View) -> StepPlan:
        """Let every row take its next step; only first rounds are cut short."""
        decoding = [i for i in range(len(view)) if not view.to_prefill[i]]
        load: dict[int, int] = {}
        for i in decoding:
            if not self._is_new(view, i):
                wait = self._target(view, i) - int(view.d_lo[i])
                load[wait] = load.get(wait, 0) + int(view.n_hi[i])
        rows: list[Row] = []
        for i in decoding:
            if self._is_new(view, i):
                self._enter(view, i, load)
            if can_draft(view, i) and view.d_lo[i] < self._target(view, i):
                rows.append(draft_row(view, i))
            else:
                rows.append(verify_row(view, i))
        return StepPlan((*rows, *prefill_rows(view, self.chunk)))

    def observe(self, result: RowResult) -> None:
        """Learn nothing."""

    def _is_new(self, view: View, i: int) -> bool:
        return bool(view.first_round[i] and view.k[i] and int(view.seat[i]) not in self._cut)

    def _target(self, view: View, i: int) -> int:
        """Return how many drafts row `i` makes in this round."""
        k = int(view.k[i])
        return min(k, self._cut.get(int(view.seat[i]), k)) if view.first_round[i] else k

    def _enter(self, view: View, i: int, load: dict[int, int]) -> None:
        """Place row `i` where the fewest KV tokens are verified; among equals, in the longest round."""
        best = min(range(int(view.k[i]), -1, -1), key=lambda wait: load.get(wait, 0))
        load[best] = load.get(best, 0) + int(view.n_hi[i])
        self._cut[int(view.seat[i])] = best
