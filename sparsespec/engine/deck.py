"""The flight deck: launches rounds, keeps the flights that are out, and hears them in order.

It owns the device's side of an engine: the state per seat, the ring of host buffers, and every launch that changes
a seat outside a round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from sparsespec.core.config import Geometry
from sparsespec.core.device import Device, Event
from sparsespec.core.plan import Placed
from sparsespec.engine.flight import Buffers, Flight, Landed, row_width
from sparsespec.engine.pack import N_COLUMNS, ordered, pack, shape_of
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.roster import Roster
from sparsespec.engine.round import Rounds
from sparsespec.engine.runner import Model
from sparsespec.engine.shape import decoding_shapes, padded
from sparsespec.engine.state import enter_pages, make_state, seat_request, sent, set_filled


class Deck:
    """Launches and hears for one engine."""

    def __init__(
        self,
        device: Device,
        model: Model,
        parts: Parts,
        geometry: Geometry,
        roster: Roster,
        *,
        lag: int,
        graphs: bool = False,
    ) -> None:
        self._device, self._parts, self._geometry, self._roster = device, parts, geometry, roster
        self._state = make_state(geometry, laws="draft_probs" in parts.verifier.needs)
        self._rounds = Rounds(device, model, parts, self._state, geometry, graphs=graphs)
        # a launched step may still be waiting to read its own
        self._ring = deque(Buffers(geometry) for _ in range(lag + 1))
        self._out: deque[Flight] = deque()
        self._asides: list[Event] = []

    @property
    def n_out(self) -> int:
        """Flights that were launched and not heard."""
        return len(self._out)

    @property
    def memory(self) -> dict[str, object]:
        """What the deck itself allocated; apart, what a verifier needs of drafts that are not judged yet."""
        state = self._state
        return {"draft logits": state.draft_logits, "seats": (state, tuple(self._ring), self._rounds.memory)}

    def launch(self, placed: Placed, requests: Mapping[int, Request], step: int) -> None:
        """Pack a placed plan, launch its round, and note what is now unheard of the requests, by seat."""
        rows, n_decoding = ordered(placed.rows)
        shape = shape_of(rows, n_decoding, may_draft=self._geometry.max_draft > 0)
        if self._rounds.graphs:
            shape = padded(shape, self._geometry.n_seats)
        buffers = self._ring[0]
        self._ring.rotate(-1)
        packed = buffers.packed[: N_COLUMNS * shape.n_rows].reshape(N_COLUMNS, shape.n_rows)
        pack(rows, self._roster, any(self._geometry.scored), packed)
        n_table = len(placed.table)
        if n_table:
            buffers.table[:n_table] = placed.table
        aboard = tuple(requests[seat] for seat in rows.seat.tolist())
        flight = Flight(rows, n_decoding, aboard, buffers, n_table, step)
        asked = self._roster.n_logprobs[rows.seat[:n_decoding]].max(initial=-1)
        if asked >= 0:
            flight.ask_logprobs(shape.n_logits, int(asked), self._geometry.device)
        flight.before, self._asides = tuple(self._asides), []
        flight.event = self._device.launch(partial(self._rounds.run, flight, shape))
        self._out.append(flight)
        self._roster.launched(rows, n_decoding)

    def hear(self, at_most: int) -> Iterator[tuple[Flight, Landed | Exception]]:
        """Hear flights, oldest first, until `at_most` are out: what their rows reported, or what went wrong."""
        while len(self._out) > at_most:
            flight = self._out.popleft()
            assert flight.event is not None
            try:
                for event in (*flight.before, flight.event):
                    self._device.wait(event)
                landed: Landed | Exception = flight.landed()
            except Exception as error:  # whatever a part raised on the device belongs to this flight
                landed = error
            yield flight, landed

    def drain(self) -> None:
        """Let everything launched run, and forget its results, whatever they are."""
        for _ in self.hear(0):
            pass

    def rehearse(self, progress: Callable[[int, int], object]) -> None:
        """Record the rounds of all shapes without prefill, the largest first; `progress` hears (done, all)."""
        g = self._geometry
        shapes = list(decoding_shapes(g.n_seats, row_width(g)))
        if g.max_draft:
            shapes += decoding_shapes(g.n_seats, 1 + g.max_guess, plain=True)
        for done, shape in enumerate(shapes):
            progress(done, len(shapes))
            self._device.wait(self._device.launch(partial(self._rounds.rehearse, shape)))
        progress(len(shapes), len(shapes))

    def seat(self, request: Request) -> None:
        """Tell the device about a request that takes its seat."""
        self._aside(partial(seat_request, self._state, request, request.seat))

    def forget(self, seats: Sequence[int]) -> None:
        """Let the policies that live on the device forget `seats`, in stream order."""
        self._aside(partial(self._parts.selector.reset, seats))
        self._aside(partial(self._parts.proposer.reset, seats))

    def lose(self, seats: Sequence[int]) -> None:
        """Say that `seats` hold no KV any more."""
        if seats:
            self._aside(partial(set_filled, self._state, seats, 0))

    def share(self, seat: int, entries: Sequence[tuple[int, int, int]], positions: int) -> None:
        """Enter pages that `seat` took over, filled up to `positions`."""
        self.enter(entries)
        self._aside(partial(set_filled, self._state, [seat], positions))

    def enter(self, entries: Sequence[tuple[int, int, int]]) -> None:
        """Enter pages into the tables of seats."""
        self._aside(lambda: enter_pages(self._state, sent(entries, self._state)))

    def _aside(self, fn: Callable[[], object]) -> None:
        """Launch something that nobody waits for; the next flight reports its trouble."""
        self._asides.append(self._device.launch(fn))
