"""What tier managers do alike: page tables by seat, sharing, growing, shrinking, and preempting the youngest.

Rows are placed oldest first, and pages are only taken from requests that are strictly younger than the one that needs
them, so the oldest request always finishes. Nothing here looks at tokens, so no choice can depend on what was drafted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import DRAFT, PREFILL, Move, Placed, Rows, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.kv.pages import PageBook

Count = TypeVar("Count", int, Ints)
Entry = tuple[int, int, int]
"""Seat, block and page: an entry of a page table on the device."""


class Paged:
    """Pages of one pool, by seat; subclasses decide which requests are admitted and how pages are taken from others."""

    def bind(self, geometry: Geometry) -> None:
        """Take ownership of the pages."""
        self._block_size = geometry.block_size
        self._n_pages, self._n_seats = geometry.num_gpu_blocks, geometry.n_seats
        self.reset()

    def reset(self) -> None:
        """Forget all requests."""
        self._book = PageBook(self._n_pages)
        self._tables: dict[int, list[int]] = {}  # the page of each block, by seat; 0 for one that is not on the device
        # by seat: pages, how many of them were shared, tokens of the prompt (0 if vacant), and number of the request
        self._n_held, self._n_shared, self._n_prompt, self._arrival = np.zeros((4, self._n_seats), dtype=np.int64)

    def admit(self, seat: int, n_prompt: int, limit: int) -> bool:
        """Admit a request whose prompt fits into the pages that are free and not claimed; any if none is held."""
        if self._tables and self._book.n_free - self._claimed() < self._blocks(n_prompt):
            return False
        self._n_prompt[seat] = n_prompt
        return True

    def share(self, seat: int, owner: int, n_pages: int) -> tuple[Entry, ...]:
        """Let `seat`, which has no pages, hold the first `n_pages` of `owner` too; returns its table entries."""
        assert not self.pages(seat), f"seat {seat} already holds pages"
        pages = self._tables[owner][:n_pages]
        self._book.retain(pages)
        self._tables[seat] = pages
        self._n_held[seat], self._n_shared[seat] = len(pages), n_pages
        return tuple((seat, block, page) for block, page in enumerate(pages))

    def place(self, plan: StepPlan, view: View) -> Placed:
        """Find pages for every query token, oldest first; rows that find none starve and are left out."""
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
        """Return no seat: all pages are on the device."""
        return ()

    def commit(self, seats: Ints, positions: Ints) -> None:
        """Release what each of `seats` [n] holds behind its first `positions` [n]."""
        keep = self._blocks(positions)
        for i in (keep < self._n_held[seats]).nonzero()[0].tolist():
            self._release(int(seats[i]), int(keep[i]))

    def forget(self, seat: int) -> None:
        """Release everything a seat holds."""
        self._release_all(seat)
        self._n_prompt[seat] = 0

    def pages(self, seat: int) -> int:
        """Return how many pages a seat holds."""
        return int(self._n_held[seat])

    def shared_pages(self, seat: int) -> int:
        """Return how many of them it took over from another sample of its prompt."""
        return int(self._n_shared[seat])

    def free_pages(self) -> int:
        """Return how many pages are free."""
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
        self._book.check(self._device_pages())
        held = {seat: n for seat, n in enumerate(self._n_held.tolist()) if n}
        if held != {seat: len(table) for seat, table in self._tables.items() if table}:
            raise ContractBroken(f"pages are counted as {held} by seat, and the page tables are {self._tables}")

    def _device_pages(self) -> list[list[int]]:
        """Return the pages of the device that each owner holds."""
        return list(self._tables.values())

    def _blocks(self, positions: Count) -> Count:
        return -(-positions // self._block_size)

    def _ends(self, rows: Rows, index: Ints, view: View) -> Ints:
        """Return, for each row, the position behind the last one that it may write."""
        n_query, newest = rows.n_query, view.n_hi[index] - 1
        filled = view.n_lo[index] - 1 - view.to_prefill[index] + n_query
        # the device stops a round at its length, whatever the bounds would allow
        drafted = newest + np.minimum(view.d_hi[index] + n_query, rows.k)
        decoded = np.where(rows.phase == DRAFT, drafted, newest + n_query)
        return np.where(rows.phase == PREFILL, filled, decoded)

    def _claimed(self) -> int:
        """Return the pages that prompts of admitted requests will take and have not taken yet."""
        return int(np.maximum(self._blocks(self._n_prompt) - self._n_held, 0).sum())

    def _needs(self, plan: StepPlan, view: View) -> tuple[Rows, Ints]:
        """Return the rows of a plan, oldest first, and how many pages each lacks."""
        self._arrival[view.seat] = view.arrival
        index = view.find(plan.rows.seat)
        order = index.argsort()  # the view is oldest first
        rows, index = plan.rows.take(order), index[order]
        return rows, self._blocks(self._ends(rows, index, view)) - self._n_held[rows.seat]

    def _grow(self, seat: int, n: int) -> list[Entry]:
        """Give a seat `n` free pages more; return their table entries."""
        pages, held = self._book.take(n), self._tables.setdefault(seat, [])
        first = len(held)
        held += pages
        self._n_held[seat] = len(held)
        return [(seat, first + i, page) for i, page in enumerate(pages)]

    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        """Preempt requests younger than `seat`, youngest first, until `need` pages are free; or none if that fails."""
        mine = self._arrival[seat]
        younger = sorted(
            (s for s, table in self._tables.items() if self._arrival[s] > mine and any(table)),
            key=lambda s: -self._arrival[s],
        )
        held = Counter(page for s in younger for page in self._tables[s] if page)
        gain = sum(n == self._book.owners(page) for page, n in held.items())
        if self._book.n_free + gain < need:
            return False
        for victim in younger:
            if self._book.n_free >= need:
                break
            self._release_all(victim)
            preempted.append(victim)
        return True

    def _release(self, seat: int, keep: int) -> None:
        """Release what a seat holds behind its first `keep` blocks."""
        table = self._tables.get(seat, [])
        self._book.release([page for page in table[keep:] if page])
        del table[keep:]
        self._n_held[seat] = len(table)

    def _release_all(self, seat: int) -> None:
        """Take all pages from a seat."""
        self._release(seat, 0)
        self._tables.pop(seat, None)
        self._n_shared[seat] = 0
