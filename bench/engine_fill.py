"""What the engine benchmark needs of an engine and no other caller may have: handles of its rooms, and KV from nowhere.

With random weights the content of the cache does not matter, and its size does: the pool is filled with random numbers
once, and requests are seated as if their prompts had been filled.
"""

from __future__ import annotations

from collections.abc import Callable
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
from sparsespec.engine.state import set_filled

PIECE = 1 << 26
"""Numbers that are drawn at once."""


@dataclass(frozen=True)
class Inside:
    """Rooms of an engine: valid until its next `reset`."""

    desk: Desk
    deck: Deck
    parts: Parts
    state: State
    pools: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, engine: Engine) -> Inside:
        """Look into an engine; the only place of the benchmarks that does."""
        deck, pool = engine._deck, engine._pool
        return cls(engine._desk, deck, engine._parts, deck._state, (pool.k, pool.v))

    def seat_filled(self) -> Callable[[], None]:
        """Let requests that take a seat have their prompts filled, as far as the engine can tell; return the end of it.

        Pages are found by the tier manager as ever, when a row is first placed.
        """
        seat = self.desk._seat

        def seated(request: Request) -> None:
            seat(request)
            filled = request.to_prefill
            request.to_prefill, request.first_fill = 0, False
            self.deck._aside(partial(set_filled, self.state, [request.seat], filled))

        def end() -> None:
            self.desk._seat = seat

        self.desk._seat = seated
        return end


def draw_kv(inside: Inside, seed: int) -> None:
    """Fill the pool with normal numbers, in place and a piece at a time."""
    k, v = inside.pools
    generator = torch.Generator(k.device).manual_seed(seed)
    for pool in (k, v):
        for piece in pool.view(-1).split(PIECE):
            piece.normal_(generator=generator)
