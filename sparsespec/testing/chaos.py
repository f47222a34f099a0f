"""Scheduler `chaos`: an adversary that runs random subsets of the rows and verifies whenever it likes.

Every plan is legal and no request starves for ever; nothing else about it is sensible. What an engine emits must not
depend on which requests ran when, so whatever passes under `chaos` passes under any scheduler. Its choices are a
function of seed and step alone: it keeps no state, and a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Row, StepPlan, can_draft, draft_row, prefill_row, verify_row
from sparsespec.core.result import RowResults
from sparsespec.core.view import View


class Chaos:
    """Plans at random.

    Args:
        seed: Seed of all choices.
        idle: Chance that a row does not run in a step, in [0, 1).
        early: Chance that a round which could draft on is verified instead, in [0, 1).
        chunk: Prompt tokens of one PREFILL row at most; each row draws its own number.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, seed: int = 0, idle: float = 0.3, early: float = 0.2, chunk: int = 16) -> None:
        if not (0 <= idle < 1 and 0 <= early < 1):
            raise BadOption(f"idle and early are chances in [0, 1), got idle={idle}, early={early}")
        if chunk < 1:
            raise BadOption(f"chunk is a number of prompt tokens, 1 or more, got {chunk}")
        self.seed, self.idle, self.early, self.chunk = seed, idle, early, chunk

    def bind(self, geometry: Geometry) -> None:
        """Learn nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def plan(self, view: View) -> StepPlan:
        """Return legal rows for a random subset of the view, in random order."""
        dice = random.Random(f"{self.seed}/{view.step}")
        rows = [self._row(view, i, dice) for i in range(len(view)) if dice.random() >= self.idle]
        dice.shuffle(rows)
        return StepPlan(tuple(rows))

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""

    def _row(self, view: View, i: int, dice: random.Random) -> Row:
        if view.to_prefill[i]:
            return prefill_row(view, i, dice.randint(1, self.chunk))
        if can_draft(view, i) and dice.random() >= self.early:
            return draft_row(view, i)
        return verify_row(view, i)
