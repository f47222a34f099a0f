"""Line 1 of the round: waiting requests take seats, rounds begin, and the view is drawn up.

Decides who *may* run; who does is the scheduler's business. Everything here is host state and integers.
"""

from __future__ import annotations

from collections.abc import Callable

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.protocols import Length, Tiers
from sparsespec.core.view import RowView, View, build_view
from sparsespec.engine.loops import Loop
from sparsespec.engine.request import Bounds, Request, Round


class Desk:
    """Seats and rounds.

    Args:
        geometry: The engine's sizes.
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

    def view(self, step: int) -> View:
        """Admit, start rounds, and return the rows that may run, oldest first."""
        self._admit(step)
        rows: list[RowView] = []
        # seats were taken in order of arrival, and a dictionary keeps it
        for request in tuple(self.seated.values()):
            bounds = request.bounds
            if not self._may_run(request, bounds):
                continue
            row = self._row(request, bounds)
            if not request.to_prefill and request.round is None:
                request.round = round_ = self._start_round(request, row)
                if round_.k or round_.guess:
                    row = row._replace(k=round_.k, guess=round_.guess)
            if not request.finished:
                rows.append(row)
        return build_view(
            rows,
            step=step,
            free_pages=self._tiers.free_pages(),
            host_free_pages=self._tiers.host_free_pages(),
            page_size=self._geometry.page_size,
            max_batch=self._geometry.n_seats,
            lag=self._loop.lag,
        )

    def leave(self, request: Request) -> None:
        """Take a request off its seat, or out of the queue."""
        if request.seat >= 0:
            self._tiers.forget(request.seat)
            del self.seated[request.seat]
        else:
            self.waiting.remove(request)

    def _admit(self, step: int) -> None:
        free = [s for s in range(self._geometry.n_seats) if s not in self.seated]
        while self.waiting and free:
            request = self.waiting[0]
            if not self._tiers.admit(len(request.prompt), request.limit):
                return
            request.seat, request.placed_at = free.pop(0), step
            request.n = len(request.prompt)
            request.to_prefill = request.n - 1
            self.seated[request.seat] = self.waiting.pop(0)
            self._seat(request)

    def _may_run(self, request: Request, bounds: Bounds) -> bool:
        if request.preempted:
            if request.unheard:
                return False
            # nothing is in flight, so the heard counts are exact: fill again to c - 1, then VERIFY what was drafted
            request.preempted = False
            request.to_prefill = request.n - 1
            request.must_verify = request.d > 0
        if request.to_prefill:
            return self._prompt_is_ours(request)
        if bounds.n_hi >= request.limit:
            return False
        return not (self._loop.sit_out and bounds.n_lo != bounds.n_hi)

    def _prompt_is_ours(self, request: Request) -> bool:
        """Take over whole prompt pages that another sample has filled; False while an older one is filling them."""
        # no round ever writes into these pages: the first of them begins behind them, at c - 1
        pages = (len(request.prompt) - 2) // self._geometry.page_size
        untouched = request.to_prefill == request.n - 1 and not self._tiers.pages(request.seat)
        if request.params.n == 1 or pages < 1 or not untouched:
            return True
        positions = pages * self._geometry.page_size
        family = [
            other
            for other in self.seated.values()
            if other.group == request.group and other is not request and not other.preempted
        ]
        for other in family:
            filled = other.n - 1 - other.to_prefill
            if filled >= positions and self._tiers.pages(other.seat) >= pages:
                entries = self._tiers.share(request.seat, other.seat, pages)
                request.to_prefill -= positions
                self._share(request.seat, entries, positions)
                return True
        return not any(other.number < request.number and other.to_prefill for other in family)

    def _start_round(self, request: Request, row: RowView) -> Round:
        """Ask the length policy once, and fix what the round may do."""
        if not request.params.speculate:
            return Round(0, 0, 0.0)
        try:
            lengths = self._length.propose(row)
        except Exception as error:  # one request's trouble is not the batch's
            self._fail(request, error)
            return Round(0, 0, 0.0)
        g = self._geometry
        if not (0 <= lengths.draft <= g.max_draft and 0 <= lengths.guess <= g.max_guess):
            raise ContractBroken(
                f"the length policy proposed {lengths} and promised at most draft={g.max_draft}, guess={g.max_guess}"
            )
        room = request.limit - row.n_hi - 1
        return Round(min(lengths.draft, room), min(lengths.guess, room), lengths.stop_below)

    def _row(self, request: Request, bounds: Bounds) -> RowView:
        round_, seat = request.round, request.seat
        k, guess = (round_.k, round_.guess) if round_ else (0, 0)
        # positional, in the order of the fields: this line runs for every row of every step
        return RowView(
            seat,
            request.number,
            request.to_prefill,
            *bounds,
            k,
            guess,
            request.first_round,
            request.starved,
            request.must_verify,
            self._tiers.pages(seat),
            self._tiers.shared_pages(seat),
            request.accepted_mean,
            request.confidence,
            request.placed_at,
        )
