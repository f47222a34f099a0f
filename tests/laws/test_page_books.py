"""The page books as a state machine: whatever happens in whatever order, every page has the owners it should have.

A dictionary says which seat holds how many blocks and which pages are shared; the tier manager must agree after every
step. Mutants of the book ship beside it, and the machine must catch each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sparsespec.core.plan import Phase, Row, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.kv.gpu import GpuTier
from sparsespec.kv.pages import PageBook
from sparsespec.testing.checks.stage import small_geometry
from sparsespec.testing.checks.watched_tiers import WatchedTiers
from tests.laws.held import counted, view_of_held
from tests.testing.caught import variant

PAGE, N_PAGES, SEATS = 4, 14, 4
LIMIT = PAGE * (N_PAGES - 1)


class Books(RuleBasedStateMachine):
    """Requests come, grow, share, shrink and go."""

    Tier: type[GpuTier] = GpuTier

    def __init__(self) -> None:
        super().__init__()
        inner = self.Tier()
        inner.bind(small_geometry(n_seats=SEATS, block_size=PAGE, num_gpu_blocks=N_PAGES))
        self.tiers: Any = WatchedTiers(inner, N_PAGES, PAGE)
        self.held: dict[int, int] = {}  # committed tokens per seat
        self.arrival: dict[int, int] = {}
        self.next = 0

    @precondition(lambda self: len(self.held) < SEATS)
    @rule(n=st.integers(1, LIMIT // 2))
    def come(self, n: int) -> None:
        seat = min(set(range(SEATS)) - self.held.keys())
        self.held[seat], self.arrival[seat] = n, self.next
        self.next += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        order = data.draw(st.permutations(sorted(self.held)))
        rows = [self._row(seat, data) for seat in order[data.draw(st.integers(0, len(order) - 1)) :]]
        placed = self.tiers.place(StepPlan(tuple(rows)), self._view())
        for seat in placed.preempted:
            assert self.tiers.pages(seat) == 0

    @precondition(lambda self: self.held)
    @rule(data=st.data(), drafted=st.integers(0, 4))
    def commit(self, data: st.DataObject, drafted: int) -> None:
        seats = data.draw(st.lists(st.sampled_from(sorted(self.held)), min_size=1, unique=True))
        for seat in seats:
            self.held[seat] = min(self.held[seat] + data.draw(st.integers(0, 12)), LIMIT - 8)
        self.tiers.commit(np.array(seats), np.array([self.held[seat] - 1 + drafted for seat in seats]))

    @precondition(lambda self: self._sharers())
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        owner, seat = data.draw(st.sampled_from(self._sharers()))
        n = data.draw(st.integers(1, self.tiers.pages(owner)))
        # a page both hold is one that neither writes, so the sharer is at least as long
        self.held[seat] = max(self.held[seat], n * PAGE + 1)
        self.tiers.share(seat, owner, n)

    @precondition(lambda self: len(self.held) == SEATS)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(sorted(self.held)))
        self.tiers.forget(seat)
        del self.held[seat], self.arrival[seat]

    @precondition(lambda self: self.next % 7 == 6)
    @rule()
    def reset(self) -> None:
        self.next += 1
        self.tiers.inner.reset()
        self.tiers.tables.clear()
        self.tiers.arrival.clear()
        self.held.clear()
        self.arrival.clear()

    @invariant()
    def books_balance(self) -> None:
        self.tiers.check()
        self.tiers._agree()
        if not self.held:
            assert self.tiers.free_pages() == N_PAGES - 1

    def _row(self, seat: int, data: st.DataObject) -> Row:
        n_query = data.draw(st.integers(1, 5))
        return Row(seat, Phase.VERIFY, n_query, n_query - 1)

    def _sharers(self) -> list[tuple[int, int]]:
        """Return (owner, seat) where `seat` holds nothing yet and both have been in a view."""
        known = self.tiers.arrival.keys() & self.held.keys()
        owners = [seat for seat in sorted(known) if self.tiers.pages(seat)]
        return [(o, s) for o in owners for s in sorted(known) if s != o and not self.tiers.pages(s)]

    def _view(self) -> View:
        seats = sorted(self.held, key=lambda seat: self.arrival[seat])
        return view_of_held(self, seats)


TestPageBooks = Books.TestCase
TestPageBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class LeakyBook(PageBook):
    """Forgets to put a page back when several leave together."""

    def release(self, pages: Sequence[int]) -> None:
        super().release(pages)
        if len(pages) > 2:
            self._free.pop()


class GenerousBook(PageBook):
    """Frees a shared page when the first owner leaves."""

    def release(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._owners[page] = 1
        super().release(pages)


class GreedyBook(PageBook):
    """Hands out page 0."""

    def __init__(self, n_pages: int) -> None:
        super().__init__(n_pages)
        self._free[0] = 0


def tier_with(book: type[PageBook]) -> type[GpuTier]:
    class Mutant(GpuTier):
        def reset(self) -> None:
            super().reset()
            self._book = book(self._n_pages)

    return Mutant


class PreemptsTheOldest(GpuTier):
    """Takes pages from the request that holds most."""

    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        victim = max((s for s in self._tables if s != seat), key=lambda s: len(self._tables[s]), default=None)
        if victim is None:
            return False
        self._release_all(victim)
        preempted.append(victim)
        return self._book.n_free >= need


class ForgetsTheTable(GpuTier):
    """Releases the tail and goes on naming it."""

    def commit(self, seats: Ints, positions: Ints) -> None:
        before = {seat: list(table) for seat, table in self._tables.items()}
        super().commit(seats, positions)
        self._tables |= before


MUTANTS = [
    *(tier_with(book) for book in (LeakyBook, GenerousBook, GreedyBook)),
    # does not count a second owner
    tier_with(variant("UncountedBook", PageBook, retain=lambda self, pages: None)),
    PreemptsTheOldest,
    ForgetsTheTable,
    # releases the tail of one seat, whatever else was asked for
    variant("CommitsTheFirst", GpuTier, commit=lambda self, seats, p: GpuTier.commit(self, seats[:1], p[:1])),
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: type[GpuTier]) -> None:
    class Broken(Books):
        Tier = mutant

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Broken, settings=counted(200, 30))


@pytest.mark.slow
def test_the_machine_reaches_what_matters() -> None:
    class Counting(Books):
        seen: ClassVar[Counter[str]] = Counter()

        def teardown(self) -> None:
            self.seen["preempted"] += self.tiers.n_preempted

        @invariant()
        def count(self) -> None:
            owners = Counter(page for table in self.tiers.tables.values() for page in table)
            self.seen["shared"] += max(owners.values(), default=0) > 1
            self.seen["full"] += self.tiers.free_pages() == 0

    run_state_machine_as_test(Counting, settings=counted(60, 30))
    assert min(Counting.seen[what] for what in ("preempted", "shared", "full")) >= 10, Counting.seen
