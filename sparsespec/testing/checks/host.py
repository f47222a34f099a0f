"""An engine's host without a device: integers that run a scheduler and a tier manager until all requests are done.

Outcomes of rows are drawn at random and collected late, so bounds are as loose as a lagged loop makes them. It is not
the engine: it shares no code with it, and follows the rules of `core/view.py` on its own.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsespec.core.errors import ContractBroken
from sparsespec.core.loops import LOOPS
from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan, check_plan
from sparsespec.core.result import RowResult, RowResults
from sparsespec.core.view import View
from sparsespec.testing.checks.drawn_views import ViewRow, view_of

LaunchedStep = list[tuple["Request", Row, int]]
"""Rows of one step with their requests, and how many tokens each added."""


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        n: Committed tokens that the host has collected.
        d: Drafts of the present round that it has collected.
        on_device: Drafts of the present round that the device has made.
        round: The round's k and guess; None between rounds.
        in_flight: Rows that were launched and not collected.
    """

    arrival: int
    prompt: int
    limit: int
    seat: int = -1
    n: int = 0
    d: int = 0
    on_device: int = 0
    to_prefill: int = 0
    round: tuple[int, int] | None = None
    in_flight: deque[Row] = field(default_factory=deque)
    first_round: bool = True
    starved: bool = False
    preempted: bool = False
    must_verify: bool = False

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Return n_lo, n_hi, d_lo, d_hi."""
        n_lo = n_hi = self.n
        d_lo = d_hi = self.d
        for row in self.in_flight:
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
        block_size: Tokens per page.
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
        block_size: int = 4,
        max_draft: int = 4,
        max_guess: int = 0,
        failing: float = 0.0,
        on_place: Callable[[StepPlan, View, Placed], None] | None = None,
    ) -> None:
        self.scheduler, self.tiers, self.dice = scheduler, tiers, dice
        self.loop = LOOPS[loop]
        self.n_seats, self.block_size = n_seats, block_size
        self.max_draft, self.max_guess = max_draft, max_guess
        self.on_place = on_place
        self.waiting = [Request(i, prompt, limit) for i, (prompt, limit) in enumerate(requests)]
        self.seated: dict[int, Request] = {}
        self.in_flight: deque[LaunchedStep] = deque()
        self.copies: deque[Move] = deque()
        self.stuck = False
        self.failing = failing
        self.step = 0
        self.work = sum(limit for _, limit in requests)

    def run(self) -> int:
        """Run until all requests have left; returns the steps, and raises `ContractBroken` if they are too many."""
        most = 40 * self.work + 200
        while self.waiting or self.seated:
            self.advance()
            if self.step > most:
                bounds = {seat: request.bounds for seat, request in self.seated.items()}
                parts = f"{type(self.scheduler).__name__} over {type(self.tiers).__name__}"
                raise ContractBroken(f"{parts} did not finish {self.work} tokens in {most} steps; bounds: {bounds}")
        return self.step

    def advance(self) -> StepPlan:
        """Run one step: copies end, view, plan, place, launch, collect."""
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
            self.in_flight.append([self._launch(row) for row in placed.rows])
        self.stuck = not (placed.rows or self.in_flight)
        self._collect(self.loop.lag if placed.rows else max(0, len(self.in_flight) - 1))
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
        """Raise if a request holds more pages than it can ever use, for then the oldest may not fit."""
        for seat, request in self.seated.items():
            # the last token is never fed back, so its KV needs no place
            held, most = self.tiers.pages(seat), -(-(request.limit - 1) // self.block_size)
            if held > most:
                name = getattr(self.tiers, "name", type(self.tiers).__name__)
                raise ContractBroken(f"{name} gave seat {seat} {held} pages, of which {most} can ever be used")

    def _view(self) -> View:
        free = [seat for seat in range(self.n_seats) if seat not in self.seated]
        while self.waiting and free and self.tiers.admit(free[0], self.waiting[0].prompt, self.waiting[0].limit):
            request = self.waiting.pop(0)
            request.seat, request.n, request.to_prefill = free.pop(0), request.prompt, request.prompt - 1
            self.seated[request.seat] = request
            self.scheduler.reset([request.seat])
        seated = sorted(self.seated.values(), key=lambda request: request.arrival)
        away = self.tiers.away()
        rows = [self._row(request) for request in seated if request.seat not in away and self._may_run(request)]
        return view_of(*rows, step=self.step, num_running=len(self.seated))

    def _may_run(self, request: Request) -> bool:
        if request.preempted:
            if request.in_flight:
                return False
            request.preempted, request.to_prefill, request.must_verify = False, request.n - 1, request.d > 0
        n_lo, n_hi, _, _ = request.bounds
        if not request.to_prefill and (n_hi >= request.limit or (self.loop.sit_out and n_lo != n_hi)):
            return False
        if not request.to_prefill and request.round is None:
            room = request.limit - n_hi - 1
            draft, guess = self.dice.randint(0, self.max_draft), self.dice.randint(0, self.max_guess)
            request.round = (min(draft, room), min(guess, room))
        return True

    def _row(self, request: Request) -> ViewRow:
        n_lo, n_hi, d_lo, d_hi = request.bounds
        k, guess = request.round or (0, 0)
        return ViewRow(
            seat=request.seat,
            arrival=request.arrival,
            to_prefill=request.to_prefill,
            n_lo=n_lo,
            n_hi=n_hi,
            d_lo=d_lo,
            d_hi=d_hi,
            k=k,
            guess=guess,
            first_round=request.first_round,
            starved=request.starved,
            must_verify=request.must_verify,
        )

    def _launch(self, row: Row) -> tuple[Request, Row, int]:
        """Let the device do `row`: how much it adds is chance, within what is possible."""
        request = self.seated[row.seat]
        if row.phase is Phase.PREFILL:
            request.to_prefill -= row.n_query
            return request, row, 0
        request.in_flight.append(row)
        if row.phase is Phase.DRAFT:
            added = min(self.dice.randint(1, row.n_query), row.k - request.on_device)
            request.on_device += added
            return request, row, added
        live = 1 + request.on_device if row.k else self.dice.randint(1, row.n_query)
        if live > row.n_query:
            raise ContractBroken(f"{row} has no room for {live} live queries")
        added = self.dice.randint(1, live)
        request.on_device = 0
        request.round, request.first_round, request.must_verify = None, False, False
        return request, row, added

    def _collect(self, at_most: int) -> None:
        """Take in what steps brought back, the oldest first, until so many are in flight."""
        while len(self.in_flight) > at_most:
            results = [
                self._learn(request, row, added)
                for request, row, added in self.in_flight.popleft()
                if row.phase is not Phase.PREFILL and self.seated.get(request.seat) is request
            ]
            stays = [result for result in results if result.seat in self.seated]
            if stays:
                self.scheduler.observe(RowResults.of(stays))
                seats = np.array([result.seat for result in stays])
                bounds = [self.seated[seat].bounds for seat in seats.tolist()]
                # the newest token is not written before it is fed back
                self.tiers.commit(seats, np.array([n_hi - 1 + d_hi for _, n_hi, _, d_hi in bounds]))

    def _learn(self, request: Request, row: Row, added: int) -> RowResult:
        """Note what a row added; the request leaves if it has come to its limit."""
        request.in_flight.popleft()
        if row.phase is Phase.DRAFT:
            request.d += added
        else:
            request.n, request.d = request.n + added, 0
            if request.n >= request.limit:
                self.tiers.forget(request.seat)
                del self.seated[request.seat]
        accepted = max(added - 1, 0)
        tokens = (0,) * added
        return RowResult(request.seat, row.phase, added, tokens, accepted, accepted, row.k, math.nan, 1.0, 1.0)
