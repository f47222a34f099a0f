"""What the engine benchmark needs of an engine and no other caller may have: handles of its rooms, and KV from nowhere.

With random weights the content of the cache does not matter, and its size does: the pool is filled with random numbers
once, and requests are seated as if their prompts had been filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsespec.core.batch import State
from sparsespec.engine.deck import Deck
from sparsespec.engine.desk import Desk
from sparsespec.engine.engine import Engine
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.roster import Roster
from sparsespec.engine.state import set_filled
from sparsespec.kv.mover import Mover

PIECE = 1 << 26
"""Numbers that are drawn at once."""


@dataclass
class Fill:
    """How many positions of a prompt are left to the engine: 1 is enough to warm a selection up; None is all."""

    leave: int | None = 0


@dataclass(frozen=True)
class Inside:
    """Rooms of an engine: valid until its next `reset`."""

    desk: Desk
    deck: Deck
    roster: Roster
    parts: Parts
    mover: Mover
    state: State
    pools: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, engine: Engine) -> Inside:
        """Look into an engine; the only place of the benchmarks that does."""
        deck, pool = engine._deck, engine._pool
        return cls(engine._desk, deck, engine._roster, engine._parts, engine._mover, deck._state, (pool.k, pool.v))

    def seat_filled(self) -> Fill:
        """Let requests that take a seat have prompts filled, as far as the engine can tell; the result says how far.

        Pages are found by the tier manager as ever, when a row is first placed.
        """
        fill, seat = Fill(), self.desk._seat

        def seated(request: Request) -> None:
            seat(request)
            left = int(self.roster.to_prefill[request.seat])
            filled = 0 if fill.leave is None else max(0, left - fill.leave)
            if filled:
                self.roster.to_prefill[request.seat] = left - filled
                self.roster.first_fill[request.seat] = left > filled
                self.deck._aside(partial(set_filled, self.state, [request.seat], filled))

        self.desk._seat = seated
        return fill


def draw_kv(inside: Inside, seed: int) -> None:
    """Fill the pool with normal numbers, in place and a piece at a time."""
    k, v = inside.pools
    generator = torch.Generator(k.device).manual_seed(seed)
    for pool in (k, v):
        for piece in pool.view(-1).split(PIECE):
            piece.normal_(generator=generator)
