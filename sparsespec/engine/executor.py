"""The device's side of an engine: launches steps and page copies, keeps what is in flight, collects it in order.

It owns the state per seat, the ring of host buffers, and every launch that changes a seat outside a step.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.device import Device, Event, Stream
from sparsespec.core.plan import Move
from sparsespec.engine.graph_runner import GraphRunner
from sparsespec.engine.graph_shapes import decoding_shapes, padded
from sparsespec.engine.in_flight import Buffers, FailedStep, InFlightStep, StepOutput, row_width
from sparsespec.engine.pack import PackedStep, write_padded
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.request_table import Shared
from sparsespec.engine.runner import Model
from sparsespec.engine.state import enter_pages, make_state, seat_request, sent, set_computed
from sparsespec.kernels.lay_out.api import N_COLUMNS
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool

_log = logging.getLogger(__name__)
STREAMS: tuple[Stream, ...] = ("main", "side")


class Executor:
    """Launches and collects for one engine.

    Args:
        device: Where launches run.
        model: The model.
        parts: What is plugged in, bound.
        geometry: The engine's sizes.
        pool: The KV pool.
        lag: Steps that may be launched before the host has collected this one.
        graphs: Whether steps are recorded as CUDA graphs.
    """

    def __init__(
        self,
        device: Device,
        model: Model,
        parts: Parts,
        geometry: Geometry,
        pool: KVPool,
        *,
        lag: int,
        graphs: bool = False,
    ) -> None:
        self._device, self._parts, self._geometry = device, parts, geometry
        self._state = make_state(geometry, draft_logits="draft_probs" in parts.verifier.needs)
        self._runner = GraphRunner(device, model, parts, self._state, geometry, graphs=graphs)
        self._mover = Mover(device, pool, geometry, parts.tiers.host_free_pages())
        # a launched step may still be waiting to read its own
        self._ring = deque(Buffers(geometry) for _ in range(lag + 1))
        self._in_flight: deque[InFlightStep] = deque()
        self._asides: list[Event] = []
        self.n_failed_copies = 0
        self.waited = 0.0  # seconds that collecting has waited for the device, in all

    @property
    def in_flight(self) -> list[PackedStep]:
        """Steps that were launched and not collected, oldest first."""
        return [step.packed for step in self._in_flight]

    @property
    def is_busy(self) -> bool:
        """Whether a step or a page copy is in flight."""
        return bool(self._in_flight or self._mover.n_out)

    @property
    def memory(self) -> dict[str, object]:
        """What it allocated; apart, what a verifier needs of drafts that are not judged yet."""
        seats = (self._state, tuple(self._ring), self._runner.memory)
        return {
            "draft logits": self._state.draft_logits,
            "seats": seats,
            "copies": self._mover.memory,
            "pinned host": self._mover.pinned,
        }

    def seat(self, requests: Iterable[Request]) -> None:
        """Tell the device about requests that take their seats."""
        for request in requests:
            self._aside(partial(seat_request, self._state, request, request.seat))

    def forget(self, seats: Sequence[int]) -> None:
        """Let the policies that live on the device forget `seats`, in stream order."""
        self._aside(partial(self._parts.selector.reset, seats))
        self._aside(partial(self._parts.proposer.reset, seats))

    def share(self, shared: Iterable[Shared]) -> None:
        """Enter pages that seats took over from other samples, filled as far as they say."""
        for seat, entries, positions in shared:
            self._aside(partial(self._enter, entries))
            self._aside(partial(set_computed, self._state, [seat], positions))

    def lose(self, seats: Sequence[int]) -> None:
        """Say that `seats` hold no KV any more."""
        if seats:
            self._aside(partial(set_computed, self._state, seats, 0))

    def restore(self, entries: Sequence[tuple[int, int, int]]) -> None:
        """Enter pages that come back into the tables of their seats."""
        if entries:
            self._aside(partial(self._enter, entries))

    def launch(self, packed: PackedStep, fresh: Sequence[int], moves: Sequence[Move]) -> None:
        """Launch a step, if it has rows, and begin to copy pages beside it.

        Args:
            packed: The step.
            fresh: Pages allocated in it, whose content must not be read.
            moves: Pages to copy.
        """
        self._mover.fresh(fresh)
        with self._mover.moving(moves):
            if packed.rows:
                self._launch(packed)

    def collect(self, at_most: int) -> StepOutput | FailedStep | None:
        """Wait for the oldest step in flight, and return what it brought back, if more than `at_most` are out."""
        if len(self._in_flight) <= at_most:
            return None
        step, start = self._in_flight[0], perf_counter()
        assert step.event is not None
        try:
            for event in (*step.before, step.event):
                self._device.wait(event)
            self.waited += perf_counter() - start
            output: StepOutput | FailedStep = step.output()
        except Exception as error:  # whatever a part raised on the device belongs to this step
            output = FailedStep(step.packed, error)
        self._in_flight.popleft()
        return output

    def ended_copies(self, *, wait: bool) -> Iterator[tuple[tuple[Move, ...], bool]]:
        """Yield the page copies that have ended, oldest first, and whether they failed; with `wait`, all there are."""
        for moves, error in self._mover.ended(wait=wait):
            if error is not None:
                self.n_failed_copies += 1
                what = "a copy of %d KV pages failed (%s), number %d so far; their requests are computed again"
                _log.warning(what, len(moves), error, self.n_failed_copies)
            yield moves, error is not None

    def abandon(self) -> None:
        """Let everything launched run, and forget it, wherever an interrupt has struck."""
        for stream in STREAMS:
            self._device.wait(self._device.launch(_nothing, stream))
        self._in_flight.clear()
        self._asides.clear()
        self._mover.abandon()

    def warm_up(self, progress: Callable[[int, int], object]) -> None:
        """Record the steps of all shapes without prefill, the largest first; `progress` is told (done, all)."""
        g = self._geometry
        shapes = list(decoding_shapes(g.n_seats, row_width(g)))
        if g.max_draft:
            shapes += decoding_shapes(g.n_seats, 1 + g.max_guess, plain=True)
        for done, shape in enumerate(shapes):
            progress(done, len(shapes))
            self._device.wait(self._device.launch(partial(self._runner.warm_up, shape)))
        progress(len(shapes), len(shapes))
        self._mover.rehearse()

    def _launch(self, packed: PackedStep) -> None:
        shape = padded(packed.shape, self._geometry.n_seats) if self._runner.graphs else packed.shape
        buffers = self._ring[0]
        self._ring.rotate(-1)
        n_columns = N_COLUMNS * shape.n_rows
        write_padded(packed, shape, buffers.packed[:n_columns].reshape(N_COLUMNS, shape.n_rows))
        if packed.table:
            buffers.packed[n_columns : n_columns + 3 * len(packed.table)] = np.array(packed.table).reshape(-1)
        step = InFlightStep(packed, buffers)
        asked = int(packed.n_logprobs.max(initial=-1))
        if asked >= 0:
            step.ask_logprobs(shape.n_logits, asked, self._geometry.device)
        step.before, self._asides = tuple(self._asides), []
        step.event = self._device.launch(partial(self._runner.run, step, shape))
        self._in_flight.append(step)

    def _enter(self, entries: Sequence[tuple[int, int, int]]) -> None:
        enter_pages(self._state, sent(entries, self._state))

    def _aside(self, fn: Callable[[], object]) -> None:
        """Launch something that nobody waits for; the next step reports its trouble."""
        self._asides.append(self._device.launch(fn))


def _nothing() -> None:
    """Stand in a stream, to be waited for."""
