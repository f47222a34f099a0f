"""A second set of books, kept from what a tier manager says, and held against what it does."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sparsespec.core.plan import Phase, Placed, Row, StepPlan
from sparsespec.core.view import View
from sparsespec.testing.checks.stage import require


class WatchedTiers:
    """Hands every verb on to `inner` and raises `ContractBroken` where a promise is broken."""

    def __init__(self, inner: Any, n_pages: int, page_size: int) -> None:
        self.inner, self.name = inner, type(inner).__name__
        self.n_pages, self.page_size = n_pages, page_size
        self.tables: dict[int, list[int]] = {}
        self.arrival: dict[int, int] = {}
        self.n_preempted = 0

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)

    def share(self, seat: int, owner: int, n_pages: int) -> tuple[tuple[int, int, int], ...]:
        """Share, and see that the entries are the owner's first pages."""
        free = self.inner.free_pages()
        entries = self.inner.share(seat, owner, n_pages)
        expected = tuple((seat, block, page) for block, page in enumerate(self.tables[owner][:n_pages]))
        require(entries == expected, f"{self.name}.share returned {entries} instead of the owner's {expected}")
        require(self.inner.free_pages() == free, f"{self.name}.share took pages from the free list")
        self.tables[seat] = [page for _, _, page in entries]
        self._agree()
        return entries

    def place(self, plan: StepPlan, view: View) -> Placed:
        """Place, and see that rows, entries and victims are what was promised."""
        self.arrival |= {int(seat): int(view.arrival[i]) for i, seat in enumerate(view.seat)}
        placed = self.inner.place(plan, view)
        ages = [self.arrival[row.seat] for row in placed.rows]
        require(ages == sorted(ages), f"{self.name} placed rows in the order {ages}, not oldest first")
        require(set(placed.rows) <= set(plan.rows), f"{self.name} placed rows that nobody planned")
        self._check_victims(plan, placed)
        for seat in placed.preempted:
            self.tables.pop(seat, None)
        self.n_preempted += len(placed.preempted)
        self._enter(placed)
        for row in placed.rows:
            self._check_room(row, view)
        self._agree()
        return placed

    def commit(self, seat: int, n_hi: int, d_hi: int) -> None:
        """Release the tail, and see that exactly the pages of what may be known are kept."""
        before = self.inner.pages(seat)
        self.inner.commit(seat, n_hi, d_hi)
        keep = -(-(n_hi - 1 + d_hi) // self.page_size)
        left = self.inner.pages(seat)
        right = left == min(before, keep)
        require(right, f"{self.name} kept {left} of {before} pages, {keep} hold n_hi - 1 + d_hi = {n_hi - 1 + d_hi}")
        if seat in self.tables:
            self.tables[seat] = self.tables[seat][:keep]
        self._agree()

    def forget(self, seat: int) -> None:
        """Forget, and see that nothing is left."""
        self.inner.forget(seat)
        left = self.inner.pages(seat), self.inner.shared_pages(seat)
        require(left == (0, 0), f"{self.name} left {left} pages to seat {seat}, which was forgotten")
        self.tables.pop(seat, None)
        self.arrival.pop(seat, None)
        self._agree()

    def _check_victims(self, plan: StepPlan, placed: Placed) -> None:
        oldest = min((row.seat for row in plan.rows), key=lambda seat: self.arrival[seat], default=None)
        running = {row.seat for row in placed.rows}
        for seat in placed.preempted:
            require(seat not in running, f"{self.name} placed seat {seat} and took its pages in the same step")
            older = any(self.arrival[other] < self.arrival[seat] for other in running)
            require(older, f"{self.name} preempted seat {seat} for nobody who is older")
        if oldest is not None and self.arrival[oldest] == min(self.arrival.values()):
            require(oldest in running, f"{self.name} did not place the oldest request, which always fits")

    def _enter(self, placed: Placed) -> None:
        """Write table entries down, and see that every new page was free and every block is new."""
        held = {page for table in self.tables.values() for page in table}
        for seat, block, page in placed.table:
            table = self.tables.setdefault(seat, [])
            require(block == len(table), f"{self.name} entered block {block} of seat {seat}, which has {len(table)}")
            require(0 < page < self.n_pages, f"{self.name} handed out page {page}, and has 1 … {self.n_pages - 1}")
            require(page not in held, f"{self.name} handed out page {page}, which somebody holds")
            held.add(page)
            table.append(page)
        fresh = sorted(page for _, _, page in placed.table)
        right = sorted(placed.fresh) == fresh or bool(placed.moves)
        require(right, f"{self.name} says that {placed.fresh} are fresh, and handed out {fresh}")

    def _check_room(self, row: Row, view: View) -> None:
        """See that every query token of a placed row has a page, in the worst case."""
        i = view.seat.tolist().index(row.seat)
        if row.phase is Phase.PREFILL:
            end = int(view.n_lo[i]) - 1 - int(view.to_prefill[i]) + row.n_query
        else:
            behind = row.n_query
            if row.phase is Phase.DRAFT:
                # the device stops a round at its length
                behind = min(int(view.d_hi[i]) + row.n_query, row.k)
            end = int(view.n_hi[i]) - 1 + behind
        room = len(self.tables.get(row.seat, ())) * self.page_size
        require(room >= end, f"{self.name} placed {row} with pages for {room} positions of {end}")

    def _agree(self) -> None:
        """Hold both books against one another."""
        self.inner.check()
        owners = Counter(page for table in self.tables.values() for page in table)
        free = self.n_pages - 1 - len(owners)
        says = self.inner.free_pages()
        require(says == free, f"{self.name} counts {says} free pages, its own words leave {free}")
        for seat, table in self.tables.items():
            says = self.inner.pages(seat)
            require(says == len(table), f"{self.name} counts {says} pages of seat {seat}, it handed out {len(table)}")
