"""Scheduler `random`: requests are at random points of their rounds, and nothing is balanced.

The control of `staggered`: what spreading verifications by chance alone achieves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.plan import StepPlan, draft_rows, drafters, verify_rows
from sparsespec.core.result import RowResults
from sparsespec.core.seeds import derive_seed
from sparsespec.core.view import View
from sparsespec.sched.prefill import check_chunk, prefill_rows


class RandomScheduler:
    """Cuts each request's first round short at a length drawn from its number; later rounds are whole.

    Args:
        chunk: Prompt tokens filled per step, all rows together, beside the decoding rows.
        seed: Of the draws.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, chunk: int = 256, seed: int = 0) -> None:
        check_chunk(chunk)
        self.chunk, self.seed = chunk, seed

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing: a request's number says it all."""

    def plan(self, view: View) -> StepPlan:
        """Let every row take its next step."""
        decoding, can = view.to_prefill == 0, drafters(view)
        first = (view.first_round & can).nonzero()[0]
        for i in first.tolist():
            can[i] = view.d_lo[i] < derive_seed(self.seed, int(view.arrival[i])) % (int(view.k[i]) + 1)
        verifying = decoding & np.logical_not(can)
        return StepPlan(draft_rows(view, can), verify_rows(view, verifying), prefill_rows(view, self.chunk))

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""
