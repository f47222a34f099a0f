"""What the host knows of the requests on their seats: how far they have come, their rounds, their bounds.

Kept as arrays over seats, because every step looks at all of them. A seat's columns belong to the request whose number
stands there; launched rows carry that number along, so what they bring back goes to the request and not to the seat.
Nobody but the table writes its arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.loops import Loop
from sparsespec.core.plan import PREFILL, Lengths, Placed, StepPlan
from sparsespec.core.protocols import Tiers
from sparsespec.core.view import COLUMNS, Bools, Floats, Ints, View
from sparsespec.engine.request import Request

if TYPE_CHECKING:
    from sparsespec.engine.in_flight import StepOutput
    from sparsespec.engine.pack import PackedStep

VACANT = -1


class Bounds(NamedTuple):
    """What was collected, plus what rows in flight may add; by seat."""

    n_lo: Ints
    n_hi: Ints
    d_lo: Ints
    d_hi: Ints


class Shared(NamedTuple):
    """A seat that took over filled prompt pages of another sample: its page table entries, and positions filled."""

    seat: int
    entries: tuple[tuple[int, int, int], ...]
    positions: int


class RequestTable:
    """Everything that changes of a seated request, by seat.

    Attributes:
        requests: Who has which seat.
        number: Its order of arrival, `VACANT` where a seat is free.
        n_committed: Committed tokens that were collected.
        n_drafted: Drafts of the present round that were collected.
        limit: Tokens it may hold, prompt and output.
        to_prefill: Positions to fill before it may decode.
        reached: Positions, from the first, whose KV was there at some time.
        round: Which of its rounds it is in.
        in_round: Whether the lengths of that round were fixed: k, guess and stop_below, which are 0 otherwise.
        first_fill: Its prompt was never filled to the end; recomputation scores nothing.
        first_round: It was never verified.
        starved: It was planned and found no pages, and was not placed since.
        preempted: It lost its pages, and is not yet ready to be filled again.
        must_verify: Its drafts are known and their KV is lost.
        n_logprobs: Log-probabilities it wants beside each token's own; -1 for none at all.
    """

    def __init__(self, geometry: Geometry, loop: Loop) -> None:
        self._geometry, self._loop = geometry, loop
        n_seats = geometry.n_seats

        def ints(fill: int = 0) -> Ints:
            return np.full(n_seats, fill, dtype=np.int64)

        def bools() -> Bools:
            return np.zeros(n_seats, dtype=np.bool_)

        self.requests: dict[int, Request] = {}
        self.number, self.n_committed, self.n_drafted, self.limit = ints(VACANT), ints(), ints(), ints()
        self.to_prefill, self.reached, self.n_logprobs = ints(), ints(), ints()
        self.round, self.k, self.guess = ints(), ints(), ints()
        self.in_round, self.first_fill, self.first_round = bools(), bools(), bools()
        self.starved, self.preempted, self.must_verify, self._speculates = bools(), bools(), bools(), bools()
        self.stop_below: Floats = np.zeros(n_seats, dtype=np.float64)

    def free_seats(self) -> list[int]:
        """Return the seats that nobody has, lowest first."""
        return (self.number == VACANT).nonzero()[0].tolist()

    def enter(self, requests: Iterable[Request]) -> None:
        """Write requests down on the seats they got."""
        for request in requests:
            seat, length, asked = request.seat, len(request.known), request.params.logprobs
            self.requests[seat] = request
            self.number[seat], self.limit[seat] = request.number, request.limit
            self.n_committed[seat], self.n_drafted[seat], self.reached[seat] = length, 0, request.n_computed
            self.to_prefill[seat] = length - 1 - request.n_computed
            self.first_fill[seat] = self.to_prefill[seat] > 0 or not request.n_computed
            self.first_round[seat], self._speculates[seat] = True, request.params.speculate
            self.starved[seat] = self.preempted[seat] = self.must_verify[seat] = False
            self.n_logprobs[seat] = -1 if asked is None else asked
            self._end_rounds(np.array([seat]))

    def leave(self, seat: int) -> None:
        """Call a seat vacant."""
        self.number[seat] = VACANT
        del self.requests[seat]

    def bounds(self, in_flight: Iterable[PackedStep]) -> Bounds:
        """Return bounds of what every seat has on the device at present; the oldest step in flight comes first."""
        n_lo, n_hi = self.n_committed.copy(), self.n_committed.copy()
        d_lo, d_hi = self.n_drafted.copy(), self.n_drafted.copy()
        for step in in_flight:
            rows = step.decoding
            mine = self.number[rows.seat] == step.number[: step.n_decoding]
            verify, draft = mine & step.is_verify, mine & ~step.is_verify
            seat = rows.seat[verify]
            n_lo[seat] += step.at_least[verify]
            n_hi[seat] += rows.n_query[verify]
            d_lo[seat] = d_hi[seat] = 0
            seat, k = rows.seat[draft], rows.k[draft]
            d_lo[seat] = np.minimum(k, d_lo[seat] + step.at_least[draft])
            d_hi[seat] = np.minimum(k, d_hi[seat] + rows.n_query[draft])
        return Bounds(n_lo, n_hi, d_lo, d_hi)

    def view(self, step: int, tiers: Tiers, in_flight: Sequence[PackedStep]) -> tuple[View, list[Shared]]:
        """Return the rows that may run, oldest first, and which of them took over pages of another sample."""
        self._wake(in_flight)
        bounds = self.bounds(in_flight)
        filling = self.to_prefill > 0
        may = bounds.n_hi < self.limit
        if self._loop.sit_out:
            may &= bounds.n_lo == bounds.n_hi
        may = (may | filling) & ~self.preempted & (self.number != VACANT)
        away = list(tiers.away())
        may[away] = False
        shared: list[Shared] = []
        seats = may.nonzero()[0]
        seats = seats[self.number[seats].argsort()]
        for seat in seats[filling[seats]].tolist():
            if self.requests[seat].params.n > 1:
                may[seat] = self._has_own_prompt(self.requests[seat], tiers, away, shared)
        return self._view_of(seats[may[seats]], bounds, step), shared

    def starting(self, view: View) -> Ints:
        """Return the rows of the view whose rounds begin, which are to be given lengths."""
        starts = (view.to_prefill == 0) & ~self.in_round[view.seat] & self._speculates[view.seat]
        return starts.nonzero()[0]

    def begin_rounds(self, view: View, index: Ints, lengths: Lengths) -> View:
        """Fix what the rounds of the rows `index` may do; return the view that says so."""
        g, seat = self._geometry, view.seat[index]
        draft, guess, stop_below = (np.asarray(column) for column in lengths)
        wrong = (draft < 0) | (draft > g.max_draft) | (guess < 0) | (guess > g.max_guess)
        if wrong.any():
            i = np.broadcast_to(wrong, seat.shape).argmax()
            proposed = Lengths(*(np.broadcast_to(column, seat.shape)[i].item() for column in lengths))
            promised = f"at most draft={g.max_draft}, guess={g.max_guess}"
            raise ContractBroken(f"the length policy proposed {proposed} and promised {promised}")
        room = self.limit[seat] - view.n_hi[index] - 1
        self.k[seat], self.guess[seat] = np.minimum(draft, room), np.minimum(guess, room)
        self.stop_below[seat], self.in_round[seat] = stop_below, True
        return replace(view, k=self.k[view.seat], guess=self.guess[view.seat])

    def without(self, view: View, gone: Iterable[Request]) -> View:
        """Return the view without the rows of requests that have ended."""
        stays = ~np.isin(view.arrival, [request.number for request in gone])
        columns = {name: getattr(view, name)[stays] for name in COLUMNS}
        return replace(view, **columns)

    def note_placed(self, plan: StepPlan, placed: Placed) -> tuple[Ints, Ints]:
        """Note which rows of a plan found pages and which requests lost all; return PREFILL seats, positions again."""
        rows = placed.rows
        self.starved[plan.rows.seat] = True
        self.starved[rows.seat] = False
        self.note_lost(placed.preempted)
        filling = rows.take(rows.phase == PREFILL)
        seat = filling.seat
        again = self.reached[seat] - (self.n_committed - 1 - self.to_prefill)[seat]
        return seat, np.clip(again, 0, filling.n_query)

    def note_lost(self, seats: Sequence[int]) -> None:
        """Note that seats lost all their pages."""
        self.preempted[list(seats)] = True

    def note_launched(self, packed: PackedStep) -> None:
        """Note that a step was launched."""
        filling = packed.rows[packed.n_decoding :]
        seat = filling.seat
        self.to_prefill[seat] -= filling.n_query
        self.reached[seat] = np.maximum(self.reached[seat], self.n_committed[seat] - 1 - self.to_prefill[seat])
        self.first_fill[seat] &= self.to_prefill[seat] > 0
        verified = packed.decoding.seat[packed.is_verify]
        self._end_rounds(verified)
        self.first_round[verified] = self.must_verify[verified] = False

    def collect(self, output: StepOutput) -> tuple[Bools, list[Request]]:
        """Learn what a step brought back; return which decoding rows count [R], and the requests it failed.

        Rows count whose request still has its seat, and whose logits were finite.
        """
        packed = output.packed
        rows, number, verify = packed.decoding, packed.number[: packed.n_decoding], packed.is_verify
        mine = self.number[rows.seat] == number
        failed = [self.requests[seat] for seat in rows.seat[mine & ~output.finite].tolist()]
        counts = mine & output.finite
        verified, drafted = counts & verify, counts & ~verify
        self.n_committed[rows.seat[verified]] += output.emitted[verified]
        self.n_drafted[rows.seat[verified]] = 0
        self.n_drafted[rows.seat[drafted]] += output.emitted[drafted]
        # the device may have ended a round before its length; a later round has lengths of its own
        cut = drafted & output.ended & self.in_round[rows.seat] & (self.round[rows.seat] == packed.round)
        self.k[rows.seat[cut]] = output.k[cut]
        return counts, failed

    def hit_by(self, packed: PackedStep, tiers: Tiers) -> list[Request]:
        """Return the requests of a step that failed, and samples that took over pages which it may not have filled."""
        seats = packed.rows.seat[self.number[packed.rows.seat] == packed.number]
        hit = [self.requests[seat] for seat in seats.tolist()]
        groups = {request.group for request in hit}
        family = [r for r in self.requests.values() if r.group in groups and r not in hit]
        return hit + [r for r in family if tiers.shared_pages(r.seat)]

    def _wake(self, in_flight: Iterable[PackedStep]) -> None:
        """Let preempted requests be filled again, as soon as all of their results were collected."""
        for seat in (self.preempted & (self.number != VACANT)).nonzero()[0].tolist():
            number = self.number[seat]
            if any((step.number[: step.n_decoding] == number).any() for step in in_flight):
                continue
            # nothing is in flight, so counts are exact: fill all but the last token, then VERIFY what was drafted
            self.preempted[seat] = False
            if not self.to_prefill[seat]:
                self.reached[seat] = self.n_committed[seat] - 1
            self.to_prefill[seat] = self.n_committed[seat] - 1
            self.must_verify[seat] = self.n_drafted[seat] > 0

    def _has_own_prompt(self, request: Request, tiers: Tiers, away: Sequence[int], shared: list[Shared]) -> bool:
        """Take over whole prompt pages that another sample has filled; False while an older one is filling them."""
        seat = request.seat
        # no round ever writes into these pages: the first of them begins behind them, at the last prompt token
        pages = (len(request.prompt) - 2) // self._geometry.block_size
        untouched = self.to_prefill[seat] == self.n_committed[seat] - 1 and not tiers.pages(seat)
        if pages < 1 or not untouched:
            return True
        positions = pages * self._geometry.block_size
        family = [
            other
            for other in self.requests.values()
            if other.group == request.group
            and other is not request
            and not self.preempted[other.seat]
            and other.seat not in away
        ]
        for other in family:
            filled = self.n_committed[other.seat] - 1 - self.to_prefill[other.seat]
            if filled >= positions and tiers.pages(other.seat) >= pages:
                shared.append(Shared(seat, tiers.share(seat, other.seat, pages), positions))
                self.to_prefill[seat] -= positions
                return True
        return not any(other.number < request.number and self.to_prefill[other.seat] for other in family)

    def _view_of(self, seats: Ints, bounds: Bounds, step: int) -> View:
        return View(
            seat=seats,
            arrival=self.number[seats],
            to_prefill=self.to_prefill[seats],
            n_lo=bounds.n_lo[seats],
            n_hi=bounds.n_hi[seats],
            d_lo=bounds.d_lo[seats],
            d_hi=bounds.d_hi[seats],
            k=self.k[seats],
            guess=self.guess[seats],
            first_round=self.first_round[seats],
            starved=self.starved[seats],
            must_verify=self.must_verify[seats],
            num_running=len(self.requests),
            step=step,
        )

    def _end_rounds(self, seats: Ints) -> None:
        """Let the next round of `seats` begin with lengths of its own."""
        self.in_round[seats] = False
        self.k[seats] = self.guess[seats] = self.stop_below[seats] = 0
        self.round[seats] += 1
