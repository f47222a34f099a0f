"""What tier managers do alike: tables of pages by seat, sharing, growing, shrinking, and preempting the youngest.

Rows are placed oldest first and victims are strictly younger than who needs their pages, so the oldest request always
finishes. Nothing here looks at tokens, so no choice can depend on what was drafted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Move, Phase, Placed, Rows, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.kv.pages import PageBook

Count = TypeVar("Count", int, Ints)
Entry = tuple[int, int, int]
"""Seat, block and page: a line of a page table on the device."""


class Paged:
    """Pages of one pool, by seat; who is admitted and what becomes of victims is for those who inherit it."""

    def bind(self, geometry: Geometry) -> None:
        """Take ownership of the pages."""
        self._page_size = geometry.page_size
        self._n_pages, self._n_seats = geometry.n_pages, geometry.n_seats
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._book = PageBook(self._n_pages)
        self._tables: dict[int, list[int]] = {}
        self._shared: dict[int, int] = {}
        self._prompts: dict[int, int] = {}  # tokens, of everybody on a seat
        self._arrival = np.zeros(self._n_seats, dtype=np.int64)

    def admit(self, seat: int, n_prompt: int, limit: int) -> bool:
        """Admit whoever's prompt fits into the pages that are free and not claimed, and anybody while none is held."""
        if self._tables and self._book.n_free - self._claimed() < self._blocks(n_prompt):
            return False
        self._prompts[seat] = n_prompt
        return True

    def share(self, seat: int, owner: int, n_pages: int) -> tuple[tuple[int, int, int], ...]:
        """Let `seat`, which has no pages, hold the first `n_pages` of `owner` too; returns its table entries."""
        assert not self.pages(seat), f"seat {seat} already holds pages"
        pages = self._tables[owner][:n_pages]
        self._book.retain(pages)
        self._tables[seat] = list(pages)
        self._shared[seat] = n_pages
        return tuple((seat, block, page) for block, page in enumerate(pages))

    def place(self, plan: StepPlan, view: View) -> Placed:
        """Find pages for every query token, oldest first; who finds none starves and is not among the rows."""
        rows, need = self._needs(plan, view)
        table: list[Entry] = []
        preempted: list[int] = []
        placed = np.ones(len(rows), dtype=np.bool_)
        for j in (need > 0).nonzero()[0].tolist():
            seat, n = int(rows.seat[j]), int(need[j])
            if seat in preempted:
                continue
            if n > self._book.n_free and not self._make_room(n, seat, preempted):
                placed[j] = False
                continue
            table += self._grow(seat, n)
        if preempted:
            placed &= ~np.isin(rows.seat, preempted)
        fresh = tuple(page for _, _, page in table)
        rows = rows if placed.all() else rows.take(placed)
        return Placed(rows, tuple(table), fresh, tuple(preempted))

    def restore(self, view: View) -> Placed:
        """Return nothing: preempted requests are filled again, not copied back."""
        return Placed()

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Learn nothing: no page is copied."""

    def away(self) -> Sequence[int]:
        """Return nobody: whoever has pages has them on the device."""
        return ()

    def commit(self, seat: int, n_hi: int, d_hi: int) -> None:
        """Release the pages behind `n_hi - 1 + d_hi` positions."""
        held = self._tables.get(seat, [])
        keep = self._blocks(n_hi - 1 + d_hi)
        if keep < len(held):
            self._release(held[keep:])
            del held[keep:]

    def forget(self, seat: int) -> None:
        """Release everything a seat holds."""
        self._release(self._tables.pop(seat, []))
        self._shared.pop(seat, None)
        self._prompts.pop(seat, None)

    def pages(self, seat: int) -> int:
        """Return how many pages a seat holds."""
        return len(self._tables.get(seat, ()))

    def shared_pages(self, seat: int) -> int:
        """Return how many of them it took over from another sample of its prompt."""
        return self._shared.get(seat, 0)

    def free_pages(self) -> int:
        """Return how many pages nobody holds."""
        return self._book.n_free

    def host_free_pages(self) -> int:
        """Return 0: there is no host tier."""
        return 0

    def host_pages(self) -> int:
        """Return 0: there is no host tier."""
        return 0

    def moving_pages(self) -> int:
        """Return 0: no page is copied."""
        return 0

    def check(self) -> None:
        """Raise `ContractBroken` unless the books balance."""
        self._book.check(self._tables.values())

    def _blocks(self, positions: Count) -> Count:
        return -(-positions // self._page_size)

    def _ends(self, rows: Rows, index: Ints, view: View) -> Ints:
        """Return, for each row, the position behind the last one that it may write."""
        prefill, draft, _ = Phase
        n_query, newest = rows.n_query, view.n_hi[index] - 1
        filled = view.n_lo[index] - 1 - view.to_prefill[index] + n_query
        # the device stops a round at its length, whatever the bounds would allow
        drafted = newest + np.minimum(view.d_hi[index] + n_query, rows.k)
        decoded = np.where(rows.phase == draft, drafted, newest + n_query)
        return np.where(rows.phase == prefill, filled, decoded)

    def _claimed(self) -> int:
        """Return the pages that prompts of those admitted before will take, and have not."""
        return sum(max(0, self._blocks(n) - self.pages(seat)) for seat, n in self._prompts.items())

    def _needs(self, plan: StepPlan, view: View) -> tuple[Rows, Ints]:
        """Return the rows of a plan, oldest first, and how many pages each lacks."""
        self._arrival[view.seat] = view.arrival
        index = view.find(plan.rows.seat)
        order = index.argsort()  # the view is oldest first
        rows, index = plan.rows.take(order), index[order]
        held = np.array(list(map(self.pages, rows.seat.tolist())), dtype=np.int64)
        return rows, self._blocks(self._ends(rows, index, view)) - held

    def _grow(self, seat: int, n: int) -> list[Entry]:
        """Give a seat `n` free pages more; return their table entries."""
        pages, held = self._book.take(n), self._tables.setdefault(seat, [])
        held += pages
        first = len(held) - n
        return [(seat, first + i, page) for i, page in enumerate(pages)]

    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        """Preempt requests younger than `seat`, youngest first, until `need` pages are free; or nobody."""
        mine = self._arrival[seat]
        younger = sorted(
            (s for s in self._tables if self._arrival[s] > mine and any(page > 0 for page in self._tables[s])),
            key=lambda s: -self._arrival[s],
        )
        held = Counter(page for s in younger for page in self._tables[s])
        gain = sum(n == self._book.owners(page) for page, n in held.items() if page > 0)
        if self._book.n_free + gain < need:
            return False
        for victim in younger:
            if self._book.n_free >= need:
                break
            self._preempt(victim)
            preempted.append(victim)
        return True

    def _preempt(self, seat: int) -> None:
        """Take all pages from a seat."""
        self._release(self._tables.pop(seat))
        self._shared.pop(seat, None)

    def _release(self, pages: list[int]) -> None:
        """Give up a seat's share in some of its pages."""
        self._book.release(pages)
