"""Tier managers that break one promise each, and the sentence that says which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sparsespec.core.plan import Phase, Placed, Rows
from sparsespec.core.view import Ints, View
from sparsespec.kv.gpu import GpuTier
from sparsespec.testing import check_tiers
from tests.quick import quick_last
from tests.testing.caught import caught, variant


def placing(name: str, change: Callable[[Placed], Placed]) -> type:
    """Return a tier manager that says `change` of what a sound one has placed."""
    return variant(name, GpuTier, place=lambda self, plan, view: change(GpuTier.place(self, plan, view)))


def committing(name: str, commit: Callable[[GpuTier, Ints, Ints], None]) -> type:
    return variant(name, GpuTier, commit=commit)


class PreemptsAnybody(GpuTier):
    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        for victim in [s for s in self._tables if s != seat]:
            self._release_all(victim)
            preempted.append(victim)
        return self._book.n_free >= need


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


class DraftsPastTheRound(GpuTier):
    """Finds pages for queries that the device will not run, because the round ends before."""

    def _ends(self, rows: Rows, index: Ints, view: View) -> Ints:
        far = (view.n_hi - 1 + view.d_hi)[index] + rows.n_query
        return np.where(rows.phase == Phase.DRAFT, far, super()._ends(rows, index, view))


BROKEN: dict[type, str] = {
    placing("YoungestFirst", lambda placed: replace(placed, rows=placed.rows[::-1])): "not oldest first",
    variant(
        "NeverPreempts", GpuTier, _make_room=lambda self, need, seat, preempted: False
    ): "did not place the oldest|did not finish",
    PreemptsAnybody: "for no older request|took its pages|did not place the oldest",
    committing("KeepsTheTail", lambda self, seats, positions: None): "kept",
    committing("CutsTheTail", lambda self, seats, p: GpuTier.commit(self, seats, np.maximum(p - 1, 0))): "kept",
    committing("CommitsTheFirst", lambda self, seats, p: GpuTier.commit(self, seats[:1], p[:1])): "kept",
    LeaksOnForget: "free pages|add up",
    RemembersSharing: "which was forgotten",
    SharesWithoutCounting: "other owners",
    CopiesInsteadOfSharing: "instead of the owner's",
    variant(
        "TooFewPages", GpuTier, _blocks=lambda self, at: np.maximum(1, GpuTier._blocks(self, at) - 1)
    ): "with pages for|kept|counts",
    placing(
        "SilentAboutEntries", lambda p: replace(p, table=p.table[1:], fresh=p.fresh[1:])
    ): "entered block|counts|with pages for",
    DraftsPastTheRound: "can ever be used",
    placing("OldPagesFresh", lambda placed: replace(placed, fresh=placed.fresh[1:])): "are fresh",
}


@pytest.mark.parametrize("part", quick_last(list(BROKEN)), ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    if part in (LeaksOnForget, SharesWithoutCounting):
        with pytest.raises(AssertionError, match=BROKEN[part]):
            check_tiers(part())
        return
    caught(check_tiers, part(), BROKEN[part])
