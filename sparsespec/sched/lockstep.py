"""Scheduler `lockstep`: all requests draft together and verify together.

The published baselines (MagicDec, Vegas) run like this. A row whose round is full waits until all the others are
full too.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import StepPlan, draft_rows, drafters, verify_rows
from sparsespec.core.result import RowResults
from sparsespec.core.view import View
from sparsespec.sched.prefill import check_chunk, prefill_rows


class Lockstep:
    """All requests draft, then all verify: a barrier at every round.

    Args:
        chunk: Prompt tokens filled per step, all rows together, beside the decoding rows.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, chunk: int = 256) -> None:
        check_chunk(chunk)
        self.chunk = chunk

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def plan(self, view: View) -> StepPlan:
        """Draft while any row can, else verify all."""
        drafting, decoding = drafters(view), view.to_prefill == 0
        # rows that starve for pages hold no others up: those that wait for them hold the pages they need
        barred = (drafting & ~view.starved).any()
        verifying = decoding & ~drafting & ~barred
        return StepPlan(draft_rows(view, drafting), verify_rows(view, verifying), prefill_rows(view, self.chunk))

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""
