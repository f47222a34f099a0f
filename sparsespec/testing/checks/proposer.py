"""`check_proposer`: is this a proposer? It writes its guesses behind the known tokens and nothing anywhere else."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import Outcome
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase
from sparsespec.core.spec import PartLike
from sparsespec.testing.checks.peeks import kept_promise
from sparsespec.testing.checks.stage import (
    RowAt,
    another,
    batch_of,
    make_part,
    require,
    require_untouched,
    rounds,
    small_geometry,
    snapshot,
    state_of,
)


def check_proposer(spec: PartLike | object, *, examples: int = 20, seed: int = 0) -> None:
    """Raise `ContractBroken` if the proposer breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random texts.
        seed: Seed of the texts.
    """
    part = make_part("proposer", spec)
    twin = another("proposer", part)
    geometry = small_geometry()
    for each in (part, twin):
        each.bind(geometry)
        each.reset(range(geometry.n_seats))
    for example in rounds(examples):
        _check_text(part, twin, geometry, random.Random(f"{seed}/{example}"))


def _check_text(part: Any, twin: Any, geometry: Geometry, dice: random.Random) -> None:
    name = type(part).__name__
    state = state_of(geometry, torch.Generator().manual_seed(dice.randrange(1 << 31)))
    for seat in range(geometry.n_seats):
        _repeat(state.tokens[seat], dice)
    seats = dice.sample(range(geometry.n_seats), dice.randint(1, geometry.n_seats))
    known = [dice.choice((1, 2, dice.randint(1, geometry.max_model_len - 1))) for _ in seats]
    room = [dice.randint(0, min(geometry.max_guess, geometry.max_model_len - n)) for n in known]
    call = (torch.tensor(seats), torch.tensor(known), torch.tensor(room))
    before = snapshot(state)
    with kept_promise(part):
        counts = part.propose(state, *call)
    whole = isinstance(counts, Tensor) and counts.shape == (len(seats),) and not counts.is_floating_point()
    require(whole, f"{name}.propose must return one whole number per row, got {counts!r}")
    require_untouched(state, before, f"{name}.propose", but=("tokens",))
    written = torch.zeros_like(state.tokens, dtype=torch.bool)
    for seat, n, most, count in zip(seats, known, room, counts.tolist(), strict=True):
        require(0 <= count <= most, f"{name} made {count} guesses where there was room for {most}")
        require(part.guesses or not count, f"{name} guesses, and says that it never does")
        written[seat, n : n + count] = True
    changed = state.tokens != before["tokens"]
    require(not (changed & ~written).any(), f"{name} wrote tokens that are not among its guesses")
    guesses = state.tokens[written]
    inside = not len(guesses) or bool(((guesses >= 0) & (guesses < geometry.vocab)).all())
    require(inside, f"{name} guessed tokens that are not in the vocabulary")
    after = state.tokens.clone()
    state.tokens.copy_(before["tokens"])
    again = twin.propose(state, *call)
    same = torch.equal(again, counts) and torch.equal(state.tokens, after)
    require(same, f"{name} guesses otherwise when it is asked again: a guess must follow from the tokens")
    _observe(part, twin, state, geometry, seats, dice)


def _repeat(tokens: Tensor, dice: random.Random) -> None:
    """Write text that repeats itself with small changes."""
    motif = tokens[: dice.randint(1, 9)].clone()
    text = motif.repeat(len(tokens) // len(motif) + 1)[: len(tokens)]
    kept = torch.tensor([dice.random() < 0.9 for _ in range(len(tokens))])
    tokens.copy_(torch.where(kept, text, tokens))


def _observe(part: Any, twin: Any, state: Any, geometry: Geometry, seats: list[int], dice: random.Random) -> None:
    """Let both learn from the same step, then forget the same seat."""
    rows = [RowAt(seat, Phase.VERIFY, 3, int(state.n_committed[seat]) - 1, 3, k=2) for seat in seats]
    batch = batch_of(geometry, state, rows)
    counts = torch.tensor([dice.randint(1, 3) for _ in seats])
    before = snapshot(state)
    gone = [dice.choice(seats)]
    for each in (part, twin):
        with kept_promise(each):
            each.observe(Outcome(batch, counts, torch.full_like(counts, 2)))
        each.reset(gone)
    require_untouched(state, before, f"{type(part).__name__}.observe")
