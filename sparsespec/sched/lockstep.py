"""Scheduler `lockstep`: everybody drafts together and verifies together.

The published baselines (MagicDec, Vegas) run like this. A row whose round is full waits until all the others are
full too.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import StepPlan, can_draft, draft_row, verify_row
from sparsespec.core.result import RowResult
from sparsespec.core.view import View
from sparsespec.sched.prefill import check_chunk, prefill_rows


class Lockstep:
    """Everybody drafts, then everybody verifies: a barrier at every round.

    Args:
        chunk: Prompt tokens filled per step, all rows together, beside the decoding rows.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def __init__(self, chunk: int = 256) -> None:
        check_chunk(chunk)
        self.chunk = chunk

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def plan(self, view: View) -> StepPlan:
        """Draft while anybody can, else verify everybody."""
        decoding = [i for i in range(len(view)) if not view.to_prefill[i]]
        drafting = [i for i in decoding if can_draft(view, i)]
        # rows that starve for pages hold nobody up: who waits for them holds the pages they need
        if any(not view.starved[i] for i in drafting):
            rows = [draft_row(view, i) for i in drafting]
        else:
            rows = [draft_row(view, i) if i in drafting else verify_row(view, i) for i in decoding]
        return StepPlan((*rows, *prefill_rows(view, self.chunk)))

    def observe(self, result: RowResult) -> None:
        """Learn nothing."""
