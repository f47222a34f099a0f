"""`check_length`: is this a length policy? It keeps within what it promised and forgets the seats it is told to."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult, RowResults
from sparsespec.core.spec import PartLike
from sparsespec.core.view import Ints, View
from sparsespec.testing.checks.drawn_views import ViewRow, view_of
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
    """Five policies observe the same, one of them asked row by row; then one forgets seat 0, and one all seats."""
    name = type(part).__name__
    geometry = small_geometry(max_draft=part.max_draft, max_guess=part.max_guess)
    one, two, single, forgetful, newborn = (another("length", part) for _ in range(5))
    seats = range(geometry.n_seats)
    for each in (one, two, single, forgetful, newborn):
        each.bind(geometry)
        each.reset(seats)
    steps = dice.randint(0, 30)
    for step in range(steps):
        view, index = _draw_view(dice, geometry.n_seats, step)
        lengths = _propose(part, one, view, index)
        same = _propose(part, two, view, index) == lengths
        require(same, f"{name} proposes otherwise after the same history: it must not roll dice")
        alone = [_propose(part, single, view, index[[j]])[0] for j in range(len(index))]
        require(alone == lengths, f"{name} proposes {lengths} to rows together and {alone} to the same rows one by one")
        forgetful.propose(view, index)
        results = _draw_results(dice, view, index, lengths)
        if len(results):
            for each in (one, two, single, forgetful):
                each.observe(results)
    two.reset([0])
    forgetful.reset(seats)
    view = view_of(*(_draw_row(dice, seat) for seat in seats), step=steps, num_running=geometry.n_seats)
    every = np.arange(geometry.n_seats)
    answers = {each: _propose(part, each, view, every) for each in (one, two, forgetful, newborn)}
    for seat in seats:
        same = seat == 0 or answers[one][seat] == answers[two][seat]
        require(same, f"{name}.reset([0]) changed what is proposed for seat {seat}; it may forget seat 0 only")
        same = answers[forgetful][seat] == answers[newborn][seat]
        require(same, f"{name} still remembers something of seat {seat} after all seats were reset")


def _propose(part: Any, each: Any, view: View, index: Ints) -> list[Lengths]:
    """Return what `each` proposes to every row of `index`, having checked it against what `part` promised."""
    name, lengths = type(part).__name__, each.propose(view, index)
    require(isinstance(lengths, Lengths), f"{name}.propose must return Lengths, got {lengths!r}")
    columns = [np.asarray(column) for column in lengths]
    fits = all(column.shape in ((), (len(index),)) for column in columns)
    require(
        fits, f"{name} proposed {lengths} to {len(index)} rows; each is one number for all of them, or one for each"
    )
    for column, most in zip(columns, (part.max_draft, part.max_guess), strict=False):
        right = column.dtype.kind in "iu" and bool(((column >= 0) & (column <= most)).all())
        require(right, f"{name} proposed {lengths}, and promised draft <= {part.max_draft}, guess <= {part.max_guess}")
    stop = columns[2]
    right = stop.dtype.kind in "iuf" and bool(((stop >= 0) & (stop <= 1)).all())
    require(right, f"{name} proposed stop_below={lengths.stop_below!r}, which is no probability")
    listed: Any = (np.broadcast_to(column, len(index)).tolist() for column in columns)
    return list(map(Lengths._make, zip(*listed, strict=True)))


def _draw_view(dice: random.Random, n_seats: int, step: int) -> tuple[View, Ints]:
    """Return a random view, and the rows of it that begin a round, in any order."""
    rows = [_draw_row(dice, seat) for seat in dice.sample(range(n_seats), dice.randint(1, n_seats))]
    rows.sort(key=lambda row: row.arrival)
    view = view_of(*rows, step=step, num_running=dice.randint(len(rows), n_seats))
    return view, np.array(dice.sample(range(len(rows)), dice.randint(1, len(rows))))


def _draw_row(dice: random.Random, seat: int) -> ViewRow:
    n = dice.randint(1, 60)
    return ViewRow(
        seat=seat,
        arrival=dice.randint(0, 99),
        n_lo=n,
        n_hi=n + dice.randint(0, 4),
        first_round=dice.random() < 0.3,
        starved=dice.random() < 0.1,
    )


def _draw_results(dice: random.Random, view: View, index: Ints, lengths: list[Lengths]) -> RowResults:
    """Return what might be collected of rounds with these lengths, of some of the rows."""
    rows = [_draw_result(dice, view, i, one) for i, one in zip(index.tolist(), lengths, strict=True)]
    return RowResults.of([row for row in rows if dice.random() < 0.8])


def _draw_result(dice: random.Random, view: View, i: int, lengths: Lengths) -> RowResult:
    draft, guess = int(lengths.draft), int(lengths.guess)
    drafting = draft > 0 and dice.random() < 0.5
    judged = dice.randint(0, guess if drafting else max(draft, guess))
    accepted = dice.randint(0, judged)
    n_hi = view.n_hi[i].item()
    return RowResult(
        seat=view.seat[i].item(),
        phase=Phase.DRAFT if drafting else Phase.VERIFY,
        live=judged + 1,
        tokens=tuple(dice.randrange(13) for _ in range(accepted + 1)),
        n_candidates=judged,
        n_accepted=accepted,
        k=draft,
        confidence=dice.random() if drafting else math.nan,
        kv_read=dice.random() * n_hi,
        kv_full=float(n_hi),
    )
