"""Streams of rounds made by hand for lengths that learn: what is collected of them, and what is accepted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult, RowResults
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of
from sparsespec.testing.checks.stage import small_geometry


def verified(accepted: int, judged: int, *, k: int | None = None, seat: int = 0) -> RowResult:
    """Return a verification of `judged` candidates, of which some were accepted."""
    return RowResult(
        seat=seat,
        phase=Phase.VERIFY,
        live=judged + 1,
        tokens=(0,) * (accepted + 1),
        n_candidates=judged,
        n_accepted=accepted,
        k=judged if k is None else k,
        confidence=float("nan"),
        kv_read=1000.0,
        kv_full=1000.0,
    )


def drafted(share: float, n: int = 1, *, seat: int = 0) -> RowResult:
    """Return a DRAFT row that read a share of its context and drew `n` tokens."""
    return verified(n - 1, n - 1, k=8, seat=seat)._replace(phase=Phase.DRAFT, kv_read=1000.0 * share)


def bound(part: Any, n_seats: int = 64, **sizes: Any) -> Any:
    pages = {"n_seats": n_seats, "max_model_len": 40960, "num_gpu_blocks": 2}
    part.bind(small_geometry(max_draft=part.max_draft, max_guess=part.max_guess, **(pages | sizes)))
    part.reset(range(n_seats))
    return part


def propose(part: Any, row: ViewRow = BLANK, *, step: int = 0, running: int = 1) -> Lengths:
    """Return what `part` proposes to one row, as plain numbers."""
    lengths = part.propose(view_of(row, step=step, num_running=running), np.array([0]))
    return Lengths._make(np.broadcast_to(column, 1).item() for column in lengths)


def observe(part: Any, *results: RowResult) -> None:
    """Let `part` observe results, all of one step."""
    part.observe(RowResults.of(results))


def stream(
    part: Any, accept: Callable[[int], int], rounds: int, *, running: int = 1, seat: int = 0, since: int = 0
) -> Iterator[Lengths]:
    """Yield what `part` proposes to a seat in each round, of which `accept(candidates)` are accepted; a step each."""
    for step in range(since, since + rounds):
        lengths = propose(part, BLANK._replace(seat=seat, n_lo=4000, n_hi=4000), step=step, running=running)
        yield lengths
        for _ in range(int(lengths.draft)):
            observe(part, drafted(0.05, seat=seat))
        judged = int(lengths.draft or lengths.guess)
        observe(part, verified(accept(judged), judged, k=int(lengths.draft), seat=seat))


def verify(chance: float, dice: random.Random) -> Callable[[int], int]:
    """Return a function that accepts each candidate with `chance`, once those before it were."""

    def accept(judged: int) -> int:
        return next((i for i in range(judged) if dice.random() >= chance), judged)

    return accept
