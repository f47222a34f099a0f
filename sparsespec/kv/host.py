"""Tier manager `host`: out of pages, the KV of whole requests moves to the host's memory and comes back unchanged.

Source: the dynamic KV manager of SparseSpec (arXiv 2512.01278, section 6). Requests are admitted as if they stayed
short. When few pages are left, a victim stops running at once and its pages leave chunk by chunk while the others
decode; it comes back when there is room. Unlike the original, copies have a stream of their own, and the request that
left first returns first. Selections hold positions, so nothing but the page table changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.core.plan import Move, Placed, Rows, StepPlan
from sparsespec.core.view import Ints, View
from sparsespec.kv.paged import Entry
from sparsespec.kv.two_tiers import TwoTiers, backwards, chunk_of
from sparsespec.kv.victims import VICTIMS

_LATEST = np.iinfo(np.int64).max
"""The arrival of a request that was never in a view."""


class HostTier(TwoTiers):
    """Spills requests to the host's memory, and recomputes them only if that is full too.

    Args:
        victim: Which request gives way, among those younger than the one that needs pages: "newest", "shortest" or
            "longest_remaining".
        size: Host pages, as a multiple of the device's pages; memory is taken when needed.
        low: Share of pages free below which requests are spilled, in [0, 1).
        high: Share of pages free at which that ends, and which restoring leaves free; at least `low`.
        chunk: Pages that leave in one step at most, and that come back; None takes what 40 MiB hold, up to 128.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(
        self,
        victim: str = "shortest",
        size: float = 4.0,
        low: float = 0.005,
        high: float = 0.02,
        chunk: int | None = None,
    ) -> None:
        if victim not in VICTIMS:
            raise BadOption(f"victim is one of {', '.join(VICTIMS)}, got {show(victim)}")
        if not size > 0:
            raise BadOption(f"size is a multiple of the device's pages above 0, got {show(size)}")
        if not 0 <= low <= high < 1:
            raise BadOption(f"low and high are shares of the pages, 0 <= low <= high < 1, got {low} and {high}")
        if chunk is not None and chunk < 1:
            raise BadOption(f"chunk is a number of pages, 1 or more, got {show(chunk)}")
        self.victim, self.size, self.low, self.high, self.chunk = victim, size, low, high, chunk

    def bind(self, geometry: Geometry) -> None:
        """Take ownership of the pages, and of host pages whose memory is not taken yet."""
        usable = geometry.num_gpu_blocks - 1
        self._n_host_pages = max(1, int(self.size * usable))
        self._chunk = self.chunk or chunk_of(geometry)
        self._low, self._high = int(self.low * usable), int(self.high * usable)
        # what a row may need at once, besides a prefill
        self._round = -(-(1 + max(geometry.max_draft, geometry.max_guess)) // geometry.block_size)
        super().bind(geometry)

    def reset(self) -> None:
        """Forget all requests."""
        super().reset()
        self._out: dict[int, None] = {}  # seats that left or are leaving, in that order
        self._back: dict[int, None] = {}  # seats on their way back
        self._lost: set[int] = set()  # seats whose KV a failed copy has spoilt
        self._easing = False
        # by seat: tokens that the request may have (0 if vacant), and had at most when last seen
        self._limit, self._known = np.zeros((2, self._n_seats), dtype=np.int64)

    def admit(self, seat: int, n_prompt: int, limit: int) -> bool:
        """Admit while pages are left, though not all of the prompt may fit, and no request is out."""
        if self._tables and (self._out or self._book.n_free - self._claimed() <= self._high):
            return False
        self._n_prompt[seat], self._limit[seat], self._arrival[seat] = n_prompt, limit, _LATEST
        return True

    def place(self, plan: StepPlan, view: View) -> Placed:
        """Find pages, oldest first; a row that finds none starves, and so do younger ones that need some too."""
        rows, need = self._needs(plan, view)
        self._known[view.seat] = view.n_hi
        preempted = self._give_up()
        moves = self._ease(rows, need)
        placed = ~np.isin(rows.seat, (*self._out, *preempted))
        table: list[Entry] = []
        for j in ((need > 0) & placed).nonzero()[0].tolist():
            seat, n = int(rows.seat[j]), int(need[j])
            if seat in preempted:
                continue
            # copies that have begun will free pages; without any, a request must lose its KV
            if n > self._book.n_free and (self._n_leaving or not self._make_room(n, seat, preempted)):
                placed[(need > 0) & (np.arange(len(rows)) >= j)] = False
                preempted += self._yield(seat)
                break
            table += self._grow(seat, n)
        placed &= ~np.isin(rows.seat, preempted)
        fresh = tuple(page for _, _, page in table)
        return Placed(rows.take(placed), tuple(table), fresh, tuple(preempted), tuple(moves))

    def restore(self, view: View) -> Placed:
        """Fetch pages of the request that left first, while that leaves room for the high mark and a round of all.

        While others run, no fewer than the high mark, a chunk, or what is left, whichever is least.
        """
        running = self._n_running()
        if not self._out or (running and self._easing):
            return Placed()
        seat = next(iter(self._out))
        spare = max(self._high, self._round * (running + 1)) if running else 0
        room = min(self._book.n_free - spare, self._chunk)
        # a page that is still being copied out comes back later, so that a copy that fails is known before
        leaving = {move.host_page for move in self._moving.values() if move.out}
        outside = [block for block, page in enumerate(self._tables[seat]) if not page]
        blocks = [block for block in outside if self._host_table[seat, block] not in leaving]
        # a copy of few pages costs a step as much as one of many; where the marks are high there may never be many
        fewest = min(self._chunk, self._high, (self._n_pages - 1 - spare) // 2, len(blocks)) if running else 0
        table: list[Entry] = []
        moves = [self._fetch(seat, block, table) for block in blocks[:room]] if room >= max(fewest, 1) else []
        if all(self._tables[seat]):
            del self._out[seat]
            self._back[seat] = None
            self._arrive()
        elif not (moves or running or self._moving):
            return self._clear(seat)
        return Placed(table=tuple(table), moves=tuple(moves))

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Release the pages that copies held; the next `place` preempts requests that a failed copy has spoilt."""
        super().moved(moves, failed=failed)
        if failed:
            out = {move.host_page for move in moves if move.out}
            back = {move.page for move in moves if not move.out}
            self._lost.update(seat for (seat, _), host_page in self._host_table.items() if host_page in out)
            self._lost.update(seat for seat, table in self._tables.items() if not back.isdisjoint(table))
        self._arrive()

    def away(self) -> Sequence[int]:
        """Return seats that are out, on the way back, spoilt, or have no pages and are younger than one that is out."""
        oldest = self._arrival[list(self._out)].min(initial=_LATEST)
        waiting = (self._limit > 0) & (self._n_held == 0) & (self._arrival > oldest)
        # no request may run with what a copy has spoilt, nor share it
        return (*self._out, *self._back, *self._lost, *waiting.nonzero()[0].tolist())

    def forget(self, seat: int) -> None:
        """Release everything a seat holds, wherever it is; copies under way keep their pages until they have ended."""
        super().forget(seat)
        self._limit[seat] = 0
        self._lost.discard(seat)

    def _ease(self, rows: Rows, need: Ints) -> list[Move]:
        """Spill while pages are few, a chunk at most; spilled requests do not run."""
        moves: list[Move] = []
        # while no request runs none is spilled, or it would be restored and spilled for ever
        while self._n_running() and len(moves) < self._chunk:
            wanted = need[(need > 0) & ~np.isin(rows.seat, list(self._out))].sum()
            ahead = self._book.n_free + self._n_leaving - int(wanted)
            self._easing = ahead < (self._high if self._easing else self._low)
            if not self._easing:
                break
            seat = self._next_victim()
            if seat is None:
                break
            self._out.setdefault(seat)
            moves += self._spill(seat, self._out.keys(), min(self._chunk - len(moves), max(self._high - ahead, 1)))
        return moves

    def _n_running(self) -> int:
        """Return how many seats have pages and are not out."""
        return len(self._tables) - len(self._out)

    def _next_victim(self) -> int | None:
        """Return the seat whose pages leave next: of those that are out the last, else one younger than the oldest."""
        if not self._host_book.n_free:
            return None
        for seat in reversed(self._out):
            if self._can_leave(seat):
                return seat
        inside = [seat for seat in self._tables if seat not in self._out and seat not in self._back]
        oldest = min((self._arrival[seat] for seat in inside), default=0)
        younger = [seat for seat in inside if self._arrival[seat] > oldest and self._can_leave(seat)]
        if not younger:
            return None
        key = VICTIMS[self.victim]
        left = (self._limit - self._known).tolist()
        return max(younger, key=lambda seat: key(int(self._arrival[seat]), self.pages(seat), left[seat]))

    def _can_leave(self, seat: int) -> bool:
        """Say whether a page would leave if `seat` did: one that no seat on the device shares."""
        outside, table = self._out.keys() | {seat}, self._tables[seat]
        # the first page leaves last: most of those that are out have nothing left, and would be searched to the end
        return (
            bool(table)
            and table[0] > 0
            and any(
                self._is_movable(page) and outside >= self._sharers(seat, block) for block, page in backwards(table)
            )
        )

    def _arrive(self) -> None:
        """Let requests run whose pages are all there."""
        for seat in [seat for seat in self._back if self._moving.keys().isdisjoint(self._tables[seat])]:
            del self._back[seat]

    def _clear(self, seat: int) -> Placed:
        """Make room for `seat` where no request runs, from what others that are out still have on the device."""
        moves: list[Move] = []
        for other in self._out:
            if other != seat:
                moves += self._spill(other, self._out.keys() - {seat}, self._chunk - len(moves))
        if moves:
            return Placed(moves=tuple(moves))
        # the host is full as well
        youngest = max(self._out, key=lambda other: self._arrival[other])
        self._release_all(youngest)
        return Placed(preempted=(youngest,))

    def _yield(self, seat: int) -> list[int]:
        """Preempt `seat`, which finds no pages, if no page is on its way out and an older request is out."""
        if self._n_leaving or all(self._arrival[other] > self._arrival[seat] for other in self._out):
            return []
        self._release_all(seat)
        return [seat]

    def _give_up(self) -> list[int]:
        """Preempt requests that a failed copy has spoilt."""
        spoilt = [seat for seat in self._lost if seat in self._tables]
        self._lost.clear()
        for seat in spoilt:
            self._release_all(seat)
        return spoilt

    def _release_all(self, seat: int) -> None:
        super()._release_all(seat)
        self._out.pop(seat, None)
        self._back.pop(seat, None)
