"""Schedulers that break one promise each, and the sentence that says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sparsespec.core.plan import Phase, Row, Rows, StepPlan, can_draft, draft_row, verify_row
from sparsespec.core.view import View
from sparsespec.sched.lockstep import Lockstep
from sparsespec.sched.prefill import prefill_rows
from sparsespec.sched.staggered import Staggered
from sparsespec.testing import check_scheduler
from tests.testing.caught import caught, variant


class WaitsForTheStarving(Lockstep):
    def plan(self, view: View) -> StepPlan:
        decoding = [i for i in range(len(view)) if not view.to_prefill[i]]
        drafting = [i for i in decoding if can_draft(view, i)]
        rows = [draft_row(view, i) for i in drafting] or [verify_row(view, i) for i in decoding]
        return StepPlan(rows, prefill_rows(view, self.chunk))


def planning(name: str, change: Callable[[Rows], Any]) -> type:
    """Return a `Lockstep` that plans `change` of what a sound one plans."""
    return variant(name, Lockstep, plan=lambda self, view: change(Lockstep.plan(self, view).rows))


def without(rows: Rows, phase: Phase) -> StepPlan:
    return StepPlan(tuple(row for row in rows if row.phase is not phase))


class CountsLow(Lockstep):
    """Sizes VERIFY rows by the drafts known for sure."""

    def plan(self, view: View) -> StepPlan:
        low = replace(view, d_hi=view.d_lo)
        return StepPlan(tuple(self._low(low, row) for row in super().plan(view).rows))

    def _low(self, low: View, row: Row) -> Row:
        return row if row.phase is not Phase.VERIFY else verify_row(low, low.seat.tolist().index(row.seat))


class DraftsOn(Lockstep):
    """Does not see that a row owes a VERIFY."""

    def plan(self, view: View) -> StepPlan:
        return super().plan(replace(view, must_verify=view.must_verify & False))


class Remembering(Staggered):
    def reset(self, seats: Sequence[int]) -> None:
        pass


BROKEN: dict[type, str] = {
    WaitsForTheStarving: "which starves",
    planning("NeverFills", lambda rows: without(rows, Phase.PREFILL)): "never plans|did not finish",
    # fills only when no row decodes
    planning("FillsLast", lambda rows: StepPlan(without(rows, Phase.PREFILL).rows or rows)): (
        "never plans .* beside|lets .* wait for"
    ),
    planning("NeverVerifies", lambda rows: without(rows, Phase.VERIFY)): "never plans|did not finish",
    planning("TooWide", lambda rows: StepPlan(tuple(row._replace(n_query=row.n_query + 1) for row in rows))): (
        "does not fit the view"
    ),
    CountsLow: "does not fit the view",
    planning("Twice", lambda rows: StepPlan((*rows, *rows[:1]))): "twice",
    DraftsOn: "does not fit the view",
    Remembering: "still remembers",
    planning("Listing", list): "must return a StepPlan",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_scheduler, part(), BROKEN[part])
