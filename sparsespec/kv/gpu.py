"""Tier manager `gpu`: all KV lives on the device; out of pages, the youngest are preempted and recomputed.

Rows are placed oldest first and victims are strictly younger than who needs their pages, so the oldest request always
finishes. Nothing here looks at tokens, so preemption cannot depend on what was drafted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan
from sparsespec.core.view import View
from sparsespec.kv.pages import PageBook


class GpuTier:
    """All KV in one pool; whoever must give way is preempted and recomputed."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def bind(self, geometry: Geometry) -> None:
        """Take ownership of the pages."""
        self._page_size = geometry.page_size
        self._n_pages = geometry.n_pages
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._book = PageBook(self._n_pages)
        self._tables: dict[int, list[int]] = {}
        self._shared: dict[int, int] = {}
        self._arrival: dict[int, int] = {}

    def admit(self, n_prompt: int, limit: int) -> bool:
        """Admit whoever's prompt fits into the free pages now, and anybody while no page is held."""
        return not self._tables or self._book.n_free >= self._blocks(n_prompt)

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
        seats = view.seat.tolist()
        index = {seat: i for i, seat in enumerate(seats)}
        self._arrival.update(zip(seats, view.arrival.tolist(), strict=True))
        rows: list[Row] = []
        table: list[tuple[int, int, int]] = []
        preempted: list[int] = []
        ordered = sorted(plan.rows, key=lambda row: index[row.seat])  # the view is oldest first
        for row, end in zip(ordered, self._ends(ordered, index, view), strict=True):
            seat = row.seat
            if seat in preempted:
                continue
            held = self._tables.get(seat, [])
            need = self._blocks(end) - len(held)
            if need > 0:
                if need > self._book.n_free and not self._make_room(need, seat, preempted):
                    continue
                pages = self._book.take(need)
                table += [(seat, len(held) + j, page) for j, page in enumerate(pages)]
                self._tables[seat] = held + pages
            rows.append(row)
        fresh = tuple(page for _, _, page in table)
        return Placed(tuple(rows), tuple(table), fresh, tuple(preempted))

    def restore(self, view: View) -> tuple[Move, ...]:
        """Return nothing: preempted requests are filled again, not copied back."""
        return ()

    def commit(self, seat: int, n_hi: int, d_hi: int) -> None:
        """Release the pages behind `n_hi - 1 + d_hi` positions."""
        held = self._tables.get(seat, [])
        keep = self._blocks(n_hi - 1 + d_hi)
        if keep < len(held):
            self._book.release(held[keep:])
            self._tables[seat] = held[:keep]

    def forget(self, seat: int) -> None:
        """Release everything a seat holds."""
        self._book.release(self._tables.pop(seat, []))
        self._shared.pop(seat, None)
        self._arrival.pop(seat, None)

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

    def check(self) -> None:
        """Raise `ContractBroken` unless the books balance."""
        self._book.check(self._tables.values())

    def _blocks(self, positions: int) -> int:
        return -(-positions // self._page_size)

    def _ends(self, rows: Sequence[Row], index: Mapping[int, int], view: View) -> list[int]:
        """Return, for each row, the position behind the last one that it may write."""
        filled, newest, d_hi = (x.tolist() for x in (view.n_lo - 1 - view.to_prefill, view.n_hi - 1, view.d_hi))
        prefill, draft, _ = Phase
        ends: list[int] = []
        for seat, phase, n_query, k in rows:
            i = index[seat]
            if phase is prefill:
                ends.append(filled[i] + n_query)
            elif phase is draft:
                # the device stops a round at its length, whatever the bounds would allow
                ends.append(newest[i] + min(d_hi[i] + n_query, k))
            else:
                ends.append(newest[i] + n_query)
        return ends

    def _make_room(self, need: int, seat: int, preempted: list[int]) -> bool:
        """Preempt requests younger than `seat`, youngest first, until `need` pages are free; or nobody."""
        mine = self._arrival[seat]
        younger = sorted(
            (s for s in self._tables if self._arrival[s] > mine and self._tables[s]),
            key=lambda s: -self._arrival[s],
        )
        held = [page for s in younger for page in self._tables[s]]
        gain = sum(held.count(page) == self._book.owners(page) for page in set(held))
        if self._book.n_free + gain < need:
            return False
        for victim in younger:
            if self._book.n_free >= need:
                break
            self._book.release(self._tables.pop(victim))
            self._shared.pop(victim, None)
            preempted.append(victim)
        return True
