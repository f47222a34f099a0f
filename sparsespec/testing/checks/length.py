"""`check_length`: is this a length policy? It keeps within what it promised and forgets whom it is told to."""

from __future__ import annotations

import math
import random
from typing import Any

from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.core.spec import PartLike
from sparsespec.core.view import RowView
from sparsespec.testing.checks.stage import another, make_part, require, rounds, small_geometry


def check_length(spec: PartLike | object, *, examples: int = 20, seed: int = 0) -> None:
    """Raise `ContractBroken` if the length policy breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random histories.
        seed: Seed of the histories.
    """
    part = make_part("length", spec)
    for limit in ("max_draft", "max_guess"):
        value = getattr(part, limit)
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        require(right, f"{type(part).__name__}.{limit} must be a whole number, got {value!r}")
    for example in rounds(examples):
        _check_history(part, random.Random(f"{seed}/{example}"))


def _check_history(part: Any, dice: random.Random) -> None:
    """Four policies hear the same; one then forgets seat 0, one forgets everybody."""
    name = type(part).__name__
    geometry = small_geometry(max_draft=part.max_draft, max_guess=part.max_guess)
    one, two, forgetful, newborn = (another("length", part) for _ in range(4))
    seats = range(geometry.n_seats)
    for each in (one, two, forgetful, newborn):
        each.bind(geometry)
        each.reset(seats)
    for _ in range(dice.randint(0, 30)):
        row = _row(dice, dice.choice(seats), geometry.n_seats)
        lengths = one.propose(row)
        _check_lengths(name, part, lengths)
        require(two.propose(row) == lengths, f"{name} proposes otherwise after the same history: it must not roll dice")
        forgetful.propose(row)
        result = _result(dice, row, lengths)
        for each in (one, two, forgetful):
            each.observe(result)
    two.reset([0])
    forgetful.reset(seats)
    for seat in seats:
        row = _row(dice, seat, geometry.n_seats)
        same = seat == 0 or one.propose(row) == two.propose(row)
        require(same, f"{name}.reset([0]) changed what is proposed for seat {seat}; it may forget seat 0 only")
        same = forgetful.propose(row) == newborn.propose(row)
        require(same, f"{name} still remembers something of seat {seat} after all seats were reset")


def _check_lengths(name: str, part: Any, lengths: object) -> None:
    require(isinstance(lengths, Lengths), f"{name}.propose must return Lengths, got {lengths!r}")
    assert isinstance(lengths, Lengths)
    for value, most in ((lengths.draft, part.max_draft), (lengths.guess, part.max_guess)):
        right = isinstance(value, int) and 0 <= value <= most
        require(right, f"{name} proposed {lengths}, and promised draft <= {part.max_draft}, guess <= {part.max_guess}")
    stop = lengths.stop_below
    right = isinstance(stop, int | float) and 0 <= stop <= 1
    require(right, f"{name} proposed stop_below={stop!r}, which is no probability")


def _row(dice: random.Random, seat: int, n_seats: int) -> RowView:
    n = dice.randint(1, 60)
    fresh = dice.random() < 0.3
    return RowView(
        seat=seat,
        arrival=dice.randint(0, 99),
        to_prefill=0,
        n_lo=n,
        n_hi=n + dice.randint(0, 4),
        d_lo=0,
        d_hi=0,
        k=0,
        guess=0,
        first_round=fresh,
        starved=dice.random() < 0.1,
        must_verify=False,
        pages=dice.randint(0, 16),
        shared_pages=0,
        accepted_mean=math.nan if fresh else dice.random() * 8,
        confidence=math.nan if fresh else dice.random(),
        waiting_since=dice.randint(0, 99),
        running=dice.randint(1, n_seats),
    )


def _result(dice: random.Random, row: RowView, lengths: Lengths) -> RowResult:
    """Return what might be heard of a round with these lengths."""
    drafting = lengths.draft > 0 and dice.random() < 0.5
    judged = dice.randint(0, lengths.guess if drafting else max(lengths.draft, lengths.guess))
    stood = dice.randint(0, judged)
    return RowResult(
        seat=row.seat,
        phase=Phase.DRAFT if drafting else Phase.VERIFY,
        live=judged + 1,
        tokens=tuple(dice.randrange(13) for _ in range(stood + 1)),
        n_candidates=judged,
        n_accepted=stood,
        k=lengths.draft,
        confidence=dice.random() if drafting else math.nan,
        kv_read=dice.random() * row.n_hi,
        kv_full=float(row.n_hi),
    )
