"""Carries out what the tier manager decided about pages, as launches, and says when copies have ended.

The tier manager is integers; this is the only place that turns its moves into work on the pools. Copies run in the side
stream, in order, behind everything the main stream had been given before: what is copied out was written by then, and
what is copied in lands where no launched step reads any more. The main stream never waits for a copy.

Pages of all layers are gathered in one buffer on the device, and copies between it and neighbouring host pages are done
at once. The gathering may be recorded beforehand: to launch it by hand takes the host several times as long, and steps
of small models are bound by the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from sparsespec.core.config import Geometry
from sparsespec.core.device import Device, Event
from sparsespec.core.plan import Move
from sparsespec.kernels.copy_pages.api import copy_pages
from sparsespec.kernels.implementations import fastest
from sparsespec.kv.host_pool import HostPool
from sparsespec.kv.pool import KVPool
from sparsespec.kv.two_tiers import chunk_of

PATIENCE = 16
"""Steps after which a copy is waited for, because some devices do nothing until then."""


class Trip(NamedTuple):
    """Pages that are copied in one direction.

    Attributes:
        out: Whether to the host.
        numbers: [1 + pages of the buffer, 2]: how many pages there are, twice, and (from, to) of each; entries behind
            those mean nothing.
        parts: The host's memory of their host pages.
    """

    out: bool
    numbers: Tensor
    parts: list[Tensor]


@dataclass(frozen=True, slots=True)
class Copy:
    """A launched copy: its moves, its trips by direction, the event of its end, and the step in which it began."""

    moves: tuple[Move, ...]
    trips: list[Trip]
    event: Event
    step: int


class Mover:
    """Executes page moves and, in checked mode, poisons freshly allocated pages.

    Args:
        device: Where copies are launched.
        pool: Keys and values on the device.
        geometry: What a page is.
        n_host_pages: The highest host page; 0 if nothing is ever copied.
    """

    def __init__(self, device: Device, pool: KVPool, geometry: Geometry, n_host_pages: int) -> None:
        self._device, self._pool, self._geometry, self._n_host_pages = device, pool, geometry, n_host_pages
        self._host = HostPool(geometry, n_host_pages)
        self._n_staged = chunk_of(geometry)
        self._staged: tuple[Tensor, Tensor] | None = None
        self._gathers: dict[bool, Callable[[], object]] = {}
        self._numbers: dict[bool, list[Tensor]] = {True: [], False: []}  # of copies that have ended
        self._copies: deque[Copy] = deque()
        self._step = 0

    @property
    def n_out(self) -> int:
        """Copies that began and were not yielded by `ended` yet."""
        return len(self._copies)

    @property
    def memory(self) -> tuple[object, ...]:
        """What the mover allocated on the device."""
        return (self._staged,)

    @property
    def pinned(self) -> tuple[object, ...]:
        """What the mover allocated of the host's memory."""
        return (self._host.pieces,)

    def fresh(self, pages: Sequence[int]) -> None:
        """Take note of freshly allocated pages; their old content must not be read."""
        if self._geometry.checked and pages:
            self._device.launch(lambda: self._pool.poison(pages))

    @contextmanager
    def moving(self, moves: Sequence[Move]) -> Generator[None]:
        """Begin to copy pages, in this order, beside what is launched within and behind all that was before."""
        written = (self._device.launch(_nothing),) if moves else ()
        try:
            yield
        finally:
            # launched last, so that the round does not come late for it
            for first in range(0, len(moves), self._n_staged):
                self._begin(tuple(moves[first : first + self._n_staged]), written)
            self._host.ahead()

    def ended(self, *, wait: bool) -> Iterator[tuple[tuple[Move, ...], Exception | None]]:
        """Yield the copies that have ended, oldest first, and what went wrong; with `wait`, all there are.

        To be asked once a step.
        """
        self._step += 1
        while self._copies:
            copy = self._copies[0]
            if not (wait or self._step - copy.step > PATIENCE or self._device.poll(copy.event)):
                return
            self._copies.popleft()
            error = None
            try:
                self._device.wait(copy.event)
            except Exception as raised:
                error = raised
            for trip in copy.trips:
                self._numbers[trip.out].append(trip.numbers)
            yield copy.moves, error

    def abandon(self) -> None:
        """Forget all copies; everything launched must have run."""
        self._copies.clear()

    def rehearse(self) -> None:
        """Record what gathers and scatters pages, before the first copy, if there will be any."""
        for out in {True, False} - self._gathers.keys() if self._n_host_pages else ():
            self._device.wait(self._device.launch(partial(self._record, out), "side"))

    def _begin(self, moves: tuple[Move, ...], after: Sequence[Event]) -> None:
        trips, error = list[Trip](), None
        try:
            # memory is locked here, so that a copy's time is that of the copy
            trips = self._trips(moves)
        except Exception as raised:  # reported with these pages, when the copy has ended
            error = raised
        event = self._device.launch(partial(self._copy, trips, error), "side", after)
        self._copies.append(Copy(moves, trips, event, self._step))

    def _trips(self, moves: Sequence[Move]) -> list[Trip]:
        """Return one direction after the other; raises if the host has no memory."""
        ordered = sorted(moves, key=attrgetter("host_page"))
        ways = {out: [move for move in ordered if move.out is out] for out in (True, False)}
        return [self._trip(few, out) for out, few in ways.items() if few]

    def _trip(self, moves: Sequence[Move], out: bool) -> Trip:
        runs = _runs([move.host_page for move in moves])
        parts = [part for first, n in runs for part in self._host.at(first, n)]
        numbers = self._numbers[out].pop() if self._numbers[out] else self._fresh_numbers()
        array = numbers.numpy()
        array[0] = len(moves)
        array[1 : 1 + len(moves), 0 if out else 1] = [move.page for move in moves]
        return Trip(out, numbers, parts)

    def _fresh_numbers(self) -> Tensor:
        """Return numbers that lack pages of the pool; pages of the buffer are used in order."""
        numbers = torch.arange(-1, self._n_staged)[:, None].repeat(1, 2)
        return numbers.pin_memory() if self._pool.kv.is_cuda else numbers

    def _copy(self, trips: Sequence[Trip], error: Exception | None) -> None:
        """Copy pages, or say why they cannot be."""
        if error is not None:
            raise error
        for trip in trips:
            self._through(trip)

    @torch.inference_mode()
    def _through(self, trip: Trip) -> None:
        """Copy pages by way of a buffer where their layers lie together."""
        (staged, pairs), first = self._stage(), 0
        pairs.copy_(trip.numbers, non_blocking=True)
        if trip.out:
            self._gather(True)
        for part in trip.parts:
            between = staged[first : first + len(part)]
            target, source = (part, between) if trip.out else (between, part)
            target.copy_(source, non_blocking=True)
            first += len(part)
        if not trip.out:
            self._gather(False)

    def _gather(self, out: bool) -> None:
        """Gather pages before a copy out, or scatter them after a copy in."""
        if out in self._gathers:
            self._gathers[out]()
        else:
            self._gathering(out)()

    @torch.inference_mode()
    def _record(self, out: bool) -> None:
        gather, (_, pairs) = self._gathering(out), self._stage()
        # no pages: those of an earlier copy are not copied again
        pairs.zero_()
        gather()
        # it allocates nothing, and may run beside a round although graphs share what they allocate
        self._gathers[out] = self._device.record(gather)

    def _gathering(self, out: bool) -> Callable[[], object]:
        staged, pairs = self._stage()
        # keys and values are layers all alike
        pool, between = self._pool.kv.flatten(0, 1), staged.flatten(1, 2).transpose(0, 1)
        source, target = (pool, between) if out else (between, pool)
        return partial(copy_pages, source, target, pairs[1:], pairs[0, 0], impl=fastest(pool))

    def _stage(self) -> tuple[Tensor, Tensor]:
        """Return the buffers of pages and of page numbers; both are allocated at the first copy and kept."""
        if self._staged is None:
            kv, n = self._pool.kv, self._n_staged
            pairs = kv.new_zeros((1 + n, 2), dtype=torch.int64)
            self._staged = kv.new_empty((n, *kv.shape[:2], *kv.shape[3:])), pairs
        return self._staged


def _nothing() -> None:
    """Do nothing in the main stream; copies wait for the event."""


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    """Return (first, length) of the runs of neighbours in ascending `pages`."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][0] + runs[-1][1] == page:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((page, 1))
    return runs
