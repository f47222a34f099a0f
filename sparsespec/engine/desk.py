"""Line 1 of the round: waiting requests take seats, rounds begin, and the view is drawn up.

Decides who *may* run; who does is the scheduler's business. Everything here is host state and integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Lengths
from sparsespec.core.protocols import Length, Tiers
from sparsespec.core.view import Bools, Ints, RowView, View
from sparsespec.engine.loops import Loop
from sparsespec.engine.request import Request
from sparsespec.engine.roster import Bounds, Roster
from sparsespec.metrics.seats import SeatCounts


class Desk:
    """Seats and rounds.

    Args:
        geometry: The engine's sizes.
        roster: What is known of each seat.
        counts: What speculation did for each.
        tiers: Who has pages.
        length: How far rounds draft.
        loop: How late the host hears.
        seat: Called with a request that just took its seat.
        share: Called with (seat, entries, positions) when a seat took over filled pages.
        fail: Called with a request and what a policy raised on its account.
    """

    def __init__(
        self,
        geometry: Geometry,
        roster: Roster,
        counts: SeatCounts,
        tiers: Tiers,
        length: Length,
        loop: Loop,
        *,
        seat: Callable[[Request], None],
        share: Callable[[int, tuple[tuple[int, int, int], ...], int], None],
        fail: Callable[[Request, Exception], None],
    ) -> None:
        self._geometry, self._tiers, self._length, self._loop = geometry, tiers, length, loop
        self._seat, self._share, self._fail = seat, share, fail
        self.waiting: list[Request] = []
        self.seated: dict[int, Request] = {}
        self._roster, self._counts = roster, counts

    def view(self, step: int) -> View:
        """Admit, start rounds, and return the rows that may run, oldest first."""
        self._admit(step)
        roster = self._roster
        self._wake()
        bounds = roster.bounds()
        view = self._draw(self._may_run(bounds), bounds, step)
        starting = (view.to_prefill == 0) & ~roster.in_round[view.seat]
        if starting.any():
            self._start_rounds(view, starting)
            view = replace(view, k=roster.k[view.seat], guess=roster.guess[view.seat])
        gone = roster.number[view.seat] != view.arrival  # it could not be asked for its lengths
        return self._draw(view.seat[~gone], bounds, step) if gone.any() else view

    def leave(self, request: Request) -> None:
        """Take a request off its seat, or out of the queue."""
        if request.seat >= 0:
            self._tiers.forget(request.seat)
            self._roster.leave(request.seat)
            del self.seated[request.seat]
        else:
            self.waiting.remove(request)

    def _admit(self, step: int) -> None:
        if not self.waiting:
            return
        free = [s for s in range(self._geometry.n_seats) if s not in self.seated]
        while self.waiting and free:
            request = self.waiting[0]
            if not self._tiers.admit(free[0], len(request.prompt), request.limit):
                return
            request.seat, request.seated_at = free.pop(0), perf_counter()
            self._roster.enter(request, step)
            self.seated[request.seat] = self.waiting.pop(0)
            self._seat(request)

    def _wake(self) -> None:
        """Let preempted requests be filled again, as soon as all of their results were heard."""
        roster = self._roster
        for seat in (roster.preempted & (roster.number >= 0)).nonzero()[0].tolist():
            if not roster.is_unheard(seat):
                # nothing is in flight, so the heard counts are exact: fill to c - 1, then VERIFY what was drafted
                roster.preempted[seat] = False
                if not roster.to_prefill[seat]:
                    roster.reached[seat] = roster.n[seat] - 1
                roster.to_prefill[seat] = roster.n[seat] - 1
                roster.must_verify[seat] = roster.d[seat] > 0

    def _may_run(self, bounds: Bounds) -> Ints:
        """Return the seats that may run, oldest first."""
        roster, seats = self._roster, self._roster.seats()
        may = bounds.n_hi < roster.limit
        if self._loop.sit_out:
            may &= bounds.n_lo == bounds.n_hi
        filling = roster.to_prefill > 0
        away = list(self._tiers.away())
        may = (may | filling) & ~roster.preempted
        may[away] = False
        for seat in seats[(filling & may)[seats]].tolist():
            may[seat] = self._prompt_is_ours(self.seated[seat], away)
        return seats[may[seats]]

    def _prompt_is_ours(self, request: Request, away: Sequence[int]) -> bool:
        """Take over whole prompt pages that another sample has filled; False while an older one is filling them."""
        roster, seat = self._roster, request.seat
        # no round ever writes into these pages: the first of them begins behind them, at c - 1
        pages = (len(request.prompt) - 2) // self._geometry.page_size
        untouched = roster.to_prefill[seat] == roster.n[seat] - 1 and not self._tiers.pages(seat)
        if request.params.n == 1 or pages < 1 or not untouched:
            return True
        positions = pages * self._geometry.page_size
        family = [
            other
            for other in self.seated.values()
            if other.group == request.group
            and other is not request
            and not roster.preempted[other.seat]
            and other.seat not in away
        ]
        for other in family:
            filled = roster.n[other.seat] - 1 - roster.to_prefill[other.seat]
            if filled >= positions and self._tiers.pages(other.seat) >= pages:
                entries = self._tiers.share(seat, other.seat, pages)
                roster.to_prefill[seat] -= positions
                self._share(seat, entries, positions)
                return True
        return not any(other.number < request.number and roster.to_prefill[other.seat] for other in family)

    def _start_rounds(self, view: View, starting: Bools) -> None:
        """Ask the length policy once for each of the `starting` rows, and fix what their rounds may do."""
        roster, g, seat = self._roster, self._geometry, view.seat[starting]
        columns = tuple(zip(*map(self._ask, view.rows(starting)), strict=True))
        draft, guess = (np.array(column, dtype=np.int64) for column in columns[:2])
        wrong = (draft < 0) | (draft > g.max_draft) | (guess < 0) | (guess > g.max_guess)
        if wrong.any():
            proposed = Lengths(*(column[wrong.argmax()] for column in columns))
            promised = f"at most draft={g.max_draft}, guess={g.max_guess}"
            raise ContractBroken(f"the length policy proposed {proposed} and promised {promised}")
        room = roster.limit[seat] - view.n_hi[starting] - 1
        roster.k[seat], roster.guess[seat] = np.minimum(draft, room), np.minimum(guess, room)
        roster.stop_below[seat], roster.in_round[seat] = columns[2], True

    def _ask(self, row: RowView) -> Lengths:
        """Return what a row's next round may do; the request fails if the policy does, and the others go on."""
        request = self.seated[row.seat]
        if request.params.speculate:
            try:
                return self._length.propose(row)
            except Exception as error:
                self._fail(request, error)
        return Lengths(0, 0)

    def _draw(self, seats: Ints, bounds: Bounds, step: int) -> View:
        """Draw up the view of `seats`."""
        roster, tiers, on = self._roster, self._tiers, seats.tolist()
        return View(
            seat=seats,
            arrival=roster.number[seats],
            to_prefill=roster.to_prefill[seats],
            n_lo=bounds.n_lo[seats],
            n_hi=bounds.n_hi[seats],
            d_lo=bounds.d_lo[seats],
            d_hi=bounds.d_hi[seats],
            k=roster.k[seats],
            guess=roster.guess[seats],
            first_round=roster.first_round[seats],
            starved=roster.starved[seats],
            must_verify=roster.must_verify[seats],
            pages=np.array(list(map(tiers.pages, on)), dtype=np.int64),
            shared_pages=np.array(list(map(tiers.shared_pages, on)), dtype=np.int64),
            accepted_mean=self._counts.accepted_mean(seats),
            confidence=roster.confidence[seats],
            waiting_since=roster.placed_at[seats],
            running=np.full(len(on), len(self.seated)),
            step=step,
            free_pages=tiers.free_pages(),
            host_free_pages=tiers.host_free_pages(),
            page_size=self._geometry.page_size,
            max_batch=self._geometry.n_seats,
            lag=self._loop.lag,
        )
