"""Scheduler `lockstep`: everybody drafts together and verifies together.

The published baselines (MagicDec, Vegas) run like this. A row whose round is full waits until all the others are
full too.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import StepPlan, draft_rows, drafters, verify_rows
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
        drafting, decoding = drafters(view), view.to_prefill == 0
        # rows that starve for pages hold nobody up: who waits for them holds the pages they need
        barred = (drafting & ~view.starved).any()
        verifying = decoding & ~drafting & ~barred
        return StepPlan(draft_rows(view, drafting), verify_rows(view, verifying), prefill_rows(view, self.chunk))

    def observe(self, result: RowResult) -> None:
        """Learn nothing."""
