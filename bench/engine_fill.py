"""What the engine benchmark needs of an engine and no other caller may have: handles of its rooms, and KV from nowhere.

With random weights the content of the cache does not matter, and its size does: the pool is filled with random numbers
once, and requests are seated as if their prompts had been filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsespec.core.batch import State
from sparsespec.core.plan import StepPlan
from sparsespec.core.view import View
from sparsespec.engine import engine as rooms
from sparsespec.engine.engine import Engine
from sparsespec.engine.executor import Executor
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.request_queue import RequestQueue
from sparsespec.engine.request_table import RequestTable
from sparsespec.engine.state import set_computed
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool
from sparsespec.sched.prefill import prefill_rows

PIECE = 1 << 26
"""Numbers that are drawn at once."""


@dataclass
class Fill:
    """How many positions of a prompt are left to the engine: 1 is enough to warm a selection up; None is all."""

    leave: int | None = 0


@dataclass(frozen=True)
class Inside:
    """Rooms of an engine: valid until its next `reset`."""

    queue: RequestQueue
    executor: Executor
    table: RequestTable
    parts: Parts
    mover: Mover
    state: State
    pool: KVPool

    @classmethod
    def of(cls, engine: Engine) -> Inside:
        """Look into an engine; the only place of the benchmarks that does."""
        executor = engine._executor
        return cls(engine._queue, executor, engine._table, engine._parts, engine._mover, executor._state, engine._pool)

    @property
    def pools(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self.pool.k, self.pool.v

    def seat_filled(self) -> Fill:
        """Let requests that take a seat have prompts filled, as far as the engine can tell; the result says how far.

        Pages are found by the tier manager as ever, when a row is first placed.
        """
        fill, seat = Fill(), self.queue._seat

        def seated(request: Request) -> None:
            seat(request)
            left = int(self.table.to_prefill[request.seat])
            filled = 0 if fill.leave is None else max(0, left - fill.leave)
            if filled:
                self.table.to_prefill[request.seat] = left - filled
                self.table.first_fill[request.seat] = left > filled
                self.executor._aside(partial(set_computed, self.state, [request.seat], filled))

        self.queue._seat = seated
        return fill


@contextmanager
def filling_first(inside: Inside, chunk: int) -> Iterator[None]:
    """Let all prompts be filled, `chunk` tokens a step, before anybody decodes, so that all begin together."""
    scheduler = inside.parts.scheduler
    plan = scheduler.plan

    def fill_first(view: View) -> StepPlan:
        return StepPlan(tuple(prefill_rows(view, chunk))) if view.to_prefill.any() else plan(view)

    scheduler.plan = fill_first
    try:
        yield
    finally:
        scheduler.plan = plan


@contextmanager
def lent(pool: KVPool) -> Iterator[None]:
    """Let engines that are made here take this pool for their own: memory does not hold two, and one of them rests."""
    made, checked = rooms.KVPool, rooms.check_room
    rooms.KVPool = lambda geometry: pool
    rooms.check_room = lambda geometry, *, laws: None
    try:
        yield
    finally:
        rooms.KVPool, rooms.check_room = made, checked


def draw_kv(inside: Inside, seed: int) -> None:
    """Fill the pool with normal numbers, in place and a piece at a time."""
    k, v = inside.pools
    generator = torch.Generator(k.device).manual_seed(seed)
    for pool in (k, v):
        for piece in pool.view(-1).split(PIECE):
            piece.normal_(generator=generator)
