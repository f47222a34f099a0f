"""An engine's host without a device: integers that run a scheduler and a tier manager until all requests are done.

Outcomes of rows are drawn at random and heard late, so bounds are as loose as a lagged loop makes them. It is not the
engine: it shares no code with it, and follows the rules of `core/view.py` on its own.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan, check_plan
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView, View, build_view

LOOPS = {"sync": (0, False), "delayed": (1, True), "resident": (1, False)}

Flight = list[tuple["Guest", Row, int]]


@dataclass(slots=True, eq=False)
class Guest:
    """One request: what the device knows (`c`, `dc`) and what the host has heard (`n`, `d`)."""

    arrival: int
    prompt: int
    limit: int
    seat: int = -1
    n: int = 0
    d: int = 0
    c: int = 0
    dc: int = 0
    to_prefill: int = 0
    round: tuple[int, int] | None = None
    unheard: deque[Row] = field(default_factory=deque)
    first_round: bool = True
    starved: bool = False
    preempted: bool = False
    must_verify: bool = False
    placed_at: int = 0

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Return n_lo, n_hi, d_lo, d_hi."""
        n_lo = n_hi = self.n
        d_lo = d_hi = self.d
        for row in self.unheard:
            if row.phase is Phase.VERIFY:
                n_lo, n_hi, d_lo, d_hi = n_lo + 1, n_hi + row.n_query, 0, 0
            else:
                d_lo, d_hi = min(row.k, d_lo + 1), min(row.k, d_hi + row.n_query)
        return n_lo, n_hi, d_lo, d_hi


class Host:
    """Runs requests through a scheduler and a tier manager, both bound.

    Args:
        scheduler: Who plans.
        tiers: Who places.
        requests: (prompt, limit) of each request, in tokens.
        dice: Where outcomes and lengths come from.
        loop: Key of `LOOPS`.
        n_seats: Requests that run at once.
        page_size: Tokens per page.
        max_draft: Drafts of a round at most; each round draws its own number.
        max_guess: Guesses of a forward at most.
        failing: Chance that a copy fails.
        on_place: Called with (plan, view, placed) after each placement.
    """

    def __init__(
        self,
        scheduler: Any,
        tiers: Any,
        requests: list[tuple[int, int]],
        dice: random.Random,
        *,
        loop: str = "sync",
        n_seats: int = 4,
        page_size: int = 4,
        max_draft: int = 4,
        max_guess: int = 0,
        failing: float = 0.0,
        on_place: Callable[[StepPlan, View, Placed], None] | None = None,
    ) -> None:
        self.scheduler, self.tiers, self.dice = scheduler, tiers, dice
        self.lag, self.sit_out = LOOPS[loop]
        self.n_seats, self.page_size = n_seats, page_size
        self.max_draft, self.max_guess = max_draft, max_guess
        self.on_place = on_place
        self.waiting = [Guest(i, prompt, limit) for i, (prompt, limit) in enumerate(requests)]
        self.seated: dict[int, Guest] = {}
        self.flights: deque[Flight] = deque()
        self.copies: deque[Move] = deque()
        self.stuck = False
        self.failing = failing
        self.step = 0
        self.work = sum(limit for _, limit in requests)

    def run(self) -> int:
        """Run until nobody is left and return the number of steps; raises `ContractBroken` if that takes too long."""
        most = 40 * self.work + 200
        while self.waiting or self.seated:
            self.advance()
            if self.step > most:
                bounds = {seat: guest.bounds for seat, guest in self.seated.items()}
                who = f"{type(self.scheduler).__name__} over {type(self.tiers).__name__}"
                raise ContractBroken(f"{who} did not finish {self.work} tokens in {most} steps; bounds: {bounds}")
        return self.step

    def advance(self) -> StepPlan:
        """Run one step: copies end, view, plan, place, launch, hear."""
        self._land()
        view = self._view()
        plan = self.scheduler.plan(view)
        check_plan(plan, view)
        placed = self.tiers.place(plan, view)
        if self.on_place:
            self.on_place(plan, view, placed)
        self._check_pages()
        running = {row.seat for row in placed.rows}
        for row in plan.rows:
            self.seated[row.seat].starved = row.seat not in running
        restored = self.tiers.restore(view) if len(placed.rows) == len(plan.rows) else Placed()
        for seat in (*placed.preempted, *restored.preempted):
            self.seated[seat].preempted = True
        self.copies.extend((*placed.moves, *restored.moves))
        if placed.rows:
            self.flights.append([self._launch(row) for row in placed.rows])
        self.stuck = not (placed.rows or self.flights)
        self._hear(self.lag if placed.rows else max(0, len(self.flights) - 1))
        self.tiers.check()
        self.step += 1
        return plan

    def _land(self) -> None:
        """Let some copies end, in order, or all if nothing else happens; now and then one fails."""
        n = len(self.copies) if self.stuck else self.dice.randint(0, len(self.copies))
        while n:
            few = [self.copies.popleft() for _ in range(self.dice.randint(1, n))]
            self.tiers.moved(few, failed=self.dice.random() < self.failing)
            n -= len(few)

    def _check_pages(self) -> None:
        """Raise if somebody holds more pages than it can ever use, for then the oldest may not fit."""
        for seat, guest in self.seated.items():
            # the last token is never fed back, so its KV needs no place
            held, most = self.tiers.pages(seat), -(-(guest.limit - 1) // self.page_size)
            if held > most:
                name = getattr(self.tiers, "name", type(self.tiers).__name__)
                raise ContractBroken(f"{name} gave seat {seat} {held} pages, of which {most} can ever be used")

    def _view(self) -> View:
        free = [seat for seat in range(self.n_seats) if seat not in self.seated]
        while self.waiting and free and self.tiers.admit(free[0], self.waiting[0].prompt, self.waiting[0].limit):
            guest = self.waiting.pop(0)
            guest.seat, guest.placed_at = free.pop(0), self.step
            guest.n = guest.c = guest.prompt
            guest.to_prefill = guest.prompt - 1
            self.seated[guest.seat] = guest
            self.scheduler.reset([guest.seat])
        guests = sorted(self.seated.values(), key=lambda guest: guest.arrival)
        away = self.tiers.away()
        return build_view(
            [self._row(guest) for guest in guests if guest.seat not in away and self._may_run(guest)],
            step=self.step,
            free_pages=self.tiers.free_pages(),
            host_free_pages=self.tiers.host_free_pages(),
            page_size=self.page_size,
            max_batch=self.n_seats,
            lag=self.lag,
        )

    def _may_run(self, guest: Guest) -> bool:
        if guest.preempted:
            if guest.unheard:
                return False
            guest.preempted, guest.to_prefill, guest.must_verify = False, guest.n - 1, guest.d > 0
        n_lo, n_hi, _, _ = guest.bounds
        if not guest.to_prefill and (n_hi >= guest.limit or (self.sit_out and n_lo != n_hi)):
            return False
        if not guest.to_prefill and guest.round is None:
            room = guest.limit - n_hi - 1
            draft, guess = self.dice.randint(0, self.max_draft), self.dice.randint(0, self.max_guess)
            guest.round = (min(draft, room), min(guess, room))
        return True

    def _row(self, guest: Guest) -> RowView:
        n_lo, n_hi, d_lo, d_hi = guest.bounds
        k, guess = guest.round or (0, 0)
        return RowView(
            seat=guest.seat,
            arrival=guest.arrival,
            to_prefill=guest.to_prefill,
            n_lo=n_lo,
            n_hi=n_hi,
            d_lo=d_lo,
            d_hi=d_hi,
            k=k,
            guess=guess,
            first_round=guest.first_round,
            starved=guest.starved,
            must_verify=guest.must_verify,
            pages=self.tiers.pages(guest.seat),
            shared_pages=self.tiers.shared_pages(guest.seat),
            accepted_mean=math.nan,
            confidence=math.nan,
            waiting_since=guest.placed_at,
            running=len(self.seated),
        )

    def _launch(self, row: Row) -> tuple[Guest, Row, int]:
        """Let the device do `row`: how much it adds is chance, within what is possible."""
        guest = self.seated[row.seat]
        guest.placed_at = self.step
        if row.phase is Phase.PREFILL:
            guest.to_prefill -= row.n_query
            return guest, row, 0
        guest.unheard.append(row)
        if row.phase is Phase.DRAFT:
            added = min(self.dice.randint(1, row.n_query), row.k - guest.dc)
            guest.dc += added
            return guest, row, added
        live = 1 + guest.dc if row.k else self.dice.randint(1, row.n_query)
        if live > row.n_query:
            raise ContractBroken(f"{row} has no room for {live} live queries")
        added = self.dice.randint(1, live)
        guest.c, guest.dc = guest.c + added, 0
        guest.round, guest.first_round, guest.must_verify = None, False, False
        return guest, row, added

    def _hear(self, at_most: int) -> None:
        while len(self.flights) > at_most:
            for guest, row, added in self.flights.popleft():
                if row.phase is not Phase.PREFILL and self.seated.get(guest.seat) is guest:
                    self._learn(guest, row, added)

    def _learn(self, guest: Guest, row: Row, added: int) -> None:
        guest.unheard.popleft()
        if row.phase is Phase.DRAFT:
            guest.d += added
        else:
            guest.n, guest.d = guest.n + added, 0
            if guest.n >= guest.limit:
                self.tiers.forget(guest.seat)
                del self.seated[guest.seat]
                return
        stood = max(added - 1, 0)
        tokens = (0,) * added
        self.scheduler.observe(RowResult(guest.seat, row.phase, added, tokens, stood, stood, row.k, math.nan, 1.0, 1.0))
        _, n_hi, _, d_hi = guest.bounds
        self.tiers.commit(guest.seat, n_hi, d_hi)
