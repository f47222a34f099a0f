"""A second set of books, kept from what a tier manager says, and held against what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.testing.checks.stage import require


class OnHost(NamedTuple):
    """A page table's entry for a block that is in a host page."""

    host_page: int


class WatchedTiers:
    """Hands every verb on to `inner` and raises `ContractBroken` where a promise is broken."""

    def __init__(self, inner: Any, n_pages: int, block_size: int) -> None:
        self.inner, self.name = inner, type(inner).__name__
        self.n_pages, self.block_size = n_pages, block_size
        self.tables: dict[int, list[int | OnHost]] = {}
        self.arrival: dict[int, int] = {}
        self.moving: set[int] = set()
        self.spoilt: set[int] = set()
        self.n_preempted = self.n_moved = 0

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
        require(set(placed.rows) <= set(plan.rows), f"{self.name} placed rows that were not planned")
        self._check_victims(plan, placed)
        self._preempt(placed)
        self._move(placed)
        self._enter(placed)
        for row in placed.rows:
            self._check_room(row, view)
            require(self._is_here(row.seat), f"{self.name} placed seat {row.seat}, whose pages are not all there")
        self._agree()
        return placed

    def restore(self, view: View) -> Placed:
        """Restore, and see that every entry names the page that a host page is copied to."""
        restored = self.inner.restore(view)
        require(not restored.rows and not restored.fresh, f"{self.name}.restore placed rows or handed out fresh pages")
        self._preempt(restored)
        self._move(restored)
        says = {(seat, block): page for seat, block, page in restored.table}
        holds = {(seat, block): self.tables[seat][block] for seat, block in says}
        require(says == holds, f"{self.name}.restore entered {says} and copied to {holds}")
        self._agree()
        return restored

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Let copies end; their pages are held by the tables alone from now."""
        self.inner.moved(moves, failed=failed)
        for move in moves:
            self.moving.remove(move.page)
            if failed:
                self.spoilt.update(self._holders(OnHost(move.host_page) if move.out else move.page))
        self._agree()

    def commit(self, seats: Ints, positions: Ints) -> None:
        """Release the tails, and see that exactly the pages of the positions that may be written are kept."""
        before = [self.inner.pages(seat) for seat in seats.tolist()]
        self.inner.commit(seats, positions)
        for seat, held, n in zip(seats.tolist(), before, positions.tolist(), strict=True):
            keep, left = -(-n // self.block_size), self.inner.pages(seat)
            right = left == min(held, keep)
            require(right, f"{self.name} kept {left} of {held} pages of seat {seat}, {keep} hold {n} positions")
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
        self.spoilt.discard(seat)
        self._agree()

    def _preempt(self, placed: Placed) -> None:
        for seat in placed.preempted:
            self.tables.pop(seat, None)
            self.spoilt.discard(seat)
        self.n_preempted += len(placed.preempted)

    def _move(self, placed: Placed) -> None:
        """Write down that copies began."""
        for move in placed.moves:
            here, there = move.page, OnHost(move.host_page)
            source, target = (here, there) if move.out else (there, here)
            holders = self._holders(source)
            require(bool(holders), f"{self.name} copies {move}, which no seat holds")
            require(not self._holders(target), f"{self.name} copies {move} over what a seat holds")
            require(move.page not in self.moving, f"{self.name} copies {move} while that page is copied already")
            for seat in holders:
                self.tables[seat] = [target if entry == source else entry for entry in self.tables[seat]]
            self.moving.add(move.page)
            self.n_moved += 1

    def _holders(self, entry: int | OnHost) -> list[int]:
        return [seat for seat, table in self.tables.items() if entry in table]

    def _is_here(self, seat: int) -> bool:
        table = self.tables.get(seat, ())
        return not any(isinstance(entry, OnHost) for entry in table) and self.moving.isdisjoint(table)

    def _held(self) -> set[int]:
        """Return the pages of the device that are held, by seats and by copies."""
        return {page for table in self.tables.values() for page in table if not isinstance(page, OnHost)} | self.moving

    def _check_victims(self, plan: StepPlan, placed: Placed) -> None:
        oldest = min((row.seat for row in plan.rows), key=lambda seat: self.arrival[seat], default=None)
        running = {row.seat for row in placed.rows}
        for seat in placed.preempted:
            require(seat not in running, f"{self.name} placed seat {seat} and took its pages in the same step")
            older = any(self.arrival[other] < self.arrival[seat] for other in (*running, *self.inner.away()))
            require(older or seat in self.spoilt, f"{self.name} preempted seat {seat} for no older request")
        copying = self.moving or placed.moves or self.spoilt
        if oldest is not None and not copying and self.arrival[oldest] == min(self.arrival.values()):
            require(oldest in running, f"{self.name} did not place the oldest request, which always fits")

    def _enter(self, placed: Placed) -> None:
        """Write table entries down, and see that every new page was free and every block is new."""
        held = self._held()
        for seat, block, page in placed.table:
            table = self.tables.setdefault(seat, [])
            require(block == len(table), f"{self.name} entered block {block} of seat {seat}, which has {len(table)}")
            require(0 < page < self.n_pages, f"{self.name} handed out page {page}, and has 1 … {self.n_pages - 1}")
            require(page not in held, f"{self.name} handed out page {page}, which is held")
            held.add(page)
            table.append(page)
        fresh = sorted(page for _, _, page in placed.table)
        right = sorted(placed.fresh) == fresh
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
        room = len(self.tables.get(row.seat, ())) * self.block_size
        require(room >= end, f"{self.name} placed {row} with pages for {room} positions of {end}")

    def _agree(self) -> None:
        """Hold both books against one another."""
        self.inner.check()
        free = self.n_pages - 1 - len(self._held())
        says = self.inner.free_pages()
        require(says == free, f"{self.name} counts {says} free pages, its own words leave {free}")
        for seat, table in self.tables.items():
            says = self.inner.pages(seat)
            require(says == len(table), f"{self.name} counts {says} pages of seat {seat}, it handed out {len(table)}")
            here = self._is_here(seat) or seat in self.inner.away()
            require(here, f"{self.name} lets seat {seat} run, whose pages are not all there")
