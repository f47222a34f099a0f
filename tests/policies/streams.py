"""Streams of rounds made by hand for lengths that learn: what is heard of them, and what stands."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.testing.checks.drawn_views import BLANK
from sparsespec.testing.checks.stage import small_geometry


def verified(accepted: int, judged: int, *, k: int | None = None, seat: int = 0) -> RowResult:
    """Return a verification of `judged` candidates, of which `accepted` stood."""
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
    pages = {"n_seats": n_seats, "max_context": 40960, "n_pages": 2}
    part.bind(small_geometry(max_draft=part.max_draft, max_guess=part.max_guess, **(pages | sizes)))
    part.reset(range(n_seats))
    return part


def stream(
    part: Any, stands: Callable[[int], int], rounds: int, *, running: int = 1, seat: int = 0, since: int = 0
) -> Iterator[Lengths]:
    """Yield what `part` proposes to a seat in each round, of which `stands(candidates)` are accepted; a step each."""
    for step in range(since, since + rounds):
        lengths = part.propose(BLANK._replace(seat=seat, n_lo=4000, n_hi=4000, waiting_since=step, running=running))
        yield lengths
        for _ in range(lengths.draft):
            part.observe(drafted(0.05, seat=seat))
        judged = lengths.draft or lengths.guess
        part.observe(verified(stands(judged), judged, k=lengths.draft, seat=seat))


def chain(chance: float, dice: random.Random) -> Callable[[int], int]:
    """Return a function that lets each candidate stand with `chance`, once those before it did."""

    def stands(judged: int) -> int:
        return next((i for i in range(judged) if dice.random() >= chance), judged)

    return stands
