"""Tier managers that break one promise each, and the sentence that says which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparsespec.core.plan import Phase, Placed, Rows, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.kv.gpu import GpuTier
from sparsespec.testing import check_tiers
from tests.quick import quick_last
from tests.testing.caught import caught


class YoungestFirst(GpuTier):
    def place(self, plan: StepPlan, view: View) -> Placed:
        placed = super().place(plan, view)
        return replace(placed, rows=placed.rows[::-1])


class NeverPreempts(GpuTier):
    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        return False


class PreemptsAnybody(GpuTier):
    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        for victim in [s for s in self._tables if s != seat]:
            self._release_all(victim)
            preempted.append(victim)
        return self._book.n_free >= need


class KeepsTheTail(GpuTier):
    def commit(self, seats: Ints, positions: Ints) -> None:
        pass


class CutsTheTail(GpuTier):
    def commit(self, seats: Ints, positions: Ints) -> None:
        super().commit(seats, np.maximum(positions - 1, 0))


class CommitsTheFirst(GpuTier):
    def commit(self, seats: Ints, positions: Ints) -> None:
        super().commit(seats[:1], positions[:1])


class LeaksOnForget(GpuTier):
    def forget(self, seat: int) -> None:
        self._tables.pop(seat, None)
        self._n_held[seat] = self._n_shared[seat] = 0


class RemembersSharing(GpuTier):
    def forget(self, seat: int) -> None:
        shared = self.shared_pages(seat)
        super().forget(seat)
        self._n_shared[seat] = shared


class SharesWithoutCounting(GpuTier):
    def share(self, seat: int, owner: int, n_pages: int) -> tuple[tuple[int, int, int], ...]:
        entries = super().share(seat, owner, n_pages)
        for _, _, page in entries:
            self._book._owners[page] -= 1
        return entries


class CopiesInsteadOfSharing(GpuTier):
    def share(self, seat: int, owner: int, n_pages: int) -> tuple[tuple[int, int, int], ...]:
        self._n_shared[seat] = n_pages
        return tuple(self._grow(seat, n_pages))


class TooFewPages(GpuTier):
    def _blocks(self, positions: Any) -> Any:
        return np.maximum(1, super()._blocks(positions) - 1)


class SilentAboutEntries(GpuTier):
    def place(self, plan: StepPlan, view: View) -> Placed:
        placed = super().place(plan, view)
        return replace(placed, table=placed.table[1:], fresh=placed.fresh[1:])


class OldPagesFresh(GpuTier):
    def place(self, plan: StepPlan, view: View) -> Placed:
        placed = super().place(plan, view)
        return replace(placed, fresh=placed.fresh[1:])


class DraftsPastTheRound(GpuTier):
    """Finds pages for queries that the device will not run, because the round ends before."""

    def _ends(self, rows: Rows, index: Ints, view: View) -> Ints:
        far = (view.n_hi - 1 + view.d_hi)[index] + rows.n_query
        return np.where(rows.phase == Phase.DRAFT, far, super()._ends(rows, index, view))


BROKEN: dict[type, str] = {
    YoungestFirst: "not oldest first",
    NeverPreempts: "did not place the oldest|did not finish",
    PreemptsAnybody: "for no older request|took its pages|did not place the oldest",
    KeepsTheTail: "kept",
    CutsTheTail: "kept",
    CommitsTheFirst: "kept",
    LeaksOnForget: "free pages|add up",
    RemembersSharing: "which was forgotten",
    SharesWithoutCounting: "other owners",
    CopiesInsteadOfSharing: "instead of the owner's",
    TooFewPages: "with pages for|kept|counts",
    SilentAboutEntries: "entered block|counts|with pages for",
    DraftsPastTheRound: "can ever be used",
    OldPagesFresh: "are fresh",
}


@pytest.mark.parametrize("part", quick_last(list(BROKEN)), ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    if part in (LeaksOnForget, SharesWithoutCounting):
        with pytest.raises(AssertionError, match=BROKEN[part]):
            check_tiers(part())
        return
    caught(check_tiers, part(), BROKEN[part])
