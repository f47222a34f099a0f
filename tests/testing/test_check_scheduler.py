"""Schedulers that break one promise each, and the sentence that says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sparsespec.core.plan import Phase, Row, StepPlan, can_draft, draft_row, verify_row
from sparsespec.core.view import View
from sparsespec.sched.lockstep import Lockstep
from sparsespec.sched.prefill import prefill_rows
from sparsespec.sched.staggered import Staggered
from sparsespec.testing import check_scheduler
from tests.testing.caught import caught


class WaitsForTheStarving(Lockstep):
    def plan(self, view: View) -> StepPlan:
        decoding = [i for i in range(len(view)) if not view.to_prefill[i]]
        drafting = [i for i in decoding if can_draft(view, i)]
        rows = [draft_row(view, i) for i in drafting] or [verify_row(view, i) for i in decoding]
        return StepPlan(rows, prefill_rows(view, self.chunk))


class NeverFills(Lockstep):
    def plan(self, view: View) -> StepPlan:
        rows = super().plan(view).rows
        return StepPlan(tuple(row for row in rows if row.phase is not Phase.PREFILL))


class FillsLast(Lockstep):
    """Fills only when no row decodes."""

    def plan(self, view: View) -> StepPlan:
        rows = super().plan(view).rows
        decoding = tuple(row for row in rows if row.phase is not Phase.PREFILL)
        return StepPlan(decoding or rows)


class NeverVerifies(Lockstep):
    def plan(self, view: View) -> StepPlan:
        rows = super().plan(view).rows
        return StepPlan(tuple(row for row in rows if row.phase is not Phase.VERIFY))


class TooWide(Lockstep):
    def plan(self, view: View) -> StepPlan:
        return StepPlan(tuple(row._replace(n_query=row.n_query + 1) for row in super().plan(view).rows))


class CountsLow(Lockstep):
    """Sizes VERIFY rows by the drafts known for sure."""

    def plan(self, view: View) -> StepPlan:
        low = replace(view, d_hi=view.d_lo)
        return StepPlan(tuple(self._low(low, row) for row in super().plan(view).rows))

    def _low(self, low: View, row: Row) -> Row:
        return row if row.phase is not Phase.VERIFY else verify_row(low, low.seat.tolist().index(row.seat))


class Twice(Lockstep):
    def plan(self, view: View) -> StepPlan:
        rows = super().plan(view).rows
        return StepPlan((*rows, *rows[:1]))


class DraftsOn(Lockstep):
    """Does not see that a row owes a VERIFY."""

    def plan(self, view: View) -> StepPlan:
        return super().plan(replace(view, must_verify=view.must_verify & False))


class Remembering(Staggered):
    def reset(self, seats: Sequence[int]) -> None:
        pass


class Listing(Lockstep):
    def plan(self, view: View) -> Any:
        return list(super().plan(view).rows)


BROKEN: dict[type, str] = {
    WaitsForTheStarving: "which starves",
    NeverFills: "never plans|did not finish",
    FillsLast: "never plans .* beside|lets .* wait for",
    NeverVerifies: "never plans|did not finish",
    TooWide: "does not fit the view",
    CountsLow: "does not fit the view",
    Twice: "twice",
    DraftsOn: "does not fit the view",
    Remembering: "still remembers",
    Listing: "must return a StepPlan",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_scheduler, part(), BROKEN[part])
