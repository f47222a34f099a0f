"""What the host knows of the requests on their seats: the text as far as heard, the round, the rows not yet heard.

Kept as arrays over seats, because every step looks at all of them. A seat's columns belong to the request whose number
stands there; launched rows carry that number along, so what they bring goes to the request and not to the seat.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from sparsespec.core.plan import Phase, Rows
from sparsespec.core.view import Bools, Floats, Ints
from sparsespec.engine.flight import Landed
from sparsespec.engine.request import Request

VACANT = -1


class Sent(NamedTuple):
    """Decoding rows that were launched together [R]; `at_least` is what a row adds to d or n in any case."""

    seat: Ints
    number: Ints
    verify: Bools
    n_query: Ints
    k: Ints
    at_least: Ints
    round: Ints


class Bounds(NamedTuple):
    """What the host heard, plus what rows not yet heard may add; by seat."""

    n_lo: Ints
    n_hi: Ints
    d_lo: Ints
    d_hi: Ints


class Roster:
    """Everything that changes of a seated request, by seat.

    Attributes:
        number: Its order of arrival, `VACANT` where nobody sits.
        n: Committed tokens heard.
        d: Drafts of the present round heard.
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
        placed_at: Step in which it was last placed.
        confidence: Top-1 probability of its newest draft; NaN before.
        n_logprobs: Log-probabilities it wants beside each token's own; -1 for none at all.
        unheard: Decoding rows launched and not heard, by flight, oldest first.
    """

    def __init__(self, n_seats: int) -> None:
        def ints(fill: int = 0) -> Ints:
            return np.full(n_seats, fill, dtype=np.int64)

        def bools() -> Bools:
            return np.zeros(n_seats, dtype=np.bool_)

        def floats() -> Floats:
            return np.zeros(n_seats, dtype=np.float64)

        self.number, self.n, self.d, self.limit, self.to_prefill = ints(VACANT), ints(), ints(), ints(), ints()
        self.round, self.k, self.guess, self.placed_at, self.n_logprobs = ints(), ints(), ints(), ints(), ints()
        self.reached = ints()
        self.in_round, self.first_fill, self.first_round = bools(), bools(), bools()
        self.starved, self.preempted, self.must_verify = bools(), bools(), bools()
        self.stop_below, self.confidence = floats(), floats()
        self.unheard: deque[Sent] = deque()

    def enter(self, request: Request, step: int) -> None:
        """Write a request down on the seat it takes."""
        seat, length, asked = request.seat, len(request.prompt), request.params.logprobs
        self.number[seat], self.limit[seat], self.placed_at[seat] = request.number, request.limit, step
        self.n[seat], self.d[seat], self.to_prefill[seat], self.reached[seat] = length, 0, length - 1, 0
        self.first_fill[seat] = self.first_round[seat] = True
        self.starved[seat] = self.preempted[seat] = self.must_verify[seat] = False
        self.confidence[seat], self.n_logprobs[seat] = np.nan, -1 if asked is None else asked
        self.end_rounds(np.array([seat]))

    def leave(self, seat: int) -> None:
        """Call a seat vacant."""
        self.number[seat] = VACANT

    def seats(self) -> Ints:
        """Return the seats that are taken, oldest request first."""
        taken = (self.number != VACANT).nonzero()[0]
        return taken[self.number[taken].argsort()]

    def is_unheard(self, seat: int) -> bool:
        """Say whether a decoding row of the request on `seat` was launched and not heard."""
        number = self.number[seat]
        return any((sent.number == number).any() for sent in self.unheard)

    def bounds(self) -> Bounds:
        """Return `n_lo ≤ c ≤ n_hi` and `d_lo ≤ d ≤ d_hi` for the device's present c and d of every seat."""
        n_lo, n_hi, d_lo, d_hi = self.n.copy(), self.n.copy(), self.d.copy(), self.d.copy()
        for sent in self.unheard:
            mine = self.number[sent.seat] == sent.number
            verify, draft = mine & sent.verify, mine & ~sent.verify
            seat = sent.seat[verify]
            n_lo[seat] += sent.at_least[verify]
            n_hi[seat] += sent.n_query[verify]
            d_lo[seat] = d_hi[seat] = 0
            seat, k = sent.seat[draft], sent.k[draft]
            d_lo[seat] = np.minimum(k, d_lo[seat] + sent.at_least[draft])
            d_hi[seat] = np.minimum(k, d_hi[seat] + sent.n_query[draft])
        return Bounds(n_lo, n_hi, d_lo, d_hi)

    def launched(self, rows: Rows, n_decoding: int) -> None:
        """Note that `rows` were launched, of which the first `n_decoding` decode and the others fill."""
        filling = rows[n_decoding:]
        self.to_prefill[filling.seat] -= filling.n_query
        filled = self.n[filling.seat] - 1 - self.to_prefill[filling.seat]
        self.reached[filling.seat] = np.maximum(self.reached[filling.seat], filled)
        self.first_fill[filling.seat] &= self.to_prefill[filling.seat] > 0
        seat, phase, n_query, k = rows[:n_decoding].table
        verify = phase == Phase.VERIFY
        # a device that may stop a round early may also draft nothing
        at_least = np.where(~verify & (self.stop_below[seat] > 0), 0, 1)
        self.unheard.append(Sent(seat, self.number[seat], verify, n_query, k, at_least, self.round[seat]))
        verified = seat[verify]
        self.end_rounds(verified)
        self.first_round[verified] = self.must_verify[verified] = False

    def heard(self, sent: Sent, landed: Landed, rows: Bools) -> None:
        """Learn what those of the `rows` [R] of a flight reported."""
        verified, drafted = rows & sent.verify, rows & ~sent.verify
        seat = sent.seat[verified]
        self.n[seat] += landed.emitted[verified]
        self.d[seat] = 0
        self.d[sent.seat[drafted]] += landed.emitted[drafted]
        sure = drafted & (landed.emitted > 0)
        self.confidence[sent.seat[sure]] = landed.confidence[sure]
        # the device may have ended a round before its length; a later round has lengths of its own
        cut = drafted & landed.ended & self.in_round[sent.seat] & (self.round[sent.seat] == sent.round)
        self.k[sent.seat[cut]] = landed.k[cut]

    def end_rounds(self, seats: Ints) -> None:
        """Let the next round of `seats` begin with lengths of its own."""
        self.in_round[seats] = False
        self.k[seats] = self.guess[seats] = self.stop_below[seats] = 0
        self.round[seats] += 1
